"""One-stage heads that decode a batch at once: results equal those of upstream."""

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from mmpose.models.heads import RTMOHead
from mmpose.models.heads.hybrid_heads import YOLOXPoseHead
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from support.tiny import TinyModel, mm_config, one_stage_config, picture
from torch import Tensor, nn

from mmpose_batch.speedups import onestage, suppression

pytestmark = pytest.mark.usefixtures('mmpose_scope')

# Exact equality was measured on x86; other processors may round differently.
KEYPOINT_TOLERANCE_PX = 1e-3
YOLOX = 'configs/body_2d_keypoint/yoloxpose/coco/yoloxpose_tiny_4xb64-300e_coco-416.py'
SIZES = {'square': (96, 96), 'rect': (96, 64), 'flat': (32, 128)}  # width and height
# Number of anchors above the score threshold in each image of a batch.
MIXED = [3, 0, 17, 1, 0, 90, 2, 5]
BATCHES = ([0], [1], [40], [0, 0], [1, 40], [0] * 8, [1] * 8, MIXED)


def build(kind: type) -> nn.Module:
    """A small upstream head whose network returns its inputs."""
    torch.manual_seed(0)
    if kind is RTMOHead:
        cfg = one_stage_config().model.head
    else:
        cfg = mm_config('mmpose', YOLOX).model.head
        cfg.head_module_cfg.update(in_channels=8, feat_channels=8, widen_factor=1.0)
    head = MODELS.build(cfg).eval()
    head.forward = pass_through
    return head


def pass_through(feats: Any) -> Any:
    return feats


@pytest.fixture(scope='module', params=[RTMOHead, YOLOXPoseHead])
def upstream(request) -> nn.Module:
    # Module fixtures come before the fixture mmpose_scope.
    with DefaultScope.overwrite_default_scope('mmpose'):
        return build(request.param)


@pytest.fixture
def ours(upstream) -> nn.Module:
    head = copy.deepcopy(upstream)
    onestage.COMPLETE_BATCH.apply(head)
    return head


def network_outputs(
    head: nn.Module, size: tuple[int, int], persons: Sequence[int], classes: int = 1
) -> tuple:
    """Random outputs with boxes of all sizes, and a number of anchors above the threshold."""
    random = torch.Generator().manual_seed(sum(persons) + len(persons) + size[0])

    def maps(channels: int, scale: float = 1.0) -> list[Tensor]:
        return [
            torch.randn(
                (len(persons), channels, size[1] // stride, size[0] // stride), generator=random
            )
            * scale
            for stride in head.featmap_strides
        ]

    scores, boxes = maps(classes), maps(4)
    flat = torch.cat([level.flatten(2) for level in scores], 2) - 9
    for image, count in enumerate(persons):
        anchors = torch.randperm(flat.shape[2], generator=random)[:count]
        flat[image, :, anchors] += 10
    ends = np.cumsum([level.shape[2:].numel() for level in scores])[:-1].tolist()
    parts = torch.tensor_split(flat, ends, 2)
    scores = [part.view_as(level) for part, level in zip(parts, scores, strict=True)]
    visible = maps(head.num_keypoints)
    if type(head) is RTMOHead:
        return scores, boxes, [], visible, maps(head.dcc.in_channels)
    return scores, maps(1, 0.1), boxes, maps(2 * head.num_keypoints), visible


def samples(count: int, size: tuple[int, int]) -> list[PoseDataSample]:
    return [PoseDataSample(metainfo={'input_size': size}) for _ in range(count)]


def assert_same(found: list[InstanceData], expected: list[InstanceData]) -> int:
    """Compare all fields of all images; returns how many persons there are."""
    assert isinstance(found, list) and len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert set(mine.keys()) == set(theirs.keys())
        for name in theirs.keys():  # noqa: SIM118 - no dict
            one, other = mine[name], theirs[name]
            assert (type(one), one.dtype, one.shape) == (type(other), other.dtype, other.shape)
            atol = KEYPOINT_TOLERANCE_PX if name == 'keypoints' else 0
            np.testing.assert_allclose(one, other, rtol=0, atol=atol, err_msg=name)
    return sum(len(image.scores) for image in found)


def compare(
    upstream: nn.Module, ours: nn.Module, outputs: tuple, size: tuple[int, int], **test_cfg: Any
) -> int:
    batch = samples(len(outputs[0][0]), size)
    expected = type(upstream).predict(copy.copy(upstream), outputs, batch, test_cfg)
    return assert_same(ours.predict(outputs, batch, test_cfg=test_cfg), expected)


@pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)
@pytest.mark.parametrize('persons', BATCHES, ids=str)
def test_every_image_is_decoded_as_in_a_batch_of_one(upstream, ours, size, persons):
    outputs = network_outputs(upstream, size, persons)
    count = compare(upstream, ours, outputs, size, score_thr=0.3, nms_thr=0.65)
    assert (count > 0) == any(persons)


