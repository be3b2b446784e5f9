"""Errors in configs are reported before building, in one line that names the field."""

import builtins
import copy
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpose.apis.inferencers.utils import default_det_models
from mmpose.datasets.transforms import LoadImage
from mmpose.models.heads import HeatmapHead, RegressionHead
from support.tiny import TinyModel, detector_config, picture, save, top_down_config
from torch import nn

from mmpose_batch import BatchPose2DInferencer, CheckpointError
from mmpose_batch.models.checks.configs import check_pose_config, check_same_kind
from mmpose_batch.models.checks.detectors import check_detector_config
from mmpose_batch.models.checks.fields import naming, reason
from mmpose_batch.models.checks.keypoints import check_keypoints, check_pose_model, dataset_kind
from mmpose_batch.models.checks.pipelines import check_loader, check_packs
from mmpose_batch.models.names import build_model, load_config

PIPELINE = 'test_dataloader.dataset.pipeline'
METAINFO = 'train_dataloader.dataset.metainfo'
DELETED = object()


def change(cfg: Config, path: str, value: Any) -> Config:
    """Set or delete the field at dotted keys."""
    *parents, last = path.split('.')
    place = cfg
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    last = int(last) if isinstance(place, list) else last
    if value is DELETED:
        place.pop(last)
    else:
        place[last] = value
    return cfg


def metainfo(**changes: Any) -> dict[str, Any]:
    """A description of two custom keypoints, as in a config."""
    complete = {
        'dataset_name': 'mine',
        'keypoint_info': {0: {'name': 'a', 'swap': 'b'}, 1: {'name': 'b', 'swap': 'a'}},
        'skeleton_info': {0: {'link': ('a', 'b')}},
        'joint_weights': [1.0, 1.0],
        'sigmas': [0.05, 0.05],
    }
    return {k: v for k, v in {**complete, **changes}.items() if v is not DELETED}


@pytest.fixture
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODELS, 'build', lambda cfg: pytest.fail('built'))


def assert_one_plain_line(error: BaseException) -> None:
    assert '\n' not in str(error)
    assert "'NoneType'" not in str(error)
    assert not str(error).endswith(': ')


# -------------------------------------------------------------------------------- pose


WRONG = {
    'no sigmas': (METAINFO, metainfo(sigmas=DELETED), f'{METAINFO}: .*found no sigmas'),
    'no weights': (METAINFO, metainfo(joint_weights=DELETED), 'found no joint_weights'),
    'no skeleton': (METAINFO, metainfo(skeleton_info=DELETED), 'found no skeleton_info'),
    'no keypoints': (METAINFO, metainfo(keypoint_info=DELETED), 'found no keypoint_info'),
    'metainfo of a list': (METAINFO, [1], f'{METAINFO}: expected a dict'),
    'a link to nowhere': (
        METAINFO,
        metainfo(skeleton_info={0: {'link': ('a', 'hip')}}),
        f"{METAINFO}: .*'hip' is missing, .* keypoint that swap or link refer to",
    ),
    'a keypoint without name': (METAINFO, metainfo(keypoint_info={0: {}}), "'name' is missing"),
    'no metainfo file': (METAINFO, {'from_file': 'no.py'}, f'{METAINFO}: .*no.py'),
    'no train_dataloader': ('train_dataloader', DELETED, f'dataset_meta: .*{METAINFO}.*neither'),
    'a train dataset of others': (
        'train_dataloader.dataset.type',
        'MyDataset',
        'dataset_meta: .*a dataset of unknown type MyDataset',
    ),
    'no model': ('model', DELETED, 'model: expected a config with a model, found one without'),
    'a model of a list': ('model', [1], r'model: expected model=dict\(type=...\)'),
    'no model.type': ('model.type', DELETED, 'model.type: expected the name of a pose'),
    'no backbone': ('model.backbone', None, 'model.backbone: expected dict'),
    'head=None': ('model.head', None, 'model.head: expected dict'),
    'no head': ('model.head', DELETED, 'model.head: expected dict'),
    'a package that is missing': (
        'default_scope',
        'mmyolo',
        "default_scope 'mmyolo', a package that is not installed",
    ),
    'no data_mode': ('data_mode', DELETED, 'data_mode topdown or bottomup, found None'),
    'no test_dataloader': ('test_dataloader', DELETED, f'model: .* as {PIPELINE}, found none'),
    'no pipeline': (PIPELINE, DELETED, f'model: .* as {PIPELINE}, found none'),
    'an empty pipeline': (PIPELINE, [], rf'model: .* as {PIPELINE}, found \[\]'),
    'one step for a pipeline': (PIPELINE, {'type': 'LoadImage'}, 'expected a list of transforms'),
    'an unknown step': (f'{PIPELINE}.1.type', 'Nope', f'{PIPELINE} cannot be built: no Nope in'),
    'a step without type': (f'{PIPELINE}.1', {}, f'{PIPELINE} cannot be built: .*no type'),
    'no packing': (f'{PIPELINE}.3', DELETED, f'last step in {PIPELINE} that packs'),
    'an unknown visualizer': ('visualizer.type', 'Nope', 'visualizer.type .*found .Nope.'),
    'a visualizer that draws no poses': ('visualizer.type', 'Visualizer', 'PoseLocalVisualizer'),
    'an unknown collate_fn': (
        'test_dataloader.collate_fn',
        {'type': 'nope'},
        'test_dataloader.collate_fn: expected the name',
    ),
    'an inferencer of 3': ('inferencer', 3, 'inferencer: expected a dict, found 3'),
    'thresholds of 3': ('default_filters', 3, 'default_filters: expected a dict, found 3'),
}


