"""The warm-up: how many images it takes, and what it leaves for the next run."""

from collections.abc import Callable

import pytest
import torch

from mmpose_batch.engines.selection import Selection
from mmpose_batch.engines.warmup import SAMPLES, Warmup, outcome, restore


class StandIn:
    """Has what the warm-up asks a runner and its lifecycle for, and remembers what was asked."""

    parallel = 1

    def __init__(self, batches: int | None = None, selected: bool = False) -> None:
        """An engine that passed before, selected when asked so often; or one that did not."""
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


def test_a_run_of_another_batch_size_pads_to_none_of_the_first():
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
    """Numbers of images that a warm-up with eight of them infers together."""
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
def test_engines_that_are_known_need_few_images(pose, detector, expected):
    runners = {'pose': pose} | ({} if detector is None else {'detector': detector})
    sizes = {'pose': 2 if detector is None else 16, 'detector': 2}
    assert parts(runners, sizes) == expected
    for name, runner in runners.items():
        assert runner.log == [('sampling', sizes[name]), 'select', 'stop']


def test_the_last_batch_is_verified_with_all_others():
    """Not by itself first."""
    runner = StandIn(1)
    assert parts({'pose': runner}, {'pose': 8}) == [8]
    assert runner.wants_samples


def test_sampling_ends_with_an_error_too():
    runner = StandIn()
    warmup, asked = Warmup(), {'pose': 2}

    def fail(images: range) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        warmup.run(range(8), {'pose': runner}, asked, fail, {})
    assert runner.log == [('sampling', 2), 'stop']
    assert warmup.wanted({'pose': runner}, asked) == SAMPLES


@pytest.mark.parametrize('seen_in', [0, 1])
def test_a_batch_size_is_measured_with_the_first_images_that_show_a_person(seen_in):
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


def test_inputs_are_kept_during_the_warm_up_only():
    warmup, runner = Warmup(), StandIn(selected=True)
    warmup.note('pose', [PACKED])
    asked = {'pose': 'auto'}
    warmup.run(range(8), {'pose': runner}, asked, lambda images: None, {})
    assert runner.batch_size == SAMPLES  # there was nothing to measure with


def test_a_resumed_run_decides_as_the_run_before():
    before = {'pose': StandIn(), 'detector': StandIn()}
    before['pose'].selection = Selection(engine='openvino', precision='bf16', calibration='key')
    before['pose'].batch_size = 4
    before['detector'].batch_size = 8  # of images without anything to select an engine with
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
