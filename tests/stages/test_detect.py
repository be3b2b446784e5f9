"""Detections in batches equal those of MMDetection for single images, selected as upstream does."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.structures import InstanceData
from mmpose.apis.inferencers import MMPoseInferencer, Pose2DInferencer
from mmpose.apis.inferencers.utils import default_det_models
from mmpose.evaluation.functional import nms
from support.tiny import calibrate_batch_norms, detector_config, mm_config, picture
from torch import nn

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.engines.base import EngineOptions
from mmpose_batch.errors import CheckpointError
from mmpose_batch.models.checkpoint import allowed_types
from mmpose_batch.models.names import load_config
from mmpose_batch.stages import detect
from mmpose_batch.stages.detect import (
    PersonDetector,
    SafeDetInferencer,
    build_detector,
    choose_detector,
)

pytestmark = pytest.mark.usefixtures('one_thread')

# The detector's pipeline pads all to inputs of 96x96.
SIZES = ((90, 60), (60, 90), (40, 41), (900, 300))
IMAGES = [picture(width, height, seed=width) for width, height in SIZES]


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights with which the tiny detector finds a few boxes of two classes."""
    torch.manual_seed(0)
    inferencer = DetInferencer(two_classes(), None, 'cpu', 'mmdet', show_progress=False)
    model = inferencer.model
    packed = inferencer.collate_fn([inferencer.pipeline(image) for image in IMAGES])
    inputs = model.data_preprocessor(packed, False)['inputs']
    calibrate_batch_norms(model, lambda: model.bbox_head.forward(model.extract_feat(inputs)))
    for scores, boxes in zip(model.bbox_head.rtm_cls, model.bbox_head.rtm_reg, strict=True):
        scores.weight.data.mul_(3)  # random scores differ less than trained ones
        scores.bias.data.zero_()
        boxes.bias.data.fill_(1.5)  # in strides, to each side
    path = tmp_path_factory.mktemp('detector') / 'detector.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)
    return str(path)


def two_classes() -> Config:
    cfg = detector_config()
    cfg.model.bbox_head.num_classes = 2
    return cfg


def compute_in_double(model: nn.Module) -> None:
    """Use double precision: random weights amplify rounding of fp32 until boxes change order."""
    forward = model.double().bbox_head.forward
    model.bbox_head.forward = lambda feats: tuple(
        [level.float() for level in levels] for levels in forward(feats)
    )


@pytest.fixture(scope='module')
def upstream_detections(weights: str) -> list[InstanceData]:
    """Detections of MMDetection's inferencer in each image."""
    inferencer = DetInferencer(two_classes(), None, 'cpu', 'mmdet', show_progress=False)
    inferencer.model.load_state_dict(torch.load(weights, weights_only=True)['state_dict'])
    compute_in_double(inferencer.model)
    return [
        inferencer(image, return_datasamples=True)['predictions'][0].pred_instances.cpu().numpy()
        for image in IMAGES
    ]


@pytest.fixture(scope='module')
def ours(weights: str) -> PersonDetector:
    inferencer = SafeDetInferencer(two_classes(), weights, 'cpu', 'mmdet', show_progress=False)
    compute_in_double(inferencer.model)
    return PersonDetector(inferencer, [0], EngineOptions())


def upstream_boxes(
    found: InstanceData, cat_ids: tuple[int, ...], bbox_thr: float, nms_thr: float
) -> np.ndarray:
    """Boxes of persons, by the code of upstream's ``preprocess_single``."""
    bboxes = np.concatenate((found.bboxes, found.scores[:, None]), axis=1)
    wanted = np.zeros(len(bboxes), dtype=np.uint8)
    for cat_id in cat_ids:
        wanted = np.logical_or(wanted, found.labels == cat_id)
    bboxes = bboxes[np.logical_and(wanted, found.scores > bbox_thr)]
    return bboxes[nms(bboxes, nms_thr)]