@pytest.mark.usefixtures('nothing_is_built')
@pytest.mark.parametrize(('path', 'value', 'message'), WRONG.values(), ids=WRONG)
def test_an_invalid_pose_config_is_a_one_line_error_before_building(path, value, message):
    cfg = change(top_down_config(), path, value)
    with pytest.raises(ValueError, match=message) as raised:
        BatchPose2DInferencer(cfg, 'none', device='cpu', det_model='whole_image')
    assert_one_plain_line(raised.value)


BROKEN = {
    'an unknown model': ('model.type', 'TopdownPoser', 'model: .*no TopdownPoser in the mmpose'),
    'an unknown backbone': ('model.backbone.type', 'Nope', 'model: .*no Nope in the mmdet'),
    'a backbone of another package': (
        'model.backbone',
        {'type': 'mmpretrain.ConvNeXt'},
        'model: .*no mmpretrain.ConvNeXt in the .*install its package',
    ),
    'an unknown codec': ('model.head.decoder.type', 'Nope', 'model: .*no Nope in the .*CODECS'),
    'no codec': ('model.head.decoder', None, 'model.head.decoder: .*RTMCCHead'),
    'an unknown argument': ('model.backbone.nope', 1, 'model: cannot be built.*TypeError.*nope'),
    'no preprocessor': ('model.data_preprocessor', DELETED, 'expected model.data_preprocessor'),
}


@pytest.mark.parametrize(('path', 'value', 'message'), BROKEN.values(), ids=BROKEN)
def test_a_pose_model_that_cannot_be_built_or_predict_is_a_one_line_error(path, value, message):
    init_default_scope('mmpose')
    cfg = change(top_down_config(), path, value)
    with pytest.raises(ValueError, match=message) as raised:
        build_model(cfg, None, 'cpu', lambda *_: pytest.fail('finished'))
    assert_one_plain_line(raised.value)


def test_a_third_party_model_needs_a_head():
    with pytest.raises(ValueError, match=r'model.head: expected .*, found none in Linear'):
        check_pose_model(nn.Linear(1, 1))


heatmap_head = partial(HeatmapHead, 2, deconv_out_channels=None)
UDP = {'type': 'UDPHeatmap', 'input_size': (8, 8), 'heatmap_size': (4, 4), 'sigma': 2}
HEADS = {
    'channels': (partial(heatmap_head, out_channels=3), {}, 3, True),
    'other channels': (partial(heatmap_head, out_channels=3), {}, 5, False),
    'one of UDP': (partial(heatmap_head, out_channels=9, decoder=UDP), {}, 3, False),
    'three of UDP': (
        partial(heatmap_head, out_channels=9, decoder={**UDP, 'heatmap_type': 'combined'}),
        {},
        3,
        True,
    ),
    'joints': (partial(RegressionHead, 2, 3), {}, 3, True),
    'other joints': (partial(RegressionHead, 2, 3), {}, 5, False),
    'some': (partial(heatmap_head, out_channels=5), {'output_keypoint_indices': [0]}, 3, True),
    'a third-party head': (partial(SimpleNamespace, out_channels=3), {}, 5, True),
}


