"""Weights that are cast once: outputs identical to those of autocast, and no casts per batch."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmcv.cnn.bricks import Conv2dAdaptivePadding, wrappers
from support.casts import CountCasts
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from mmpose_batch.speedups.base import apply_changes
from mmpose_batch.speedups.casts import CAST_ONCE, cast_now

DTYPES = [torch.bfloat16, torch.float16]
LAYERS = {
    'Conv1d': (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
    'Conv2d': (lambda: nn.Conv2d(4, 6, 3, stride=2), (2, 4, 9, 9)),
    'depthwise': (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 9, 9)),
    'reflecting': (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode='reflect'), (2, 4, 9, 9)),
    'Conv3d': (lambda: nn.Conv3d(4, 6, 3), (2, 4, 5, 5, 5)),
    'ConvTranspose1d': (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 9)),
    'ConvTranspose2d': (lambda: nn.ConvTranspose2d(4, 6, 3), (2, 4, 9, 9)),
    'ConvTranspose3d': (lambda: nn.ConvTranspose3d(4, 6, 3), (2, 4, 5, 5, 5)),
    'Linear': (lambda: nn.Linear(4, 6), (3, 4)),
    'Linear of a sequence': (lambda: nn.Linear(4, 6, bias=False), (2, 3, 4)),
    "mmcv's Conv2d": (lambda: wrappers.Conv2d(4, 6, 3), (2, 4, 9, 9)),
    "mmcv's Conv3d": (lambda: wrappers.Conv3d(4, 6, 3), (2, 4, 5, 5, 5)),
    "mmcv's ConvTranspose2d": (lambda: wrappers.ConvTranspose2d(4, 6, 3), (2, 4, 9, 9)),
    "mmcv's ConvTranspose3d": (lambda: wrappers.ConvTranspose3d(4, 6, 3), (2, 4, 5, 5, 5)),
    "mmcv's Linear": (lambda: wrappers.Linear(4, 6), (3, 4)),
    'Conv2dAdaptivePadding': (lambda: Conv2dAdaptivePadding(4, 6, 3, stride=2), (2, 4, 9, 9)),
}


def run(module: nn.Module, inputs: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Outputs of a module under autocast."""
    with torch.no_grad(), torch.autocast('cpu', dtype):
        return module(inputs)


def casting_once(module: nn.Module) -> nn.Module:
    """A copy of a module, which casts its weights once."""
    module = copy.deepcopy(module)
    assert apply_changes(module, [CAST_ONCE])
    return module


def layer_and_inputs(name: str = 'Conv2d') -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    return build().eval(), torch.randn(shape)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', LAYERS)
def test_outputs_are_those_of_autocast_and_weights_are_cast_once(name, dtype):
    layer, inputs = layer_and_inputs(name)
    once = casting_once(layer)
    with CountCasts(layer) as before:
        expected = run(layer, inputs, dtype)
    first = run(once, inputs, dtype)
    with CountCasts(once) as after:
        second = run(once, inputs, dtype)
    for found in (first, second):
        assert found.dtype == dtype
        assert torch.equal(found, expected)
    assert before.of_parameters == len(list(layer.parameters()))
    assert (after.of_parameters, after.all) == (0, 1)  # the inputs


def test_the_memory_format_of_weights_is_preserved():
    layer, inputs = layer_and_inputs()
    layer.to(memory_format=torch.channels_last)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    once = casting_once(layer)
    found, expected = run(once, inputs), run(layer, inputs)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()


def test_outside_autocast_the_layer_computes_with_its_own_weights():
    layer, inputs = layer_and_inputs()
    once = casting_once(layer)
    run(once, inputs)
    assert {name: value.dtype for name, value in once.state_dict().items()} == {
        'weight': torch.float32,
        'bias': torch.float32,
    }
    with torch.no_grad():
        assert torch.equal(once(inputs), layer(inputs))
        with torch.autocast('cpu', torch.bfloat16), torch.autocast('cpu', enabled=False):
            assert torch.equal(once(inputs), layer(inputs))


def test_threads_in_different_precisions_do_not_affect_each_other():
    layer, inputs = layer_and_inputs()
    once = casting_once(layer)
    # Computed here, since autocast's own cache of weights mixes up the types of several threads.
    expected = {dtype: run(layer, inputs, dtype) for dtype in DTYPES}
    expected[torch.float32] = layer(inputs).detach()

    def repeat(dtype: torch.dtype) -> bool:
        with torch.no_grad(), torch.autocast('cpu', dtype, enabled=dtype in DTYPES):
            return all(torch.equal(once(inputs), expected[dtype]) for _ in range(50))

    with ThreadPoolExecutor(len(expected)) as pool:
        assert all(pool.map(repeat, expected))