@pytest.mark.parametrize('cat_ids', [(0,), (1,), (0, 1)])
@pytest.mark.parametrize(('bbox_thr', 'nms_thr'), [(0.3, 0.3), (0.6, 0.3), (0.05, 0.9)])
def test_detections_in_a_batch_equal_those_of_upstream(
    upstream_detections, ours, cat_ids, bbox_thr, nms_thr
):
    ours.cat_ids = cat_ids
    found = ours.detect([ours.prepare(image) for image in IMAGES], bbox_thr, nms_thr)
    assert len(found) == len(IMAGES)
    for detections, bboxes in zip(upstream_detections, found, strict=True):
        expected = upstream_boxes(detections, cat_ids, bbox_thr, nms_thr)
        assert bboxes.shape == expected.shape
        assert len(expected) > 0
        np.testing.assert_allclose(bboxes, expected, rtol=0, atol=1e-4)


def test_the_settings_make_a_difference(upstream_detections):
    def count(*settings: Any) -> int:
        return sum(len(upstream_boxes(found, *settings)) for found in upstream_detections)

    usual = count((0,), 0.3, 0.3)
    assert usual > count((0,), 0.6, 0.3) > 0
    assert usual < count((0,), 0.3, 0.9)
    assert usual < count((0, 1), 0.3, 0.3)


@pytest.mark.parametrize('part', ['backbone', 'bbox_head'])
def test_broken_weights_are_an_error_and_not_an_empty_result(weights, part):
    inferencer = SafeDetInferencer(two_classes(), weights, 'cpu', 'mmdet', show_progress=False)
    for parameter in getattr(inferencer.model, part).parameters():
        parameter.data.fill_(float('nan'))
    detector = PersonDetector(inferencer, [0], EngineOptions())
    with pytest.raises(ValueError, match='outputs of the network, found NaN'):
        detector.detect([detector.prepare(IMAGES[0])], 0.3, 0.3)


@pytest.mark.parametrize('name', ['bboxes', 'scores'])
def test_a_detection_that_is_not_finite_is_an_error(ours, monkeypatch, name):
    """Also scores of a category that is not requested."""

    def test_step(batch: Any) -> list[InstanceData]:
        found = InstanceData(bboxes=torch.ones(2, 4), scores=torch.ones(2), labels=torch.ones(2))
        found[name][1] = float('inf')
        return [InstanceData(pred_instances=found)]

    own = SimpleNamespace(test_step=test_step)
    monkeypatch.setattr(detect, 'with_own_head', lambda model: own)
    with pytest.raises(ValueError, match=f'expected finite {name}, found infinite'):
        ours.detect([ours.prepare(IMAGES[0])], 0.3, 0.3)


