"""Batch sizes: defaults, and measurements on simulated machines."""

import inspect
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.tiny import TinyModel, picture

from mmpose_batch.engines import warmup
from mmpose_batch.engines.batch_size import (
    SIZES,
    choose_size,
    default_batch_size,
    measure_rates,
    shortest,
)
from mmpose_batch.engines.runner import EngineRunner
from mmpose_batch.engines.warmup import Warmup

# Timeout in seconds for a test that would otherwise hang.
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
def test_the_default_depends_on_the_device_and_the_input_size(device, size, crops, batch_size):
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
def test_the_default_is_smaller_if_concurrent_batches_split_the_cores(
    device, size, crops, batch_size
):
    inputs = torch.empty(3, *size)
    assert default_batch_size(device, inputs, crops=crops, split=True) == batch_size


class Machine:
    """Simulates batches that take the given seconds on a simulated clock."""

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
def test_the_smallest_size_close_to_the_best_rate_is_chosen(seconds, most, expected):
    machine = Machine(seconds, most)
    assert choose_size(measure_rates(machine, clock=machine.clock)) == expected


def test_sizes_far_larger_than_the_best_are_not_tried():
    machine = Machine(lambda size: size if size < 4 else size**2)
    assert measure_rates(machine, clock=machine.clock) == {1: 1, 2: 1, 4: 0.25}


@pytest.mark.parametrize(
    ('seconds', 'most', 'sizes', 'chosen'),
    [
        pytest.param(lambda size: 1.0, 1000, [8, 32, 128], 128, id='a batch costs the same'),
        pytest.param(lambda size: 1.0 * size, 1000, [8, 32], 8, id='an instance costs the same'),
        pytest.param(lambda size: 0.1 * size + (size == 8), 1000, [8, 32, 128], 32, id='until 32'),
        pytest.param(lambda size: 1.0, 32, [8, 32], 32, id='memory for 32'),
    ],
)
def test_few_sizes_are_compiled(seconds, most, sizes, chosen):
    machine = Machine(seconds, most)
    rates = measure_rates(machine, clock=machine.clock, compiled=True)
    assert list(rates) == sizes
    assert choose_size(rates) == chosen


def test_out_of_memory_at_the_first_size_is_raised():
    with pytest.raises(MemoryError):
        measure_rates(Machine(lambda size: 1.0, most=0))


def test_the_shortest_call_except_for_the_first_counts():
    """The first call starts threads and compiles."""
    seconds = iter((1.0, 5.0, 3.0, 4.0))
    machine = Machine(lambda size: next(seconds))
    assert shortest(lambda: machine(1), clock=machine.clock) == 3.0


def test_other_errors_are_raised():
    def broken(size: int) -> None:
        raise RuntimeError('shape')

    with pytest.raises(RuntimeError, match='shape'):
        measure_rates(broken)


def test_as_many_calls_run_concurrently_as_in_a_run():
    machine = Machine(lambda size: 1.0)
    both = threading.Barrier(2, action=lambda: machine(1), timeout=PATIENCE)
    assert shortest(both.wait, parallel=2, clock=machine.clock) == 0.5
    rates = measure_rates(lambda size: both.wait(), parallel=2, clock=machine.clock)
    assert rates == {size: 2 * size for size in SIZES}


@pytest.mark.parametrize('function', [measure_rates, shortest, EngineRunner, Warmup])
def test_the_default_clock_measures_real_time(function):
    assert inspect.signature(function).parameters['clock'].default is time.perf_counter


# ---------------------------------------------------------------------------- in the inferencer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture(params=['one_stage', 'top_down'])
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return request.getfixturevalue(request.param)


def test_auto_uses_and_caches_the_measured_size(tiny, cache, monkeypatch):
    images = [picture(120, 90, seed, persons=1 + seed % 3) for seed in range(5)]
    monkeypatch.setattr(warmup, 'measure_rates', lambda run, *_: [run(2), {1: 1.0, 2: 9.0}][1])
    first = tiny.ours(batch_size='auto')
    found = list(first(images))
    assert first.runner.report['batch_size'] == 2
    assert found == list(tiny.ours(batch_size=2)(images))
    monkeypatch.setattr(warmup, 'measure_rates', None)
    assert list(tiny.ours(batch_size='auto')(images)) == found


def test_auto_measures_on_this_machine(tiny, cache, monkeypatch):
    machine = Machine(lambda size: 1.0 if size < 4 else 10.0)
    ours = tiny.ours(batch_size='auto')
    ours.predictor.warmup = Warmup(clock=machine.clock)
    kind = type(ours.model)
    run = kind.test_step

    def test_step(model: torch.nn.Module, data: dict) -> list:
        machine(len(data['inputs']))
        return run(model, data)

    monkeypatch.setattr(kind, 'test_step', test_step)
    assert not any('error' in result for result in ours([picture(120, 90, 0, persons=1)]))
    assert ours.runner.report['instances_per_second'] == {1: 1, 2: 2, 4: 0.4}
    assert ours.runner.report['batch_size'] == 2


def test_auto_without_detections_uses_a_default_size(top_down, cache):
    ours = top_down.ours(batch_size='auto')
    (result,) = ours([picture(120, 90, 0, persons=0)])
    assert result['predictions'] == [[]]