def test_gradients_reach_the_weights():
    layer, inputs = layer_and_inputs()
    once = casting_once(layer)
    run(once, inputs)
    for each in (layer, once):
        with torch.autocast('cpu', torch.bfloat16):
            each(inputs).float().sum().backward()
    assert torch.equal(once.weight.grad, layer.weight.grad)


def add_in_place(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.weight.add_(1)


def load(layer: nn.Module, assign: bool) -> None:
    weights = {name: value + 1 for name, value in layer.state_dict().items()}
    layer.load_state_dict(weights, assign=assign)


def set_data(layer: nn.Module) -> None:
    layer.weight.data = layer.weight.data + 1


@pytest.mark.parametrize(
    'change',
    [
        add_in_place,
        set_data,
        pytest.param(lambda layer: load(layer, assign=False), id='load'),
        pytest.param(lambda layer: load(layer, assign=True), id='load and assign'),
    ],
)
def test_weights_that_change_are_cast_again(change):
    layer, inputs = layer_and_inputs()
    once = casting_once(layer)
    before = run(once, inputs)
    for each in (layer, once):
        change(each)
    assert torch.equal(run(once, inputs), run(layer, inputs))
    assert not torch.equal(run(once, inputs), before)


@pytest.mark.parametrize(
    'copied',
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=['deepcopy', 'pickle'],
)
def test_a_copy_has_its_own_weights(copied):
    layer, inputs = layer_and_inputs()
    once = casting_once(layer)
    before = run(once, inputs)
    other = copied(once)
    add_in_place(other)
    add_in_place(layer)
    assert torch.equal(run(other, inputs), run(layer, inputs))
    assert torch.equal(run(once, inputs), before)


def test_layers_in_inference_mode():
    with torch.inference_mode():
        layer, inputs = layer_and_inputs()
        once = casting_once(layer)
        run(once, inputs)
        assert torch.equal(run(once, inputs), run(layer, inputs))


class Standardized(nn.Conv2d):
    """A convolution that uses its weights in another way."""

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean()
        return nn.functional.conv2d(inputs, weight, self.bias)


def replaced(forward: Callable) -> nn.Module:
    layer = nn.Conv2d(4, 4, 3)
    layer.forward = forward
    return layer


@pytest.mark.parametrize(
    'build',
    [
        pytest.param(lambda: Standardized(4, 4, 3), id='subclass'),
        pytest.param(lambda: spectral_norm(nn.Conv2d(4, 4, 3)), id='weights set by a hook'),
        pytest.param(
            lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), id='parametrized'
        ),
        pytest.param(lambda: replaced(torch.relu), id='forward replaced by a function'),
        pytest.param(lambda: replaced(nn.ReLU()), id='forward replaced by a module'),
        pytest.param(lambda: nn.BatchNorm2d(4), id='norm'),
        pytest.param(lambda: nn.PReLU(4), id='activation'),
    ],
)
def test_other_layers_keep_their_forward(build):
    layer = build()
    forward = layer.forward
    assert apply_changes(layer, [CAST_ONCE]) == []
    assert layer.forward == forward


def test_double_precision_is_not_cast():
    """As by autocast, which does not support it either."""
    once = casting_once(nn.Linear(2, 2).double())
    with pytest.raises(RuntimeError, match='same dtype'):
        run(once, torch.ones(1, 2))


def test_a_weight_that_other_code_uses_too_remains():
    layer, inputs = layer_and_inputs()

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(inputs), self.layer.weight * 2

    found, doubled = run(casting_once(Both()), inputs)
    assert torch.equal(found, run(layer, inputs))
    assert torch.equal(doubled, layer.weight * 2)


def test_a_compiled_network_casts_only_its_inputs():
    layer, inputs = layer_and_inputs('Linear')
    expected = run(layer, inputs)
    module = nn.Sequential(layer)
    cast_now(module, torch.bfloat16)
    graphs = []

    def compile_graph(graph: torch.fx.GraphModule, inputs: object) -> Callable:
        graphs.append([node.target for node in graph.graph.nodes])
        return graph

    from torch._dynamo.backends.common import aot_autograd  # slow to import

    backend = aot_autograd(fw_compiler=compile_graph)
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    assert torch.equal(run(compiled, inputs), expected)
    run(module, inputs, torch.float16)  # casts again, without a need to compile again
    assert torch.equal(run(compiled, inputs), expected)
    (graph,) = graphs
    assert graph.count(torch.ops.aten._to_copy.default) == 1
