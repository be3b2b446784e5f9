"""Decoding on the pretended CUDA device: results as on the CPU, few operators, and few waits."""

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpose.codecs import MSRAHeatmap, SimCCLabel
from mmpose.models.heads.base_head import BaseHead
from mmpose.models.heads.hybrid_heads import YOLOXPoseHead
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from support.pretended_cuda import PretendedCuda
from support.tiny import mm_config, one_stage_config
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from mmpose_batch.engines.torch_eager import prepare_model
from mmpose_batch.nan_check import reject_nan
from mmpose_batch.results import select_instances
from mmpose_batch.speedups import onestage
from mmpose_batch.speedups.base import apply_changes
from mmpose_batch.speedups.registry import POSE_HEAD
from mmpose_batch.stages.finite import check_finite

BATCH, SIZE, SCORE_THR = 32, 128, 0.3
FEW, MANY = 5, 40
OPERATORS, SYNCHRONISATIONS = 600, 4
# The layer whose rounding depends on the number of persons is computed once for the batch, not
# image by image. On an x86 CPU both were equal, also with RTMO-s and 3368 persons.
KEYPOINT_TOLERANCE_PX = 1e-4
YOLOX = 'configs/body_2d_keypoint/yoloxpose/coco/yoloxpose_tiny_4xb64-300e_coco-416.py'


def one_stage_model(name: str) -> nn.Module:
    """A model whose network returns its inputs."""
    torch.manual_seed(0)
    cfg = one_stage_config()
    if name == 'YOLOX-Pose':
        cfg.model.head = mm_config('mmpose', YOLOX).model.head
        cfg.model.head.head_module_cfg.update(in_channels=8, feat_channels=8, widen_factor=1.0)
    with DefaultScope.overwrite_default_scope('mmpose'):
        model = MODELS.build(cfg.model).eval()
    apply_changes(model.head, POSE_HEAD)
    prepare_model(model, 'fp32')
    model.extract_feat = model.head.forward = lambda outputs: outputs
    reject_nan(model)
    model.test_cfg = {'score_thr': SCORE_THR, 'nms_thr': 0.65}
    return model


def network_outputs(head: nn.Module, persons: int) -> tuple:
    """Outputs of a batch with a number of persons in each image, whose boxes do not overlap."""
    random = torch.Generator().manual_seed(persons)

    def maps(channels: int, scale: float = 1.0) -> list[Tensor]:
        sides = [SIZE // stride for stride in head.featmap_strides]
        return [torch.randn(BATCH, channels, n, n, generator=random) * scale for n in sides]

    scores = [level - 12 for level in maps(1, 0.3)]
    level = scores[0].flatten(1)
    anchors = [torch.randperm(64, generator=random)[:persons] for _ in range(BATCH)]
    for image, chosen in enumerate(anchors):
        level[image, chosen] += 14
    boxes = maps(4, 0.05)  # next to their anchors, and about as large as a stride
    visible = maps(head.num_keypoints)
    if type(head) is YOLOXPoseHead:
        objectness = [level + 8 for level in maps(1)]
        return scores, objectness, boxes, maps(2 * head.num_keypoints), visible
    return scores, boxes, [], visible, maps(head.dcc.in_channels)


def infer(model: nn.Module, outputs: Any) -> list[PoseDataSample]:
    """All that follows the network: decoding, data samples, and selection of instances."""
    info = {'input_size': (SIZE, SIZE), 'input_center': np.float32([80, 60])}
    info['input_scale'] = np.float32([160, 160])
    samples = [PoseDataSample(metainfo=info) for _ in range(BATCH)]
    found = []
    preds = model.head.predict(outputs, samples, test_cfg=model.test_cfg)
    for sample in model.add_pred_to_datasample(preds, None, samples):
        check_finite(dict(sample.pred_instances.items()))
        found.append(select_instances(sample, SCORE_THR, pose_based_nms=False))
    return found


def to_device(values: Any, device: str) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), values)


@pytest.fixture(scope='module', params=['RTMO', 'YOLOX-Pose'])
def models(request, cuda: PretendedCuda) -> tuple[nn.Module, nn.Module]:
    """The same model on the CPU and on the device."""
    model = one_stage_model(request.param)
    on_device = one_stage_model(request.param).to(cuda.name)
    return model, on_device


@pytest.mark.parametrize('persons', [0, 1, FEW])
@torch.no_grad()
def test_results_match_those_of_the_cpu(models, cuda, persons):
    outputs = network_outputs(models[0].head, persons)
    expected = infer(models[0], outputs)
    found = infer(models[1], to_device(outputs, cuda.name))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs.pred_instances) == persons
        for name in theirs.pred_instances.keys():  # noqa: SIM118 - no dict
            one, other = ours.pred_instances[name], theirs.pred_instances[name]
            assert (type(one), one.dtype, one.shape) == (np.ndarray, other.dtype, other.shape)
            atol = KEYPOINT_TOLERANCE_PX if name == 'keypoints' else 0
            np.testing.assert_allclose(one, other, rtol=0, atol=atol, err_msg=name)