@pytest.mark.parametrize(
    'test_cfg',
    [
        {},
        {'score_thr': 0.0},
        {'score_thr': 0.6},
        {'score_thr': 0.999},
        {'nms_thr': 0.05},
        {'nms_thr': 0.99},
        {'nms_pre': 5},
        {'nms_pre': 0},
        {'nms_pre': 3, 'score_thr': 0.0, 'nms_thr': 0.3},
        {'output_heatmaps': True},
        {'input_size': (640, 640)},
    ],
    ids=str,
)
def test_settings_of_a_call(upstream, ours, test_cfg):
    outputs = network_outputs(upstream, (96, 96), MIXED)
    compare(upstream, ours, outputs, (96, 96), **{'nms_thr': 0.65, **test_cfg})


def test_without_nms(upstream, ours):
    outputs = network_outputs(upstream, (96, 96), MIXED)
    if type(upstream) is RTMOHead:  # upstream raises an error without NMS
        with pytest.raises(UnboundLocalError, match='keep_idxs_nms'):
            ours.predict(outputs, samples(8, (96, 96)), {'nms_thr': 1.0})
        assert ours.featmap_sizes is None  # the head has no new attributes
        outputs = network_outputs(upstream, (96, 96), [0, 0])
    for nms_pre in (3, 100):
        compare(upstream, ours, outputs, (96, 96), score_thr=0.3, nms_pre=nms_pre)


def test_classes(upstream, ours):
    outputs = network_outputs(upstream, (96, 96), MIXED, classes=3)
    assert compare(upstream, ours, outputs, (96, 96), score_thr=0.3, nms_thr=0.65)


@pytest.mark.parametrize('nms_thr', [0.3, 0.9])
@pytest.mark.parametrize('boxes_at_once', [1, 7, 64])
def test_equal_scores_keep_their_order(upstream, ours, nms_thr, boxes_at_once, monkeypatch):
    monkeypatch.setattr(suppression, 'BOXES_AT_ONCE', boxes_at_once)
    outputs = network_outputs(upstream, (96, 96), MIXED)
    for level in outputs[0]:
        level.round_()
    for level in outputs[1] if type(upstream) is YOLOXPoseHead else []:
        level.zero_()
    assert compare(upstream, ours, outputs, (96, 96), score_thr=0.3, nms_thr=nms_thr)


@pytest.mark.parametrize('size', [(90, 70), np.array([64, 96]), (33.5, 47.25)], ids=str)
def test_boxes_are_clipped_at_the_edges(upstream, ours, size):
    outputs = network_outputs(upstream, (96, 96), MIXED)
    compare(upstream, ours, outputs, size, score_thr=0.3, nms_thr=0.65)
    found = ours.predict(outputs, samples(8, size), {'score_thr': 0.3, 'nms_thr': 0.65})
    bboxes = np.concatenate([image.bboxes for image in found])
    assert bboxes.min() == 0 and (bboxes.max(0)[2:] == size).all()


@pytest.mark.parametrize('value', [float('nan'), float('inf'), 200.0])
def test_nan_and_infinite_outputs(upstream, ours, value):
    outputs = network_outputs(upstream, (96, 96), [9, 4])
    boxes = outputs[1] if type(upstream) is RTMOHead else outputs[2]
    boxes[0][0, 2:, ::2] = value
    outputs[0][0][0, 0, 1, 1] = float('nan')
    compare(upstream, ours, outputs, (96, 96), score_thr=0.3, nms_thr=0.65)


@pytest.mark.parametrize('persons_at_once', [1, 5, 64])
def test_persons_are_classified_in_parts(persons_at_once, monkeypatch):
    monkeypatch.setattr(onestage, 'PERSONS_AT_ONCE', persons_at_once)
    upstream = build(RTMOHead)
    ours = copy.deepcopy(upstream)
    onestage.COMPLETE_BATCH.apply(ours)
    outputs, test_cfg = network_outputs(upstream, (96, 96), MIXED), {'nms_thr': 0.65}
    assert compare(upstream, ours, outputs, (96, 96), **test_cfg) > 40
    first, later = [], []
    ours.dcc.pose_to_kpts.register_forward_pre_hook(lambda _, args: first.append(len(args[0])))
    ours.dcc.gau.register_forward_pre_hook(lambda _, args: later.append(len(args[0])))
    found = ours.predict(outputs, samples(8, (96, 96)), test_cfg)
    persons = [len(image.scores) for image in found]
    assert first == [count for count in persons if count]  # image by image, for identical rounding
    assert sum(later) == sum(persons) and max(later) <= persons_at_once