def test_an_engine_is_verified_by_the_requested_boxes(ours, upstream_detections, monkeypatch):
    checked = []

    def test_step(run, alone):
        checked.extend(run())
        return checked

    monkeypatch.setattr(ours.runner, 'test_step', test_step)
    monkeypatch.setattr(ours, 'cat_ids', (0,))
    prepared = [ours.prepare(image) for image in IMAGES]
    scores = np.sort(np.concatenate([found.scores for found in upstream_detections]))
    threshold = float(scores[len(scores) // 2 - 1 :][:2].mean())
    ours.detect(prepared, threshold, 1.0)
    expected = [
        int(((found.scores > threshold) & (found.labels == 0)).sum())
        for found in upstream_detections
    ]
    assert [len(sample.pred_instances) for sample in checked] == expected
    assert 0 < sum(expected) < sum(map(len, upstream_detections))


@pytest.mark.parametrize('bbox_thr', [0.3, 1.0])
def test_boxes_have_labels_if_requested(upstream_detections, ours, monkeypatch, bbox_thr):
    monkeypatch.setattr(ours, 'cat_ids', (0, 1))
    prepared = [ours.prepare(image) for image in IMAGES]
    plain = ours.detect(prepared, bbox_thr, 0.3)
    labelled = ours.detect(prepared, bbox_thr, 0.3, keep_labels=True)
    seen = set()
    for detections, boxes, with_labels in zip(upstream_detections, plain, labelled, strict=True):
        assert with_labels.dtype == np.float32
        np.testing.assert_array_equal(with_labels[:, :5], boxes)
        for *_, score, label in with_labels:
            nearest = np.argmin(abs(detections.scores - score))
            assert label == detections.labels[nearest]
            seen.add(label)
    assert seen == ({0, 1} if bbox_thr < 1 else set())


def test_the_classes_of_a_detector_have_names(ours, monkeypatch):
    monkeypatch.setattr(ours, 'cat_ids', (0, 1, 9))
    for meta, expected in (
        ({'classes': ('person', 'cat')}, {0: 'person', 1: 'cat'}),
        ({'CLASSES': ['person']}, {0: 'person'}),
        ({}, {}),
    ):
        monkeypatch.setattr(ours.model, 'dataset_meta', meta)
        assert ours.class_names() == expected


def test_no_detections_are_an_empty_array(ours):
    for bboxes in ours.detect([ours.prepare(image) for image in IMAGES], 1.0, 0.3):
        assert (bboxes.shape, bboxes.dtype) == ((0, 5), np.float32)


@pytest.mark.parametrize(
    ('size', 'device', 'engine', 'batch_size'),
    [
        (320, 'cpu', {}, 16),
        (640, 'cpu', {}, 2),
        (320, 'meta', {}, 16),
        (640, 'meta', {}, 16),
        (320, 'cpu', {'engine': 'openvino'}, 4),
        (320, 'cpu', {'engine': 'openvino', 'device': 'CPU'}, 4),
        (320, 'cpu', {'engine': 'openvino', 'device': 'GPU'}, 16),
        (320, 'cpu', {'engine': 'openvino', 'latency': True}, 16),
        (320, 'cpu', {'engine': 'onnxruntime'}, 16),
    ],
)
def test_the_default_batch_fits_the_inputs_the_device_and_the_engine(
    size, device, engine, batch_size
):
    inferencer = SimpleNamespace(
        model=nn.Conv2d(3, 4, 1).eval().to(device),
        pipeline=lambda image: {'inputs': torch.empty(3, size, size, dtype=torch.uint8)},
        collate_fn=None,
    )
    detector = PersonDetector(inferencer, [0], EngineOptions())
    # A network that is a single convolution cannot be replaced.
    detector.runner = SimpleNamespace(options=EngineOptions(**engine))
    assert detector.default_batch_size() == batch_size


def test_code_in_the_weights_of_a_detector_is_rejected(tmp_path):
    class Evil:
        def __reduce__(self) -> tuple:
            return (print, ('ran',))

    torch.save({'state_dict': {}, 'meta': Evil()}, tmp_path / 'evil.pth')
    with pytest.raises(CheckpointError, match='was rejected'):
        SafeDetInferencer(detector_config(), str(tmp_path / 'evil.pth'), 'cpu', 'mmdet')


# ------------------------------------------------------------------------ build_detector


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The choice of the detector, without building or downloading it."""
    asked: dict[str, Any] = {}

    def inferencer(
        model: Any, weights: str | None, device: str, scope: str, show_progress: bool
    ) -> SimpleNamespace:
        asked.update(model=model, weights=weights, device=device, scope=scope)
        parts = dict.fromkeys(('pipeline', 'collate_fn'))
        return SimpleNamespace(model=torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)).eval(), **parts)

    monkeypatch.setattr(detect, 'SafeDetInferencer', inferencer)
    yield asked


def build(
    model: Any = None, weights: str | None = None, cat_ids: Any = None, pose: Config | None = None
) -> PersonDetector | None:
    pose = pose or Config({'dataset_type': 'CocoDataset'})
    choice = choose_detector(pose, model, weights, cat_ids)
    return build_detector(choice, 'cpu', EngineOptions())


@pytest.mark.parametrize('model', ['whole_image', 'whole-image'])
def test_whole_image_means_no_detector(built, model):
    assert build(model) is None
    assert built == {}


@pytest.mark.parametrize(
    ('config', 'kind'),
    [
        ('body_2d_keypoint/rtmpose/coco/rtmpose-m_8xb256-420e_coco-256x192.py', 'body'),
        ('hand_2d_keypoint/rtmpose/hand5/rtmpose-m_8xb256-210e_hand5-256x256.py', 'hand'),
        ('animal_2d_keypoint/rtmpose/ap10k/rtmpose-m_8xb64-210e_ap10k-256x256.py', 'animal'),
    ],
)
def test_the_default_detector_is_that_of_upstream_for_the_kind_of_data(built, config, kind):
    detector = build(pose=mm_config('mmpose', f'configs/{config}'))
    default = default_det_models[kind]
    assert built['weights'] == default['weights'] or load_config(default['model'], 'mmdet')[1]
    assert detector.cat_ids == tuple(np.atleast_1d(default['cat_ids']))


def test_datasets_without_a_default_detector_use_complete_images(built):
    assert build(pose=Config({'dataset_type': 'DeepFashionDataset'})) is None


@pytest.mark.parametrize(
    ('given', 'cat_ids'),
    [(None, (0,)), (3, (3,)), (0, (0,)), ([1, 2], (1, 2)), ((5,), (5,)), (np.int64(2), (2,))],
)
def test_the_labels_to_keep_are_a_tuple_whatever_was_given(built, given, cat_ids):
    assert build(Config({'model': {}}), 'det.pth', given).cat_ids == cat_ids


def test_weights_and_labels_of_ones_own_go_before_the_defaults(built):
    assert build(None, 'my.pth', [7]).cat_ids == (7,)
    assert built['weights'] == 'my.pth'


def test_a_name_brings_its_weights(built):
    build('rtmdet-m')
    assert built['weights'].startswith('https://')
    assert (built['scope'], built['device']) == ('mmdet', 'cpu')
    build('rtmdet-m', 'my.pth')
    assert built['weights'] == 'my.pth'


@pytest.mark.parametrize(('text', 'scope'), [('', 'mmdet'), ("default_scope = 'mmyolo'", 'mmyolo')])
def test_a_config_file_brings_its_scope_and_no_weights(built, tmp_path, text, scope):
    path = tmp_path / 'detector.py'
    path.write_text(f'{text}\nanswer = 42')
    build(str(path))
    assert (built['weights'], built['scope'], built['model'].answer) == (None, scope, 42)


def test_a_config_file_may_name_its_weights(built, tmp_path):
    path = tmp_path / 'detector.py'
    path.write_text("inferencer = dict(weights='own.pth')")
    build(str(path))
    assert built['weights'] == 'own.pth'
    build(str(path), 'my.pth')
    assert built['weights'] == 'my.pth'


def test_an_unknown_detector_is_an_error(built):
    with pytest.raises(ValueError, match="a name of mmdet, found 'rtmdet-x1'"):
        build('rtmdet-x1')


# ----------------------------------------------------------- upstream's attributes and methods


def test_upstreams_ways_to_the_detector_work(models):
    """Applications call ``inferencer.detector`` and ``preprocess``, or replace upstream's class."""
    arguments = {
        'det_model': models.file('rtmdet.py'),
        'det_weights': models.file('rtmdet.pth'),
        'det_cat_ids': [0],
        'device': 'cpu',
    }
    pose = models.file('rtmpose.py'), models.file('rtmpose.pth')
    ours = BatchPose2DInferencer(*pose, **arguments)
    with allowed_types():  # by default, torch.load rejects MMEngine's files
        theirs = Pose2DInferencer(*pose, **arguments)
        whole = MMPoseInferencer(pose2d=pose[0], pose2d_weights=pose[1], **arguments)
    image = picture(120, 90)
    found, expected = (
        inferencer.detector(image, return_datasamples=True)['predictions'][0].pred_instances
        for inferencer in (ours, theirs)
    )
    assert len(expected) > 0
    torch.testing.assert_close(found.bboxes, expected.bboxes, atol=0.01, rtol=0)
    assert list(ours.det_cat_ids) == list(theirs.det_cat_ids)
    ((ours_packed, _),), ((packed, _),) = (
        list(inferencer.preprocess([image], batch_size=1, bbox_thr=0.0))
        for inferencer in (ours, theirs)
    )
    assert len(packed['inputs']) == len(ours_packed['inputs']) > 0
    for one, other in zip(ours_packed['inputs'], packed['inputs'], strict=True):
        assert torch.equal(one, other)
    before = next(whole(image, bbox_thr=0.0))['predictions'][0]
    whole.inferencer = ours
    after = next(whole(image, bbox_thr=0.0))['predictions'][0]
    assert len(before) == len(after) > 0
    for one, other in zip(after, before, strict=True):
        np.testing.assert_allclose(one['keypoints'], other['keypoints'], atol=0.01)
