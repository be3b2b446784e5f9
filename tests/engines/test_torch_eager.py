"""A prepared model computes the network, and only the network, in the given precision."""

from typing import Any

import pytest
import torch
from support.casts import CountCasts
from torch import nn

from mmpose_batch.engines.network import NetworkSwap
from mmpose_batch.engines.torch_eager import TorchEngine, prepare_model
from mmpose_batch.speedups.fusion import fuse_layers


class Head(nn.Module):
    """Returns tensors in all nested structures that heads use, and records its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 1)

    def forward(self, feats: tuple[torch.Tensor, ...], scale: float = 1.0) -> Any:
        self.autocast = torch.is_autocast_enabled('cpu')
        self.given = feats[0].dtype
        maps = self.conv(feats[0]) * scale
        self.computed = self.conv(feats[0]).dtype
        return {'maps': (maps, [maps, None]), 'counts': torch.arange(3), 'name': 'head'}


class Model(nn.Module):
    """The parts of a pose estimator that the engine changes, with a decoding step."""

    def __init__(self, head: str = 'head') -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        setattr(self, head, Head())

    def extract_feat(self, inputs: torch.Tensor, level: int = 0) -> tuple[torch.Tensor, ...]:
        self.layout = inputs.is_contiguous(memory_format=torch.channels_last)
        feats = self.backbone(inputs)
        self.computed = feats.dtype
        return (feats + level,)

    def predict(self, inputs: torch.Tensor, **options: Any) -> Any:
        outputs = self.head.forward(self.extract_feat(inputs), **options)
        self.decoding_in_autocast = torch.is_autocast_enabled('cpu')
        return outputs


def built(**options: Any) -> Model:
    torch.manual_seed(0)
    return Model(**options).eval()


INPUTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LOWER = {'fp16': torch.float16, 'bf16': torch.bfloat16}


@torch.no_grad()
def run(model: Model, **options: Any) -> Any:
    return model.predict(INPUTS, **options)


def test_single_precision_computes_the_same():
    model = built()
    expected = run(model)['maps'][0]
    prepare_model(model, 'fp32')
    torch.testing.assert_close(run(model)['maps'][0], expected, rtol=1e-6, atol=1e-6)
    assert (model.computed, model.head.computed) == (torch.float32, torch.float32)
    assert not model.head.autocast


@pytest.mark.parametrize('precision', LOWER)
def test_a_lower_precision_affects_only_the_network(precision):
    model = built()
    expected = run(model)['maps'][0]
    prepare_model(model, precision)
    outputs = run(model)
    assert (model.computed, model.head.computed) == (LOWER[precision], LOWER[precision])
    assert model.head.given == torch.float32
    assert not model.decoding_in_autocast
    maps, (again, nothing) = outputs['maps']
    assert (maps.dtype, again.dtype, nothing) == (torch.float32, torch.float32, None)
    assert outputs['counts'].dtype == torch.int64
    assert outputs['name'] == 'head'
    difference = (maps - expected).abs().max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_images_and_weights_are_channels_last_and_outputs_are_not(precision):
    model = built()
    prepare_model(model, precision)
    maps = run(model)['maps'][0]
    assert model.layout
    assert model.backbone[0].weight.is_contiguous(memory_format=torch.channels_last)
    # Decoding views the outputs with other shapes, which requires contiguous tensors.
    assert maps.is_contiguous()


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_arguments_reach_the_network(precision):
    model = built()
    prepare_model(model, precision)
    torch.testing.assert_close(run(model, scale=2.0)['maps'][0], 2 * run(model)['maps'][0])
    with torch.no_grad():
        (lifted,), (plain,) = model.extract_feat(INPUTS, level=3), model.extract_feat(INPUTS)
    torch.testing.assert_close(lifted, plain + 3, rtol=0, atol=0.05)


def test_inputs_other_than_a_batch_of_images_are_passed_on():
    class Scales(Model):
        def extract_feat(self, inputs: list[torch.Tensor]) -> list[torch.Size]:
            return [scale.shape for scale in inputs]

    model = Scales().eval()
    prepare_model(model, 'fp32')
    assert model.extract_feat([INPUTS, INPUTS[..., :4]]) == [(2, 3, 8, 8), (2, 3, 8, 4)]


def test_only_this_model_changes():
    extract_feat, forward = Model.extract_feat, Head.forward
    model, other = built(), built()
    prepare_model(model, 'bf16')
    assert (Model.extract_feat, Head.forward) == (extract_feat, forward)
    run(other)
    assert (other.computed, other.head.computed) == (torch.float32, torch.float32)


def test_the_bbox_head_of_a_detector_is_changed():
    model = built(head='bbox_head')
    prepare_model(model, 'bf16')
    with torch.no_grad():
        model.bbox_head.forward(model.extract_feat(INPUTS))
    assert model.bbox_head.autocast


def test_a_model_without_these_parts_computes_the_same():
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    expected = model(INPUTS)
    prepare_model(model, 'bf16')
    torch.testing.assert_close(model(INPUTS), expected)


def test_norms_are_folded():
    model = built()
    prepare_model(model, 'fp32')
    assert isinstance(model.backbone[1], nn.Identity)


@torch.no_grad()
def test_the_engine_casts_weights_once_and_the_reference_computes_in_fp32(top_down):
    model = top_down.upstream().model.eval()
    fuse_layers(model)
    swap = NetworkSwap(model.to(memory_format=torch.channels_last))
    inputs = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    reference = swap.reference(inputs)
    with torch.autocast('cpu', torch.bfloat16):
        channels_last = inputs.contiguous(memory_format=torch.channels_last)
        expected = [output.float() for output in swap.network(channels_last)]
    engine = TorchEngine(swap.network, swap.normalization, 'bf16')
    first = engine(inputs)
    with CountCasts(model) as casts:
        second = engine(inputs)
    assert casts.all > casts.of_parameters == 0
    for outputs in (first, second):
        assert all(map(torch.equal, outputs, expected))
    assert all(map(torch.equal, swap.reference(inputs), reference))
    assert {value.dtype for value in model.parameters()} == {torch.float32}