@pytest.mark.parametrize(('head', 'test_cfg', 'number', 'fits'), HEADS.values(), ids=HEADS)
def test_a_model_has_as_many_keypoints_as_described(head, test_cfg, number, fits):
    model = SimpleNamespace(head=head(), test_cfg=test_cfg)
    error = pytest.raises(CheckpointError, match=f'own.pth: expected num_.*, found {number}$')
    with nullcontext() if fits else error:
        check_keypoints(model, {'num_keypoints': number}, 'own.pth')


def test_custom_keypoints_and_third_party_heads_are_accepted():
    cfg = change(top_down_config(), METAINFO, metainfo())
    cfg.custom_field = 1
    check_pose_config(cfg)
    check_pose_config(cfg.to_dict())
    check_packs([lambda results: results], 'model')


@pytest.mark.parametrize('given', [DELETED, None, 'MyDataset', 3])
def test_without_a_known_dataset_there_is_no_default_detector(given):
    cfg = change(top_down_config(), 'dataset_type', given)
    with pytest.raises(ValueError, match=r'dataset_type: .* or pass a det_model') as raised:
        BatchPose2DInferencer(cfg, 'none', device='cpu')
    assert_one_plain_line(raised.value)


def test_a_dataset_may_be_a_class():
    from mmpose.datasets import AP10KDataset

    assert dataset_kind({'dataset_type': AP10KDataset}) == 'animal'


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'backend_args': {'backend': 'nope'}}, 'cannot read files with .*nope'),
        ({'backend_args': {'backend': 'local', 'x': 1}}, 'cannot read files with .*TypeError'),
        ({'file_client_args': {'backend': 'nope'}}, 'cannot read files with .*nope'),
        ({'imdecode_backend': 'nope'}, "imdecode_backend 'nope' .*not supported"),
        ({'color_type': 'pink'}, "color_type 'pink'"),
    ],
)
def test_a_loader_that_cannot_read_is_a_one_line_error(settings, message):
    with pytest.raises(ValueError, match=f'{PIPELINE}: .*{message}') as raised:
        check_loader(LoadImage(**settings))
    assert_one_plain_line(raised.value)


def test_the_loader_is_checked_with_the_first_file(one_stage: TinyModel, tmp_path):
    """MMPose has configs for its internal storage, which still work with arrays."""
    cfg = copy.deepcopy(one_stage.cfg)
    change(cfg, f'{PIPELINE}.0.backend_args', {'backend': 'petrel'})
    inferencer = TinyModel(cfg, one_stage.weights).ours()
    assert len(list(inferencer([picture(40, 30)]))) == 1
    path = save(tmp_path / 'a.png', picture(40, 30))
    with pytest.raises(
        ValueError, match=r'petrel.*; use None for local files: ImportError: .*petrel'
    ):
        list(inferencer([path, path]))


@pytest.mark.parametrize('decoder', ['turbojpeg', 'tifffile'])
def test_a_decoder_that_is_not_installed_is_named(monkeypatch, decoder):
    loader = LoadImage(imdecode_backend=decoder)
    monkeypatch.setattr('mmcv.image.io.TurboJPEG', None)
    monkeypatch.setattr('mmcv.image.io.tifffile', None)
    with pytest.raises(ValueError, match=f"'{decoder}' .*it is not installed"):
        check_loader(loader)


@pytest.mark.parametrize(
    'settings', [{}, {'imdecode_backend': 'pillow'}, {'color_type': 'grayscale'}]
)
def test_loaders_that_work_are_accepted(settings):
    check_loader(LoadImage(**settings, backend_args={'backend': 'local'}))


@pytest.mark.parametrize('value', [DELETED, None], ids=['left out', 'None'])
def test_a_config_needs_no_visualizer(top_down: TinyModel, tmp_path, value):
    """Upstream's default is used, for the pose model and the detector."""
    cfg, detector = (
        change(each, 'visualizer', value) for each in (top_down_config(), detector_config())
    )
    inferencer = BatchPose2DInferencer(
        cfg, top_down.weights, device='cpu', det_model=detector, det_weights='none', num_workers=0
    )
    path = save(tmp_path / 'a.png', picture(40, 30))
    (result,) = inferencer(path, return_vis=True, draw_bbox=True)
    assert result['visualization'][0].shape == (30, 40, 3)


# ---------------------------------------------------------------------------- detector

