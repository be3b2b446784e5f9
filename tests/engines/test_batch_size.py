"""The fastest batch size, for machines whose speed is known."""

import inspect
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from support.tiny import TinyModel, picture

from mmpose_batch.engines import warmup as settling
from mmpose_batch.engines.batch_size import (
    SIZES,
    choose_size,
    default_batch_size,
    measure_rates,
    shortest,
)
from mmpose_batch.engines.host import EngineHost
from mmpose_batch.engines.warmup import SAMPLES, Settling

# Seconds that end a test which would hang; none is that slow.
PATIENCE = 120.0


@pytest.mark.parametrize(
    ('device', 'size', 'crops', 'batch_size'),
    [
        ('cpu', (256, 192), True, 16),
        ('cpu', (288, 288), False, 16),
        ('cpu', (416, 416), False, 16),
        ('cpu', (448, 640), False, 2),
        ('cpu', (640, 640), False, 2),
        ('cuda', (256, 192), True, 64),
        ('cuda:1', (640, 640), False, 16),
        (torch.device('cuda'), (288, 288), False, 16),
        ('cpu', None, False, 2),
        ('cpu', None, True, 16),
    ],
)
def test_the_rule_knows_the_device_and_the_size(device, size, crops, batch_size):
    inputs = None if size is None else torch.empty(3, *size)
    assert default_batch_size(device, inputs, crops=crops) == batch_size


@pytest.mark.parametrize(
    ('device', 'size', 'crops', 'batch_size'),
    [
        ('cpu', (320, 320), False, 4),
        ('cpu', (256, 192), True, 16),
        ('cpu', (640, 640), False, 2),
        ('cuda', (320, 320), False, 16),
    ],
)
def test_where_batches_split_the_cores_few_small_images_are_enough(device, size, crops, batch_size):
    inputs = torch.empty(3, *size)
    assert default_batch_size(device, inputs, crops=crops, split=True) == batch_size


class Machine:
    """Takes these seconds for a batch, by a clock of its own."""

    def __init__(self, seconds: Callable[[int], float], most: int = 1000) -> None:
        self.seconds, self.most = seconds, most
        self.now = 0.0
        self.sizes: list[int] = []

    def __call__(self, size: int) -> None:
        if size > self.most:
            raise MemoryError
        self.sizes.append(size)
        self.now += self.seconds(size)

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ('seconds', 'most', 'expected'),
    [
        pytest.param(lambda size: 1.0, 1000, 128, id='a batch costs the same'),
        pytest.param(lambda size: 1.0 * size, 1000, 1, id='an instance costs the same'),
        pytest.param(lambda size: 1 + max(size, 8) / 100, 8, 8, id='memory for eight'),
        pytest.param(lambda size: 1 + size * (1 + size / 16), 1000, 4, id='a cache for four'),
        pytest.param(lambda size: 0.05 + size, 1000, 2, id='little gain beyond two'),
    ],
)
def test_the_smallest_size_that_none_beats_clearly(seconds, most, expected):
    machine = Machine(seconds, most)
    assert choose_size(measure_rates(machine, clock=machine.clock)) == expected


def test_sizes_far_beyond_the_best_are_not_tried():
    machine = Machine(lambda size: size if size < 4 else size**2)
    assert measure_rates(machine, clock=machine.clock) == {1: 1, 2: 1, 4: 0.25}


def test_what_runs_at_no_size_is_no_matter_of_size():
    with pytest.raises(MemoryError):
        measure_rates(Machine(lambda size: 1.0, most=0))


def test_the_shortest_call_counts_but_for_the_first():
    """The first one starts threads and builds what is built once."""
    seconds = iter((1.0, 5.0, 3.0, 4.0))
    machine = Machine(lambda size: next(seconds))
    assert shortest(lambda: machine(1), clock=machine.clock) == 3.0


def test_a_fault_of_another_kind_is_said():
    def broken(size: int) -> None:
        raise RuntimeError('shape')

    with pytest.raises(RuntimeError, match='shape'):
        measure_rates(broken)


def test_as_many_run_side_by_side_as_in_a_run():
    machine = Machine(lambda size: 1.0)
    both = threading.Barrier(2, action=lambda: machine(1), timeout=PATIENCE)
    assert shortest(both.wait, at_a_time=2, clock=machine.clock) == 0.5
    rates = measure_rates(lambda size: both.wait(), at_a_time=2, clock=machine.clock)
    assert rates == {size: 2 * size for size in SIZES}


@pytest.mark.parametrize('function', [measure_rates, shortest, EngineHost, Settling])
def test_time_is_real(function):
    assert inspect.signature(function).parameters['clock'].default is time.perf_counter


# ---------------------------------------------------------------------------- in the inferencer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture(params=['one_stage', 'top_down'])
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return request.getfixturevalue(request.param)


