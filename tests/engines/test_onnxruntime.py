"""ONNX Runtime on an NVIDIA GPU: its provider, device and bindings, with simulated sessions."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mmpose_batch.engines import onnxruntime
from mmpose_batch.engines.base import AutoCase
from mmpose_batch.engines.onnxruntime import CPU, CUDA, OnnxRuntimeEngine, default_provider
from mmpose_batch.tf32 import without_tf32

runtime = pytest.importorskip('onnxruntime')

BOTH = [CUDA, CPU]
CARD = torch.device('cuda:1')
RESULTS = [torch.arange(6.0).view(2, 3), torch.ones(2, 1)]


@pytest.fixture
def providers(monkeypatch) -> list[str]:
    """The providers that ONNX Runtime has; a test may change the list."""
    found = list(BOTH)
    monkeypatch.setattr(runtime, 'get_available_providers', lambda: found)
    return found


class Binding:
    """Records what is bound, and returns the outputs."""

    def __init__(self) -> None:
        self.inputs: dict[str, dict[str, Any]] = {}
        self.outputs: dict[str, tuple[str, int]] = {}

    def bind_input(self, name: str, **settings: Any) -> None:
        self.inputs[name] = settings

    def bind_output(self, name: str, device_type: str, device_id: int) -> None:
        self.outputs[name] = (device_type, device_id)

    def get_outputs(self) -> list[torch.Tensor]:
        return RESULTS


class Session:
    """A session that records in which order it runs and PyTorch's stream is synchronised."""

    def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
        self.providers = providers
        self.events: list[str] = []
        self.binding: Binding | None = None

    def disable_fallback(self) -> None:
        pass

    def get_providers(self) -> list[str]:
        return [each if isinstance(each, str) else each[0] for each in self.providers]

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name='input')]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name='x'), SimpleNamespace(name='y')]

    def io_binding(self) -> Binding:
        self.binding = Binding()
        return self.binding

    def run_with_iobinding(self, binding: Binding) -> None:
        assert binding is self.binding
        self.events.append('run')

    def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.events.append('run from the CPU')
        return [result.numpy() for result in RESULTS]


class OnCard:
    """Stands in for a float32 tensor (2, 3, 8, 8) on a GPU."""

    device, dtype, shape = CARD, torch.float32, torch.Size((2, 3, 8, 8))

    def contiguous(self) -> 'OnCard':
        return self

    def data_ptr(self) -> int:
        return 1234


def engine_of(
    monkeypatch: pytest.MonkeyPatch, names: list[str], device: torch.device = CARD
) -> OnnxRuntimeEngine:
    monkeypatch.setattr(runtime, 'InferenceSession', Session)
    return OnnxRuntimeEngine(
        lambda size: Path('network.onnx'), lambda pixels: pixels, names, device
    )


def session_of(engine: OnnxRuntimeEngine) -> Session:
    (session,) = engine.sessions.values()
    return session


def test_a_batch_on_the_gpu_is_bound_to_it_and_synchronised(monkeypatch, providers):
    engine = engine_of(monkeypatch, BOTH)

    def stream(device: torch.device) -> SimpleNamespace:
        assert device == CARD
        events = session_of(engine).events
        return SimpleNamespace(synchronize=lambda: events.append('synchronize'))

    monkeypatch.setattr(torch.cuda, 'current_stream', stream)
    outputs = engine(OnCard())
    session = session_of(engine)
    assert session.providers == [(CUDA, {'device_id': 1}), CPU]
    assert session.binding.inputs == {
        'input': {
            'device_type': 'cuda',
            'device_id': 1,
            'element_type': np.float32,
            'shape': (2, 3, 8, 8),
            'buffer_ptr': 1234,
        }
    }
    assert session.binding.outputs == {'x': ('cuda', 1), 'y': ('cuda', 1)}
    assert session.events == ['synchronize', 'run', 'synchronize']
    for output, result in zip(outputs, RESULTS, strict=True):
        assert torch.equal(output, result)
        assert output.data_ptr() != result.data_ptr()  # which belongs to ONNX Runtime


def test_onnx_runtime_computes_without_tf32_if_pytorch_does(monkeypatch, providers):
    engine = engine_of(monkeypatch, BOTH)
    with without_tf32():
        engine(torch.zeros(2, 3, 8, 8))
    assert session_of(engine).providers == [(CUDA, {'device_id': 1, 'use_tf32': 0}), CPU]


@pytest.mark.parametrize(
    ('names', 'device', 'expected'),
    [
        ([CPU], torch.device('cpu'), [CPU]),
        ([CUDA], torch.device('cpu'), [CUDA]),
        ([CPU], CARD, [CPU]),
    ],
)
def test_a_batch_on_the_cpu_is_not_bound(monkeypatch, providers, names, device, expected):
    engine = engine_of(monkeypatch, names, device)
    engine(torch.zeros(2, 3, 8, 8))
    assert session_of(engine).providers == expected
    assert session_of(engine).events == ['run from the CPU']


@pytest.mark.parametrize(
    ('device', 'available', 'expected'),
    [('cuda:1', BOTH, CUDA), ('cpu', BOTH, CPU), ('cpu', [CPU], CPU)],
)
def test_the_default_provider_is_that_of_the_device(providers, device, available, expected):
    providers[:] = available
    assert default_provider(torch.device(device)) == expected


def test_a_build_without_cuda_is_an_error_with_the_way_out(providers):
    providers[:] = ['AzureExecutionProvider', CPU]
    with pytest.raises(ValueError, match='onnxruntime-gpu') as error:
        default_provider(CARD)
    assert '--engine-device CPUExecutionProvider' in str(error.value)
    assert 'cuda:1' in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('on_cuda', 'available', 'expected'),
    [(False, [CPU], True), (True, BOTH, True), (True, [CPU], False)],
)
def test_auto_tries_onnx_runtime_only_on_the_device_of_the_model(
    providers, on_cuda, available, expected
):
    providers[:] = available
    assert onnxruntime._in_auto(AutoCase(on_cuda=on_cuda, alternatives=True)) == expected


def test_outputs_of_the_real_binding_are_taken_without_a_copy():
    """The calls of the API, on a CPU, since no test has a GPU."""
    onnx = pytest.importorskip('onnx')
    add = onnx.helper.make_node('Add', ['a', 'a'], ['b'])
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 2]) for name in 'ab'
    ]
    graph = onnx.helper.make_graph([add], 'twice', values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 17)])
    model.ir_version = 8
    session = runtime.InferenceSession(model.SerializeToString(), providers=[CPU])
    inputs = torch.arange(6.0).view(3, 2)
    place = {'device_type': 'cpu', 'device_id': 0}
    binding = session.io_binding()
    binding.bind_input(
        'a', **place, element_type=np.float32, shape=(3, 2), buffer_ptr=inputs.data_ptr()
    )
    binding.bind_output('b', **place)
    session.run_with_iobinding(binding)
    (output,) = [torch.from_dlpack(value).clone() for value in binding.get_outputs()]
    assert torch.equal(output, 2 * inputs)