@torch.no_grad()
def test_operators_and_waiting_do_not_depend_on_the_number_of_persons(models, cuda):
    counts = []
    for persons in (FEW, FEW, MANY):
        outputs = to_device(network_outputs(models[0].head, persons), cuda.name)
        cuda.reset()
        found = infer(models[1], outputs)
        counts.append((cuda.operators.total(), cuda.synchronisations.total()))
        assert [len(sample.pred_instances) for sample in found] == [persons] * BATCH
    # The first batch of a size computes the positions of the anchors, too.
    assert counts[1] == counts[2], cuda.report()
    assert counts[1][0] <= OPERATORS, cuda.report()
    assert counts[1][1] <= SYNCHRONISATIONS, cuda.report()


@pytest.mark.parametrize('output', [0, 1, 3])
@torch.no_grad()
def test_nan_is_an_error_without_waiting_longer(models, cuda, output):
    outputs = network_outputs(models[0].head, FEW)
    outputs[output][1][7, 0, 1, 1] = float('nan')
    outputs = to_device(outputs, cuda.name)
    cuda.reset()
    with pytest.raises(ValueError, match='outputs of the network, found NaN: broken or random'):
        infer(models[1], outputs)
    assert cuda.synchronisations == {'nonzero': 1, 'copy to the CPU': 1}


@torch.no_grad()
def test_coordinates_of_very_many_persons_are_classified_in_parts(cuda, monkeypatch):
    monkeypatch.setattr(onestage, 'PERSONS_AT_ONCE_ON_GPU', 50)
    model = one_stage_model('RTMO')
    outputs = network_outputs(model.head, FEW)
    expected = infer(model, outputs)
    model.to(cuda.name)
    sizes: list[int] = []
    model.head.dcc.pose_to_kpts.register_forward_pre_hook(
        lambda _, args: sizes.append(len(args[0]))
    )
    found = infer(model, to_device(outputs, cuda.name))
    assert sizes == [50, 50, 50, 10]
    for ours, theirs in zip(found, expected, strict=True):
        one, other = (each.pred_instances.keypoints for each in (ours, theirs))
        np.testing.assert_allclose(one, other, rtol=0, atol=KEYPOINT_TOLERANCE_PX)


SIMCC = {'input_size': (48, 64), 'simcc_split_ratio': 3.0}
# Codecs and the channels of their outputs' tensors; how often a batch waits for the device.
CODECS: dict[str, tuple[object, tuple, int]] = {
    'SimCC': (SimCCLabel(**SIMCC), ((144,), (192,)), 1),
    'SimCC with DARK': (SimCCLabel(**SIMCC, use_dark=True), ((144,), (192,)), 2),
    'SimCC with visibility': (SimCCLabel(**SIMCC, decode_visibility=True), ((144,), (192,)), 2),
    'heatmaps': (
        MSRAHeatmap(input_size=(48, 64), heatmap_size=(12, 16), sigma=2),
        ((16, 12),),
        1,
    ),
}


class TopDownHead(BaseHead):
    """A head with a codec only."""

    def __init__(self, decoder: object) -> None:
        super().__init__()
        self.decoder = decoder

    forward = predict = loss = None


@pytest.mark.parametrize(('codec', 'shapes', 'waits'), CODECS.values(), ids=CODECS)
def test_persons_of_top_down_models_are_decoded_in_one_go(cuda, codec, shapes, waits):
    head = TopDownHead(codec)
    apply_changes(head, POSE_HEAD)
    operators = set()
    for persons in (1, 3, 40):
        random = torch.Generator().manual_seed(persons)
        # Rounded: several bins have the largest value.
        outputs = [torch.randn(persons, 17, *shape, generator=random).round_() for shape in shapes]
        outputs[0][0, :3] = -1  # keypoints that are not visible
        outputs = tuple(outputs) if len(outputs) > 1 else outputs[0]
        on_device = to_device(outputs, cuda.name)
        cuda.reset()
        found = head.decode(on_device)
        assert cuda.synchronisations.total() == waits
        operators.add(cuda.operators.total())
        for ours, theirs in zip(found, BaseHead.decode(head, outputs), strict=True):
            assert ours.keys() == theirs.keys()
            for name in theirs.keys():  # noqa: SIM118 - no dict
                assert ours[name].dtype == theirs[name].dtype
                np.testing.assert_array_equal(ours[name], theirs[name])
    assert len(operators) == 1