def test_auto_takes_what_was_measured_and_remembers_it(tiny, cache, monkeypatch):
    images = [picture(120, 90, seed, persons=1 + seed % 3) for seed in range(5)]
    monkeypatch.setattr(settling, 'measure_rates', lambda run, *_: [run(2), {1: 1.0, 2: 9.0}][1])
    first = tiny.ours(batch_size='auto')
    found = list(first(images))
    assert first.host.report['batch_size'] == 2
    assert found == list(tiny.ours(batch_size=2)(images))
    monkeypatch.setattr(settling, 'measure_rates', None)
    assert list(tiny.ours(batch_size='auto')(images)) == found


def test_auto_measures_this_machine(tiny, cache, monkeypatch):
    machine = Machine(lambda size: 1.0 if size < 4 else 10.0)
    ours = tiny.ours(batch_size='auto')
    ours.settling = Settling(clock=machine.clock)
    kind = type(ours.model)
    run = kind.test_step

    def test_step(model: torch.nn.Module, data: dict) -> list:
        machine(len(data['inputs']))
        return run(model, data)

    monkeypatch.setattr(kind, 'test_step', test_step)
    assert not any('error' in result for result in ours([picture(120, 90, 0, persons=1)]))
    assert ours.host.report['instances_per_second'] == {1: 1, 2: 2, 4: 0.4}
    assert ours.host.report['batch_size'] == 2


def test_auto_without_anybody_to_measure_with(top_down, cache):
    ours = top_down.ours(batch_size='auto')
    (result,) = ours([picture(120, 90, 0, persons=0)])
    assert result['predictions'] == [[]]


class WarmHost:
    """Remembers the sizes of batches that it was warmed up with, and when it was to forget."""

    settled, wants_samples, sampling = True, True, False

    def __init__(self) -> None:
        self.log: list[object] = []

    def settle(self) -> None:
        self.wants_samples = False

    def warm_up(self, run: Callable[[], None]) -> None:
        run()

    def cool_down(self) -> None:
        self.log.append('cool')


def test_a_run_of_another_batch_size_fills_up_to_none_of_the_first():
    host, first = WarmHost(), {'pose': 4}
    steps = {'pose': lambda inputs: host.log.append(len(inputs))}
    settled, hosts = Settling(), {'pose': host}
    with settled.sampling(hosts, first):
        settled.note('pose', [{'inputs': torch.zeros(3, 8, 8), 'data_samples': None}])
    settled.settle(hosts, first, steps)
    settled.prepare(hosts, first)
    assert host.log == [4]
    for _ in range(2):
        settled.prepare(hosts, {'pose': 2})
    assert host.log == [4, 'cool']


class StagedHost:
    """Is known, and settled when asked so often; or not known."""

    def __init__(self, batches: int | None = None, settled: bool = False) -> None:
        self.batches, self.wants_samples = batches, not settled

    def confirm(self) -> bool:
        if self.batches is None:
            return False
        self.batches -= 1
        self.wants_samples = self.wants_samples and self.batches > 0
        return self.wants_samples


@pytest.mark.parametrize(
    ('pose', 'detector', 'parts'),
    [
        (StagedHost(1), None, [2]),
        (StagedHost(3), None, [2, 2, 2]),
        (StagedHost(9), None, [2, 2, 2, 2]),
        (StagedHost(), None, [2, 6]),
        (StagedHost(1), StagedHost(1), [2]),
        (StagedHost(3), StagedHost(1), [2, 2, 2]),
        (StagedHost(), StagedHost(1), [2, 6]),
        (StagedHost(3), StagedHost(), [2, 6]),
    ],
)
def test_engines_that_are_known_need_few_images(pose, detector, parts):
    hosts = {'pose': pose} | ({} if detector is None else {'detector': detector})
    sizes = {'pose': 2 if detector is None else 16, 'detector': 2}
    assert [len(part) for part in Settling().parts(range(8), hosts, sizes)] == parts


def test_the_last_batch_is_checked_with_all_others():
    """Not by itself first."""
    host = StagedHost(1)
    assert [len(part) for part in Settling().parts(range(8), {'pose': host}, {'pose': 8})] == [8]
    assert host.wants_samples


@pytest.mark.parametrize('seen_in', [0, 1])
def test_a_batch_size_is_measured_with_the_first_images_that_show_somebody(seen_in):
    settled, hosts = Settling(2 * SAMPLES), {'pose': StagedHost(settled=True)}
    ran = []
    with patch.object(settled, '_sampling', True):
        for number, part in enumerate(settled.parts(range(2 * SAMPLES), hosts, {'pose': 'auto'})):
            ran.append(len(part))
            if number == seen_in:
                settled.note('pose', [{'inputs': None}])
    assert ran == [SAMPLES] * (seen_in + 1)