WRONG_DETECTORS = {
    'no model': ('model', DELETED, 'expected a config with a model'),
    'no model.type': ('model.type', DELETED, 'model.type: expected .*found None'),
    'an unknown model': ('model.type', 'Nope', "model.type: .*mmdet::model .*found 'Nope'"),
    'a model of another package': ('model.type', 'mmyolo.YOLODetector', "found 'mmyolo.YOLODet"),
    'a package that is missing': ('default_scope', 'mmyolo', 'mmyolo.* is not installed'),
    'no test_dataloader': ('test_dataloader', DELETED, f'as {PIPELINE}, found none'),
    'no pipeline': (PIPELINE, DELETED, f'as {PIPELINE}, found none'),
    'an empty pipeline': (PIPELINE, [], rf'as {PIPELINE}, found \[\]'),
    'no packing': (f'{PIPELINE}.-1', DELETED, f'last step in {PIPELINE} that packs'),
    'an unknown step': (f'{PIPELINE}.1.type', 'Nope', f'{PIPELINE} cannot be built: no Nope'),
    'no loader': (f'{PIPELINE}.0', DELETED, f'LoadImageFromFile in {PIPELINE}'),
    'an unknown dataset': ('test_dataloader.dataset.type', 'Nope', "dataset.type: .*found 'Nope'"),
    'no dataset': ('test_dataloader.dataset.type', DELETED, 'dataset.type: .*found None'),
    'an unknown visualizer': ('visualizer.type', 'Nope', 'visualizer.type .*found .Nope.'),
}


@pytest.mark.usefixtures('nothing_is_built')
@pytest.mark.parametrize(
    ('path', 'value', 'message'), WRONG_DETECTORS.values(), ids=WRONG_DETECTORS
)
def test_an_invalid_detector_is_a_one_line_error_before_building(path, value, message):
    detector = change(detector_config(), path, value)
    with pytest.raises(ValueError, match=f'det_model: .*{message}') as raised:
        BatchPose2DInferencer(
            top_down_config(), 'none', device='cpu', det_model=detector, det_weights='none'
        )
    assert_one_plain_line(raised.value)


@pytest.mark.usefixtures('nothing_is_built')
@pytest.mark.parametrize(
    ('settings', 'error', 'message'),
    [
        ({'det_weights': 'no.pth'}, CheckpointError, 'det_weights: no such file: no.pth'),
        ({'det_cat_ids': [1, 2]}, ValueError, 'det_cat_ids: expected integers < 1, .*found 1, 2'),
        ({'det_cat_ids': [0, 1]}, ValueError, 'det_cat_ids: expected integers < 1, .*found 0, 1'),
        ({'det_cat_ids': -1}, ValueError, 'det_cat_ids: expected integers >= 0, found -1'),
        ({'det_cat_ids': [0, -3]}, ValueError, 'det_cat_ids: expected integers .*, found 0, -3'),
        ({'det_cat_ids': [0.5]}, ValueError, 'det_cat_ids: expected integers .*, found 0.5'),
        ({'det_cat_ids': [True]}, ValueError, 'det_cat_ids: expected integers .*, found True'),
        ({'det_cat_ids': 'person'}, ValueError, 'det_cat_ids: expected integers .*, found person'),
        (
            {'det_model': top_down_config()},
            ValueError,
            'det_model: expected .* of a pose model, TopdownPoseEstimator',
        ),
        ({'weights': 'no.pth'}, CheckpointError, '^weights: no such file: no.pth'),
        ({'device': 'abacus'}, ValueError, 'device: abacus cannot be used: RuntimeError: .*abacus'),
        ({'device': 'cuda:99'}, ValueError, 'device: cuda:99 cannot be used: '),
        ({'model': detector_config()}, ValueError, 'model: expected .* of a pose model'),
    ],
)
def test_invalid_options_are_rejected_before_building(settings, error, message):
    usual = {'weights': 'none', 'det_weights': 'none', 'device': 'cpu'}
    models = {'model': top_down_config(), 'det_model': detector_config()}
    with pytest.raises(error, match=message) as raised:
        BatchPose2DInferencer(**{**models, **usual, **settings})
    assert_one_plain_line(raised.value)


