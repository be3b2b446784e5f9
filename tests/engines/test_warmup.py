"""The warm-up: the number of images it needs, and its effect on later runs."""

from collections.abc import Callable

import pytest
import torch

from mmpose_batch.engines.selection import Selection
from mmpose_batch.engines.warmup import SAMPLES, Warmup, outcome, restore


class StandIn:
    """Stands in for a runner and its lifecycle, and records the calls of the warm-up."""

    parallel = 1

    def __init__(self, batches: int | None = None, selected: bool = False) -> None:
        """An engine that passed before, selected after that many batches; or a new one (None)."""
        self.batches, self.wants_samples = batches, not selected
        self.batch_size: int | None = None
        self.selection: Selection | None = None
        self.restored: Selection | None = None
        self.log: list[object] = []
        self.lifecycle = self

    def start_sampling(self, batch_size: int | str) -> None:
        self.log.append(('sampling', batch_size))

    def stop_sampling(self) -> None:
        self.log.append('stop')

    def select_known(self) -> bool:
        if self.batches is None:
            return False
        self.batches -= 1
        self.wants_samples = self.wants_samples and self.batches > 0
        return self.wants_samples

    def select(self) -> None:
        self.log.append('select')

    def restore(self, selection: Selection) -> None:
        self.restored = selection

    def set_batch_size(self, size: int, rates: dict | None = None) -> None:
        self.batch_size = size

    def warm_up(self, run: Callable[[], None]) -> None:
        run()

    def cool_down(self) -> None:
        self.log.append('cool')


PACKED = {'inputs': torch.zeros(3, 8, 8), 'data_samples': None}


def test_a_run_with_another_batch_size_discards_the_warm_up_of_the_first():
    runner, first, sizes = StandIn(selected=True), {'pose': 4}, []
    warmup, runners = Warmup(), {'pose': runner}

    def infer(images: range) -> None:
        warmup.note('pose', [PACKED])

    warmup.run(
        *(range(8), runners, first, infer),
        {'pose': lambda inputs: sizes.append(len(inputs))},
    )
    warmup.prepare(runners, first)
    assert sizes == [4] and 'cool' not in runner.log
    for _ in range(2):
        warmup.prepare(runners, {'pose': 2})
    assert runner.log.count('cool') == 1


def parts(runners: dict[str, StandIn], sizes: dict[str, int | str]) -> list[int]:
    """Numbers of images that a warm-up with eight images infers in each step."""
    found = []
    Warmup().run(range(8), runners, sizes, lambda part: found.append(len(part)), {})
    return found


@pytest.mark.parametrize(
    ('pose', 'detector', 'expected'),
    [
        (StandIn(1), None, [2]),
        (StandIn(3), None, [2, 2, 2]),
        (StandIn(9), None, [2, 2, 2, 2]),
        (StandIn(), None, [2, 6]),
        (StandIn(1), StandIn(1), [2]),
        (StandIn(3), StandIn(1), [2, 2, 2]),
        (StandIn(), StandIn(1), [2, 6]),
        (StandIn(3), StandIn(), [2, 6]),
    ],
)
def test_known_engines_need_few_images(pose, detector, expected):
    runners = {'pose': pose} | ({} if detector is None else {'detector': detector})
    sizes = {'pose': 2 if detector is None else 16, 'detector': 2}
    assert parts(runners, sizes) == expected
    for name, runner in runners.items():
        assert runner.log == [('sampling', sizes[name]), 'select', 'stop']


def test_the_last_batch_is_verified_with_all_others():
    """It is not verified separately first."""
    runner = StandIn(1)
    assert parts({'pose': runner}, {'pose': 8}) == [8]
    assert runner.wants_samples


def test_sampling_also_ends_after_an_error():
    runner = StandIn()
    warmup, asked = Warmup(), {'pose': 2}

    def fail(images: range) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        warmup.run(range(8), {'pose': runner}, asked, fail, {})
    assert runner.log == [('sampling', 2), 'stop']
    assert warmup.wanted({'pose': runner}, asked) == SAMPLES


@pytest.mark.parametrize('seen_in', [0, 1])
def test_a_batch_size_is_measured_with_the_first_images_that_have_detections(seen_in):
    warmup, runner = Warmup(2 * SAMPLES), StandIn(selected=True)
    ran, measured = [], []

    def infer(images: range) -> None:
        if len(ran) == seen_in:
            warmup.note('pose', [PACKED])
        ran.append(len(images))

    def measure(kind: str, measure: Callable, **settings: object) -> dict:
        measured.append(settings['shape'])
        return {1: 1.0, 2: 9.0}

    runner.measure = measure
    asked = {'pose': 'auto'}
    assert warmup.wanted({'pose': runner}, asked) == 2 * SAMPLES
    warmup.run(
        *(range(2 * SAMPLES), {'pose': runner}, asked, infer),
        {'pose': lambda inputs: None},
    )
    assert ran == [SAMPLES] * (seen_in + 1)
    assert measured == [(3, 8, 8)] and runner.batch_size == 2
    assert warmup.wanted({'pose': runner}, asked) == 0


@pytest.mark.parametrize(('engine', 'few'), [('torch-compile', True), ('openvino', False)])
def test_few_batch_sizes_are_measured_with_an_engine_that_compiles_each(monkeypatch, engine, few):
    warmup, runner, compiled = Warmup(), StandIn(selected=True), []
    runner.selection = Selection(engine=engine, precision='fp32')
    runner.measure = lambda kind, measure, **_: measure()[0]

    def rates(*arguments: object) -> dict[int, float]:
        compiled.append(arguments[-1])
        return {4: 1.0}

    monkeypatch.setattr('mmpose_batch.engines.warmup.measure_rates', rates)
    infer = lambda images: warmup.note('pose', [PACKED])  # noqa: E731
    warmup.run(range(8), {'pose': runner}, {'pose': 'auto'}, infer, {'pose': lambda inputs: None})
    assert compiled == [few]


def test_inputs_are_stored_only_during_the_warm_up():
    warmup, runner = Warmup(), StandIn(selected=True)
    warmup.note('pose', [PACKED])
    asked = {'pose': 'auto'}
    warmup.run(range(8), {'pose': runner}, asked, lambda images: None, {})
    assert runner.batch_size == SAMPLES  # there were no inputs to measure with


def test_a_resumed_run_restores_earlier_decisions():
    before = {'pose': StandIn(), 'detector': StandIn()}
    before['pose'].selection = Selection(engine='openvino', precision='bf16', calibration='key')
    before['pose'].batch_size = 4
    before['detector'].batch_size = 8  # no detections to select an engine with
    stored = outcome(before)
    assert stored == {
        'engines': {'pose': 'openvino'},
        'precisions': {'pose': 'bf16'},
        'calibrations': {'pose': 'key'},
        'batch_sizes': {'pose': 4, 'detector': 8},
    }
    now = {'pose': StandIn(), 'detector': StandIn()}
    restore(now, stored)
    restored = now['pose'].restored
    assert (restored.engine, restored.precision) == ('openvino', 'bf16')
    assert now['detector'].restored is None
    assert [runner.batch_size for runner in now.values()] == [4, 8]
