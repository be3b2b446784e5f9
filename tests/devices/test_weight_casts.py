"""On a GPU, weights are cast to low precision once, with outputs identical to autocast's."""

import copy
from functools import partial

import pytest
import torch
from support.casts import CountCasts
from support.pretended_cuda import PretendedCuda
from torch import Tensor, nn

from mmpose_batch.engines.network import NetworkSwap
from mmpose_batch.engines.torch_compile import TorchCompileEngine
from mmpose_batch.engines.torch_eager import TorchEngine, prepare_model
from mmpose_batch.speedups.base import apply_changes
from mmpose_batch.speedups.casts import CAST_ONCE, CastLayer
from mmpose_batch.speedups.fusion import fuse_layers

SHAPES = {'one_stage': (96, 96), 'top_down': (96, 64)}


@pytest.fixture(params=SHAPES)
def swap(request: pytest.FixtureRequest, cuda: PretendedCuda) -> NetworkSwap:
    """The network swap of a tiny model on the device."""
    model = request.getfixturevalue(request.param).upstream().model.eval()
    fuse_layers(model)
    return NetworkSwap(model.to(cuda.name))


@pytest.fixture
def pixels(swap: NetworkSwap, cuda: PretendedCuda) -> Tensor:
    height, width = SHAPES['one_stage' if hasattr(swap.network.model, 'neck') else 'top_down']
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(cuda.name)


@torch.no_grad()
def by_autocast(swap: NetworkSwap, pixels: Tensor) -> list[Tensor]:
    inputs = swap.normalization(pixels).contiguous(memory_format=torch.channels_last)
    with torch.autocast('cuda', torch.float16):
        return [output.float() for output in swap.network(inputs)]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def test_the_engine_casts_no_weights_after_the_first_batch(swap, pixels, cuda):
    model = swap.network.model.to(memory_format=torch.channels_last)
    with CountCasts(model) as before:
        expected = by_autocast(swap, pixels)
    reference = swap.reference(pixels)
    engine = TorchEngine(swap.network, swap.normalization, 'fp16')
    assert same(engine(pixels), expected)
    cuda.reset()
    with CountCasts(model) as after:
        outputs = engine(pixels)
    assert not cuda.synchronisations  # such as copies of mean and deviation to the device
    assert not cuda.transfers
    assert same(outputs, expected)
    assert (before.of_parameters > 50, after.of_parameters) == (True, 0)
    assert after.all <= before.all - before.of_parameters
    assert same(swap.reference(pixels), reference)  # in fp32
    assert all(value.dtype == torch.float32 for value in model.parameters())


@pytest.mark.parametrize(('precision', 'dtype'), [('fp32', None), ('fp16', torch.float16)])
def test_weights_of_a_network_to_compile_are_cast_before(top_down, cuda, precision, dtype):
    model = top_down.upstream().model.eval().to(cuda.name)
    swap = NetworkSwap(model)
    TorchCompileEngine(swap.network, swap.normalization, precision)  # it compiles later
    layers = [vars(module).get('forward') for module in model.modules()]
    layers = [layer for layer in layers if isinstance(layer, CastLayer)]
    assert {layer._compiled.dtype for layer in layers} == ({dtype} if dtype else set())
    assert bool(layers) == bool(dtype)


@torch.no_grad()
def test_a_model_whose_network_is_not_replaced_casts_no_weights_either(top_down, cuda):
    model = top_down.upstream().model.eval().to(cuda.name)
    prepare_model(model, 'fp16')
    inputs = torch.randn(1, 3, 96, 64).to(cuda.name)
    outputs = model.head.forward(model.extract_feat(inputs))
    with CountCasts(model) as casts:
        again = model.head.forward(model.extract_feat(inputs))
    assert casts.of_parameters == 0
    assert same(again, outputs)


ATTENTION = partial(nn.MultiheadAttention, 8, 2, batch_first=True)


@torch.no_grad()
@pytest.mark.parametrize(('self_attention', 'kdim'), [(True, None), (False, None), (False, 6)])
def test_attention_casts_its_weights_once(cuda, self_attention, kdim):
    attention = ATTENTION(kdim=kdim, vdim=kdim).eval().to(cuda.name)
    once = copy.deepcopy(attention)
    assert apply_changes(once, [CAST_ONCE])
    query = torch.randn(2, 5, 8).to(cuda.name)
    keys = query if self_attention else torch.randn(2, 7, kdim or 8).to(cuda.name)
    with torch.autocast('cuda', torch.float16):
        expected = attention(query, keys, keys)
        once(query, keys, keys)
        with CountCasts(once) as casts:
            found = once(query, keys, keys)
    assert casts.of_parameters == 0
    assert same(found, expected)
    assert same(once(query, keys, keys), attention(query, keys, keys))  # in fp32


def test_attention_with_a_bias_of_its_keys_keeps_its_forward(cuda):
    """Autocast does not cast that bias."""
    assert not CAST_ONCE.applies(ATTENTION(add_bias_kv=True).to(cuda.name))


def test_attention_on_a_cpu_keeps_its_forward():
    """PyTorch chooses its algorithm by the type of its weights."""
    assert not CAST_ONCE.applies(ATTENTION())