BROKEN_DETECTORS = {
    'a dataset with an unknown argument': (
        'test_dataloader.dataset.nope',
        1,
        'test_dataloader.dataset cannot be built: .*nope',
    ),
    'no preprocessor': ('model.data_preprocessor', DELETED, 'expected model.data_preprocessor'),
    'no bbox_head': ('model.bbox_head', DELETED, 'cannot be built .*bbox_head'),
}


@pytest.mark.parametrize(
    ('path', 'value', 'message'), BROKEN_DETECTORS.values(), ids=BROKEN_DETECTORS
)
def test_a_detector_that_cannot_be_built_is_a_one_line_error(
    top_down: TinyModel, path, value, message
):
    detector = change(detector_config(), path, value)
    with pytest.raises(ValueError, match=f'det_model: .*{message}') as raised:
        BatchPose2DInferencer(
            top_down.cfg, 'none', device='cpu', det_model=detector, det_weights='none'
        )
    assert_one_plain_line(raised.value)


def test_category_ids_of_a_two_stage_detector_are_checked():
    cfg = detector_config()
    cfg.model = {'type': 'FasterRCNN', 'roi_head': {'bbox_head': {'num_classes': 3}}}
    check_detector_config(cfg, [0, np.int64(2)])
    with pytest.raises(ValueError, match=r'det_cat_ids: expected integers < 3, .*, found 3'):
        check_detector_config(cfg, 3)


@pytest.mark.parametrize(
    ('device', 'operators', 'accepted'),
    [('cpu', False, True), ('cuda:1', False, False), ('cuda:1', True, True)],
)
def test_a_two_stage_detector_on_a_gpu_needs_operators_of_mmcv(
    monkeypatch, device, operators, accepted
):
    version = '13.0' if operators else 'not available'
    monkeypatch.setattr('mmcv.ops.get_compiling_cuda_version', lambda: version)
    cfg, _ = load_config('faster-rcnn_r50_fpn_1x_coco', 'mmdet')
    if accepted:
        check_detector_config(cfg, 0, device)
        return
    with pytest.raises(ValueError, match='FasterRCNN is a two-stage detector') as raised:
        check_detector_config(cfg, 0, device)
    assert 'single-stage detector, such as rtmdet-m, or an mmcv with CUDA' in str(raised.value)
    assert_one_plain_line(raised.value)
    check_detector_config(detector_config(), 0, device)  # a single-stage detector


def test_checking_several_gpus_allocates_on_none(monkeypatch):
    monkeypatch.setattr(torch, 'empty', lambda *_, **__: pytest.fail('a context'))
    names = {'cuda:0': 'H100', 'cuda:1': 'H200'}
    monkeypatch.setattr(torch.cuda, 'get_device_name', names.__getitem__)
    check_same_kind(['cuda:0', 'cuda:0'])
    with pytest.raises(ValueError, match=r'expected equal GPUs, .*found H100 and H200'):
        check_same_kind(['cuda:0', 'cuda:1'])
    with pytest.raises(ValueError, match='device: cuda:2 cannot be used'):
        check_same_kind(['cuda:2'])


@pytest.mark.parametrize('kind', ['human', 'hand', 'face', 'animal'])
def test_upstreams_default_detectors_are_accepted(kind):
    """The one for hands has a data_mode, as pose models have."""
    default = default_det_models[kind]
    check_detector_config(load_config(default['model'], 'mmdet')[0], default['cat_ids'])


# ------------------------------------------------------------------------------ errors


def raised_by(action: Callable[[], Any]) -> Exception:
    try:
        action()
    except Exception as error:
        return error
    return pytest.fail('nothing was raised')


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (KeyError('name'), 'KeyError: name'),
        (TypeError('one\n  two'), 'TypeError: one two'),
        (ValueError('our own text'), 'our own text'),
        (RuntimeError('x ' * 400), r'RuntimeError: x .* \.\.\.'),
        (AssertionError(), 'AssertionError'),
    ],
)
def test_the_reason_is_one_line(error, expected):
    assert re.fullmatch(expected, reason(error))


def test_the_reason_of_a_bare_assertion_is_its_line_of_code():
    # Run by `exec`, since pytest adds a text to assertions.
    code = compile('value = []\nassert value', __file__, 'exec')
    found = reason(raised_by(lambda: exec(code, {'__builtins__': builtins})))
    assert re.fullmatch(r'AssertionError: .*\(test_checks\.py:2\)', found)


def test_memory_errors_are_not_converted():
    with pytest.raises(MemoryError), naming('model'):
        raise MemoryError