def test_a_flip_test_is_an_error_as_in_upstream(upstream, ours):
    outputs = network_outputs(upstream, (96, 96), [2])
    for head in (upstream, ours):
        head = copy.copy(head)
        with pytest.raises(ValueError, match='unpack'):
            head.predict([outputs, outputs], samples(1, (96, 96)), {'nms_thr': 0.65})


def test_the_head_is_not_changed_by_predicting(upstream, ours):
    before = dict(vars(ours))
    outputs = network_outputs(upstream, (96, 96), [2])
    test_cfg = {'nms_thr': 0.65}
    ours.predict(outputs, samples(1, (96, 96)), test_cfg)
    assert vars(ours) == before and test_cfg == {'nms_thr': 0.65}


def test_images_do_not_share_fields_that_are_set_later(upstream, ours):
    outputs = network_outputs(upstream, (96, 96), [9, 9])
    first, second = ours.predict(outputs, samples(2, (96, 96)), {'nms_thr': 0.65})
    before = copy.deepcopy(second)
    for name in first.keys():  # noqa: SIM118 - no dict
        first[name][:] = 0
    assert assert_same([second], [before])


def test_a_network_that_is_replaced_later_is_used(upstream, ours):
    outputs = network_outputs(upstream, (96, 96), [2, 9])
    ours.forward = lambda feats: outputs
    expected = upstream.predict(outputs, samples(2, (96, 96)), {'nms_thr': 0.65})
    assert assert_same(ours.predict('images', samples(2, (96, 96)), {'nms_thr': 0.65}), expected)


def test_a_copied_head_decodes_with_its_own_weights(upstream, ours):
    outputs = network_outputs(upstream, (96, 96), [9])
    batch, test_cfg = samples(1, (96, 96)), {'nms_thr': 0.65}
    before = ours.predict(outputs, batch, test_cfg)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        other.prior_generator.offset += 1
        (moved,) = other.predict(outputs, batch, test_cfg)
        assert not np.array_equal(moved.keypoints, before[0].keypoints)
    assert assert_same(ours.predict(outputs, batch, test_cfg), before)


def test_a_classifier_that_changes_later_is_respected():
    upstream = build(RTMOHead)
    ours = copy.deepcopy(upstream)
    onestage.COMPLETE_BATCH.apply(ours)
    for head in (upstream, ours):
        head.dcc.forward_test = lambda features, boxes, anchors: features[:, :2] * boxes[:, :2]
    outputs = network_outputs(ours, (96, 96), [9, 2])
    assert compare(upstream, ours, outputs, (96, 96), nms_thr=0.65)


def changed(kind: type, change: Callable[[nn.Module], object]) -> nn.Module:
    head = build(kind)
    change(head)
    return head


def subclass(module: nn.Module) -> None:
    module.__class__ = type('Mine', (type(module),), {})


@pytest.mark.parametrize(
    'head',
    [
        nn.Identity(),
        changed(RTMOHead, subclass),
        changed(YOLOXPoseHead, subclass),
        changed(YOLOXPoseHead, lambda head: setattr(head, 'predict', pass_through)),
        changed(RTMOHead, lambda head: setattr(head, 'deploy', True)),
        changed(RTMOHead, lambda head: head.dcc.switch_to_deploy()),
        changed(RTMOHead, lambda head: subclass(head.dcc)),
        changed(RTMOHead, lambda head: delattr(head, 'dcc')),
    ],
    ids=['other', 'rtmo', 'yolox', 'predict', 'deploy', 'dcc deployed', 'own dcc', 'no dcc'],
)
def test_it_does_not_apply_to_other_heads(head):
    assert not onestage.COMPLETE_BATCH.applies(head)


def test_it_applies_once_to_upstreams_heads(upstream, ours):
    assert onestage.COMPLETE_BATCH.applies(upstream)
    assert not onestage.COMPLETE_BATCH.applies(ours)


def test_inferencer(one_stage: TinyModel):
    images = [picture(*((120, 80), (80, 120))[seed % 2], seed) for seed in range(6)]
    ours = one_stage.ours(batch_size=4)
    found = list(ours(images, bbox_thr=0.1))
    assert vars(ours.model.head).pop('predict').func is onestage._predict
    expected = list(ours(images, bbox_thr=0.1))
    assert sum(len(result['predictions'][0]) for result in expected) > 10
    for one, other in zip(found, expected, strict=True):
        for mine, theirs in zip(one['predictions'][0], other['predictions'][0], strict=True):
            np.testing.assert_allclose(mine['keypoints'], theirs['keypoints'], rtol=0, atol=1e-3)
            assert mine['bbox'] == theirs['bbox'] and mine['bbox_score'] == theirs['bbox_score']
