"""The metric and its settings are those of the config."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmpose.evaluation.metrics import CocoMetric, CocoWholeBodyMetric
from mmpose.registry import METRICS, TRANSFORMS

from mmpose_batch.evaluation.metric import PARTS, ScoringOptions, other_metrics

pytestmark = pytest.mark.usefixtures('mmpose_scope')

COCO_METRIC = {'type': 'CocoMetric', 'score_mode': 'bbox', 'nms_mode': 'none'}
BBOX = ScoringOptions('bbox', nms_mode='none')
EVALUATORS = {
    'none': (None, ScoringOptions(), []),
    'a CocoMetric': (COCO_METRIC, BBOX, []),
    'by its class': ({**COCO_METRIC, 'type': CocoMetric}, BBOX, []),
    'with a scope': ({**COCO_METRIC, 'type': 'mmpose.CocoMetric'}, BBOX, []),
    'one of several': ([{'type': 'PCKAccuracy'}, COCO_METRIC], BBOX, []),
    'of several datasets': (
        {'type': 'MultiDatasetEvaluator', 'metrics': [COCO_METRIC], 'datasets': []},
        BBOX,
        [],
    ),
    'another': ({'type': 'PCKAccuracy', 'thr': 1}, ScoringOptions(), ['PCKAccuracy']),
    'others': (
        [{'type': 'PCKAccuracy'}, {'type': 'AUC'}],
        ScoringOptions(),
        ['PCKAccuracy', 'AUC'],
    ),
    'CrowdPose': (
        {'type': 'CocoMetric', 'use_area': False, 'iou_type': 'keypoints_crowd', 'prefix': 'x'},
        ScoringOptions(use_area=False, iou_type='keypoints_crowd'),
        [],
    ),
    'a whole body': (
        {'type': 'CocoWholeBodyMetric', 'ann_file': 'x.json'},
        ScoringOptions(whole_body=True),
        [],
    ),
    'a converter': (
        {'type': 'CocoMetric', 'gt_converter': {'num_keypoints': 3, 'mapping': []}},
        ScoringOptions(converters=('gt_converter',)),
        [],
    ),
}


@pytest.mark.parametrize(('evaluator', 'expected', 'others'), EVALUATORS.values(), ids=EVALUATORS)
def test_the_metric_is_that_of_the_config(evaluator, expected, others):
    cfg = Config({'test_evaluator': evaluator})
    assert ScoringOptions.from_config(cfg) == expected
    assert other_metrics(cfg) == others


def test_a_config_without_an_evaluator_is_scored_by_defaults():
    assert ScoringOptions.from_config(Config({})) == ScoringOptions()


UNKNOWN = {
    'score_mode': 'box',
    'nms_mode': 'nms',
    'iou_type': 'bbox',
    'use_area': None,
    'nms_thr': 'high',
    'keypoint_score_thr': None,
}


@pytest.mark.parametrize(('name', 'value'), UNKNOWN.items(), ids=UNKNOWN)
def test_an_invalid_setting_of_the_metric_is_an_error(name, value):
    with pytest.raises(ValueError, match=f'test_evaluator: {name}: expected .*, found {value!r}'):
        ScoringOptions.from_config(Config({'test_evaluator': {**COCO_METRIC, name: value}}))


NO_METRICS = ['foo', 3, ['CocoMetric'], {'score_mode': 'bbox'}, [COCO_METRIC, None, 3]]


@pytest.mark.parametrize('evaluator', NO_METRICS)
@pytest.mark.parametrize('read', [ScoringOptions.from_config, other_metrics])
def test_an_evaluator_that_names_no_metric_is_an_error(evaluator, read):
    message = r'^test_evaluator: expected dict\(type=.*, found '
    with pytest.raises(ValueError, match=message) as raised:
        read(SimpleNamespace(get={'test_evaluator': evaluator}.get))
    assert '\n' not in str(raised.value)


BODY = 'body_2d_keypoint'
CONFIGS = {
    'CrowdPose, top-down': f'{BODY}/rtmpose/crowdpose/rtmpose-m_8xb64-210e_crowdpose-256x192',
    'CrowdPose, one-stage': f'{BODY}/rtmo/crowdpose/rtmo-m_16xb16-700e_crowdpose-640x640',
    'AIC': f'{BODY}/topdown_heatmap/aic/td-hm_hrnet-w32_8xb64-210e_aic-256x192',
    'AP-10K': 'animal_2d_keypoint/rtmpose/ap10k/rtmpose-m_8xb64-210e_ap10k-256x256',
    'COCO-WholeBody': 'wholebody_2d_keypoint/rtmpose/coco-wholebody/'
    'rtmpose-m_8xb64-270e_coco-wholebody-256x192',
    'regression': f'{BODY}/topdown_regression/coco/'
    'td-reg_mobilenetv2_rle-pretrained-8xb64-210e_coco-256x192',
}
READS = {
    'CrowdPose, top-down': ('crowdIndex', 'num_keypoints'),
    'CrowdPose, one-stage': ('crowdIndex', 'num_keypoints'),
    'AIC': (),
    'COCO-WholeBody': ('area', *list(PARTS)[1:]),
}


@pytest.fixture(scope='module', params=CONFIGS)
def config(request: pytest.FixtureRequest) -> tuple[str, Config]:
    """Name and content of one of MMPose's own configs."""
    folder = Path(BaseInferencer._get_repo_or_mim_dir('mmpose')) / 'configs'
    return request.param, Config.fromfile(folder / f'{CONFIGS[request.param]}.py')


def test_settings_are_those_of_the_metric_that_mmpose_builds(config):
    name, cfg = config
    evaluator = {**cfg.test_evaluator}
    evaluator.pop('ann_file', None)  # that file does not exist here
    metric = METRICS.build(evaluator)
    scoring = ScoringOptions.from_config(cfg)
    for setting in (
        *('use_area', 'iou_type', 'score_mode', 'keypoint_score_thr', 'nms_mode', 'nms_thr'),
    ):
        assert getattr(scoring, setting) == getattr(metric, setting)
    assert scoring.whole_body == isinstance(metric, CocoWholeBodyMetric)
    assert scoring.reads == READS.get(name, ('area',))


def test_areas_are_those_of_the_crops_of_the_test_pipeline(config):
    _, cfg = config
    boxes = np.array([[10.0, 20.0, 30.0, 90.0], [0.0, 0.0, 80.0, 20.0]])
    areas = ScoringOptions.from_config(cfg).areas(boxes)
    if cfg.data_mode == 'bottomup':
        assert areas is None
    else:
        assert areas == pytest.approx([crop_area(cfg, box) for box in boxes], rel=1e-5)


def crop_area(cfg: Config, box: np.ndarray) -> float:
    """Result of the pipeline for a box (x, y, width, height)."""
    x, y, width, height = box
    info: dict[str, Any] = {'img': np.zeros((2, 2, 3), np.uint8)}
    info['bbox'] = np.float32([[x, y, x + width, y + height]])
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type in ('GetBBoxCenterScale', 'TopdownAffine'):
            info = TRANSFORMS.build(step).transform(info)
    return float(np.prod(info['bbox_scale']))


def test_parts_are_those_of_the_whole_body_metric():
    kind = CocoWholeBodyMetric
    numbers = [kind.body_num, kind.foot_num, kind.face_num, kind.left_hand_num, kind.right_hand_num]
    assert list(PARTS.values()) == numbers
    scoring = ScoringOptions(whole_body=True)
    assert scoring.parts(sum(numbers)) == PARTS
    assert scoring.parts(17) is None
    assert ScoringOptions().parts(133) is None
