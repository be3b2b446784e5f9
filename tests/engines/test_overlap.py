"""Batches in flight on a device that is not the CPU: only the network waits for its turn."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from support.tiny import TinyModel, picture
from torch import Tensor

from mmpose_batch.engines import registry, selector
from mmpose_batch.engines.base import Engine, EngineSpec
from mmpose_batch.engines.builder import EngineBuilder
from mmpose_batch.engines.network import ReferenceEngine
from mmpose_batch.engines.overlap import IN_FLIGHT, OverlappedEngine

# Seconds after which a test that would wait forever fails.
PATIENCE = 60
IMAGES = [picture(120, 90, seed, persons=2) for seed in range(8)]


class Elsewhere(Engine):
    """Computes as PyTorch, supposedly on another device, and observes its calls.

    Attributes:
        called: Called with the number of each call, from 0, while it computes.
        kind: Type of the device on which engines of this class supposedly compute.
    """

    description = 'elsewhere'
    kind = 'cuda'

    def __init__(self, compute: Callable[[Tensor], Sequence[Tensor]]) -> None:
        self.called: Callable[[int], object] = lambda number: None
        self.inside = self.most = self.calls = 0
        self._compute = compute
        self._lock = threading.Lock()

    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        with self._lock:
            number, self.calls = self.calls, self.calls + 1
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            self.called(number)
            return self._compute(inputs)
        finally:
            with self._lock:
                self.inside -= 1


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Elsewhere]]:
    """Registers the engine, and collects those that are built."""
    built: list[Elsewhere] = []

    def build(source: object, options: object) -> Elsewhere:
        built.append(Elsewhere(ReferenceEngine(source.network, source.normalization)))
        return built[-1]

    monkeypatch.setattr(registry, 'ENGINES', dict(registry.specs()))
    registry.register(
        EngineSpec(name='elsewhere', build=build, computes_on=lambda device, kind: Elsewhere.kind)
    )
    return built


def test_the_engine_computes_one_batch_at_a_time():
    engine = Elsewhere(lambda inputs: [inputs])
    # Others that do not wait for their turn come in meanwhile.
    engine.called = lambda number: time.sleep(0.05)
    overlapped = OverlappedEngine(engine)
    assert overlapped.parallel == IN_FLIGHT > 1
    started = threading.Barrier(4)

    def call() -> None:
        started.wait(PATIENCE)
        overlapped(torch.zeros(1))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (engine.calls, engine.most) == (4, 1)


def test_an_error_of_the_engine_ends_its_turn():
    def fail(inputs: Tensor) -> Sequence[Tensor]:
        raise ValueError('on purpose')

    overlapped = OverlappedEngine(Elsewhere(fail))
    for _ in range(2):
        with pytest.raises(ValueError, match='on purpose'):
            overlapped(torch.zeros(1))


@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
def test_a_batch_is_computed_while_the_one_before_is_decoded(
    kind: str,
    request: pytest.FixtureRequest,
    elsewhere: list[Elsewhere],
    monkeypatch: pytest.MonkeyPatch,
):
    tiny: TinyModel = request.getfixturevalue(kind)
    settings = {'batch_size': 2, 'det_batch_size': 2, 'precision': 'fp32', 'self_check': False}
    ours = tiny.ours(**settings, engine='elsewhere')
    expected = list(ours(IMAGES))
    engine = elsewhere[0]
    second = threading.Event()
    first = engine.calls
    engine.called = lambda number: number > first and second.set()
    predict = type(ours.model).predict

    def decode_after_the_next_batch(*args: object) -> object:
        samples = predict(*args)
        assert second.wait(PATIENCE), 'the next batch waits for the end of decoding'
        return samples

    monkeypatch.setattr(type(ours.model), 'predict', decode_after_the_next_batch)
    found = list(ours(IMAGES))
    assert ours.runner.parallel == IN_FLIGHT
    assert engine.most == 1
    assert found == expected
    assert any(result['predictions'][0] for result in found)


def test_a_single_image_needs_no_second_build(one_stage: TinyModel, elsewhere: list[Elsewhere]):
    ours = one_stage.ours(engine='elsewhere', precision='fp32', self_check=False)
    list(ours([IMAGES[0]]))
    list(ours(IMAGES))
    list(ours([IMAGES[0]]))
    assert len(elsewhere) == 1


def test_batches_of_the_first_call_overlap_without_a_warm_up(
    one_stage: TinyModel, elsewhere: list[Elsewhere]
):
    ours = one_stage.ours(engine='elsewhere', precision='fp32', self_check=False)
    assert ours.runner.parallel == IN_FLIGHT
    assert ours.runner.selection is None


def test_a_single_image_does_not_end_the_overlap_of_engines_that_auto_selects(
    one_stage: TinyModel, elsewhere: list[Elsewhere], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(EngineBuilder, 'on_cuda', True)
    monkeypatch.setattr(selector, 'candidates', lambda options, on_cuda: ['elsewhere'])
    ours = one_stage.ours(engine='auto', precision='fp32', engine_cache=False)
    list(ours([IMAGES[0]]))
    assert ours.runner.selection.engine == 'elsewhere'
    list(ours(IMAGES))
    assert ours.runner.parallel == IN_FLIGHT


@pytest.mark.parametrize('kind', ['cpu', 'mps'])
def test_only_batches_on_a_gpu_of_nvidia_or_openvino_overlap(
    kind: str,
    one_stage: TinyModel,
    elsewhere: list[Elsewhere],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(Elsewhere, 'kind', kind)
    ours = one_stage.ours(engine='elsewhere', precision='fp32', self_check=False)
    assert ours.runner.engine is elsewhere[0]
    assert ours.runner.parallel == 1


def test_an_engine_on_the_cpu_is_not_wrapped(one_stage: TinyModel):
    ours = one_stage.ours(precision='bf16')
    list(ours([IMAGES[0]]))
    assert ours.runner.parallel == 1
    assert not isinstance(ours.runner.engine, OverlappedEngine)
