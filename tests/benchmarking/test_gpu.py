"""GPU utilization: read while a block runs, and not at all without a GPU."""

import threading

import pytest
import torch
from mmpose_batch.benchmarking.gpu import nvml_reader, watch_utilization


class Unsupported(Exception):
    """An error like those of pynvml, which derive from Exception only."""


class Waits:
    """Simulated waits: some time out immediately; records the requested seconds."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.seconds: list[float] = []
        self.all_over = threading.Event()

    def __call__(self, over: threading.Event, seconds: float) -> bool:
        self.seconds.append(seconds)
        if len(self.seconds) <= self.count:
            return False
        self.all_over.set()
        return over.wait()


def test_utilization_is_read_while_the_block_runs(no_thread_is_left):
    values, waits = iter(range(1000)), Waits(3)
    with watch_utilization(lambda: next(values), wait=waits) as readings:
        assert waits.all_over.wait(60)
        assert readings == [0, 1, 2]
    assert readings == [0, 1, 2]
    assert waits.seconds == [1.0, 0.25, 0.25, 0.25]  # the first reading looks back


def test_a_driver_that_stops_reporting_is_not_an_error(no_thread_is_left):
    values = iter([87.0])

    def read():
        try:
            return next(values)
        except StopIteration:
            raise Unsupported from None

    waits = Waits(1000)
    with watch_utilization(read, wait=waits) as readings:
        pass
    assert readings == [87.0]
    assert len(waits.seconds) == 2


def test_a_short_block_has_no_reading(no_thread_is_left):
    with watch_utilization(lambda: 1.0, wait=Waits(0)) as readings:
        pass
    assert readings == []


def test_the_end_of_the_block_ends_the_wait(no_thread_is_left):
    with watch_utilization(lambda: 1.0, looks_back=3600.0):
        pass


def test_the_thread_ends_with_an_error(no_thread_is_left):
    with (
        pytest.raises(ValueError, match='theirs'),
        watch_utilization(lambda: 1.0, wait=Waits(2)),
    ):
        raise ValueError('theirs')


@pytest.mark.parametrize(
    ('initialized', 'error'),
    [(False, None), (True, ModuleNotFoundError('pynvml')), (True, Unsupported('of NVML'))],
)
def test_nothing_is_read_without_nvml(monkeypatch, initialized, error):
    def utilization(device):
        raise error

    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: initialized)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'utilization', utilization)
    assert nvml_reader() is None
    with watch_utilization() as readings:
        pass
    assert readings == []


def test_the_current_gpu_is_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'utilization', {0: 5, 1: 87}.get)
    assert nvml_reader()() == 87
