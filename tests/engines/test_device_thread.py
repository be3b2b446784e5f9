"""One thread per GPU: what runs there, errors, streams and settings, without a GPU."""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmpose.models import PoseDataPreprocessor
from torch import Tensor, nn
from torch._inductor import cudagraph_trees

from mmpose_batch.engines import device_thread
from mmpose_batch.engines.device_thread import run_in_thread_of
from mmpose_batch.engines.network import Normalization
from mmpose_batch.engines.torch_compile import TorchCompileEngine

CARD, OTHER = torch.device('cuda:0'), torch.device('cuda:1')
# Timeout in seconds for a test that would otherwise hang.
PATIENCE = 60.0


class Stream:
    """Stands in for a stream; records for which others it waits."""

    def __init__(self, name: str, events: list[tuple[str, ...]]) -> None:
        self.name, self.events = name, events

    def wait_stream(self, other: 'Stream') -> None:
        self.events.append((self.name, 'waits for', other.name))


@pytest.fixture
def streams(monkeypatch) -> SimpleNamespace:
    """A pretended GPU, on which all threads have the same stream unless a test sets others."""
    events: list[tuple[str, ...]] = []
    default = Stream('default', events)
    found = SimpleNamespace(of_thread={}, events=events)
    monkeypatch.setattr(
        torch.cuda,
        'current_stream',
        lambda device: found.of_thread.get(threading.current_thread(), default),
    )
    monkeypatch.setattr(torch.cuda, 'device', lambda device: nullcontext())
    pools: dict[torch.device, ThreadPoolExecutor] = {}
    monkeypatch.setattr(device_thread, '_pools', pools)
    yield found
    for pool in pools.values():
        pool.shutdown()


def name_of_thread(inputs: Tensor) -> list[str]:
    return [threading.current_thread().name]


def test_all_threads_share_one_thread_per_device(streams):
    with ThreadPoolExecutor(4) as pool:
        devices = [CARD, OTHER] * 8
        names = list(pool.map(lambda d: run_in_thread_of(d, name_of_thread, None)[0], devices))
    assert [name.rsplit('_', 1)[0] for name in names] == [f'mmpose_batch-{d}' for d in devices]
    assert len(set(names)) == 2


def test_older_versions_of_torch_can_record_cuda_graphs_there(streams, monkeypatch):
    monkeypatch.delattr(cudagraph_trees, '_initialize_tls')

    def settings(inputs: Tensor) -> list[dict]:
        return [vars(cudagraph_trees.local).copy()]

    for device in (CARD, OTHER):
        (found,) = run_in_thread_of(device, settings, None)
        assert found['tree_manager_containers'] == {}
        with found['tree_manager_locks'][0]:
            pass


def test_a_call_in_the_thread_itself_does_not_wait_for_it(streams):
    def nested(inputs: Tensor) -> list[str]:
        return [*name_of_thread(inputs), *run_in_thread_of(CARD, name_of_thread, inputs)]

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(run_in_thread_of, CARD, nested, None).result(PATIENCE)
    assert found[0] == found[1]


def test_errors_are_raised_in_the_caller_and_keep_no_tensors(streams):
    tensors = []

    def fail(inputs: Tensor) -> list[Tensor]:
        activations = torch.empty(8)
        tensors.append(weakref.ref(activations))
        raise torch.OutOfMemoryError('CUDA out of memory')

    with pytest.raises(torch.OutOfMemoryError, match='CUDA out of memory') as raised:
        run_in_thread_of(CARD, fail, None)
    del raised
    run_in_thread_of(CARD, name_of_thread, None)  # the thread is idle, and still runs
    assert tensors[0]() is None


def test_streams_of_the_caller_and_of_the_thread_wait_for_each_other(streams):
    mine = streams.of_thread[threading.current_thread()] = Stream('mine', streams.events)

    def compute(inputs: Tensor) -> list[SimpleNamespace]:
        streams.events.append(('compute',))
        return [SimpleNamespace(record_stream=lambda stream: used.append(stream))]

    used: list[Stream] = []
    run_in_thread_of(CARD, compute, None)
    assert streams.events == [
        ('default', 'waits for', 'mine'),
        ('compute',),
        ('mine', 'waits for', 'default'),
    ]
    assert used == [mine]


def test_one_stream_does_not_wait(streams):
    run_in_thread_of(CARD, name_of_thread, None)
    assert streams.events == []


class NoGradients(nn.Conv2d):
    """A network that records the thread and whether gradients are computed."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3)
        self.found: list[tuple[str, bool]] = []

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        self.found.append((threading.current_thread().name, torch.is_grad_enabled()))
        return (super().forward(inputs),)


@pytest.mark.parametrize('device', ['cpu', 'cuda:0'])
def test_a_compiled_network_runs_in_the_thread_of_its_gpu_only(streams, monkeypatch, device):
    monkeypatch.setattr(torch, 'compile', lambda function, **_: function)
    network = NoGradients()
    engines = [
        TorchCompileEngine(network, Normalization(PoseDataPreprocessor()), 'fp32') for _ in range(2)
    ]
    for engine in engines:
        engine._device = torch.device(device)  # where the weights are does not matter here
        (output,) = engine(torch.zeros(3, 3, 8, 8))
        assert output.shape == (3, 4, 6, 6)
    name = threading.current_thread().name if device == 'cpu' else 'mmpose_batch-cuda:0_0'
    assert network.found == [(name, False)] * 2
