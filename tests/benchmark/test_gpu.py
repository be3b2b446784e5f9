"""How busy a GPU is: read while something runs, and not at all where there is none."""

import time

import pytest
import torch

from mmpose_batch.benchmark.gpu import nvml_reader, watch_utilization


class Unsupported(Exception):
    """As those of pynvml, which are of no other kind."""


def test_it_is_read_while_the_block_runs(no_thread_is_left):
    values = iter(range(1000))
    with watch_utilization(lambda: next(values), period=0.005, looks_back=0.005) as readings:
        deadline = time.monotonic() + 10
        while len(readings) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
    count = len(readings)
    assert readings == list(range(count)) and count >= 3
    time.sleep(0.02)
    assert len(readings) == count


def test_a_driver_that_stops_telling_is_no_failure(no_thread_is_left):
    values = iter([87.0])

    def read():
        try:
            return next(values)
        except StopIteration:
            raise Unsupported from None

    with watch_utilization(read, period=0.005, looks_back=0.005) as readings:
        time.sleep(0.1)
    assert readings == [87.0]


def test_a_short_block_has_no_reading():
    with watch_utilization(lambda: 1.0) as readings:
        pass
    assert readings == []


def test_the_thread_ends_with_an_error(no_thread_is_left):
    with (
        pytest.raises(ValueError, match='theirs'),
        watch_utilization(lambda: 1.0, period=0.005, looks_back=0.005),
    ):
        raise ValueError('theirs')


@pytest.mark.parametrize(
    ('initialized', 'error'),
    [(False, None), (True, ModuleNotFoundError('pynvml')), (True, Unsupported('of NVML'))],
)
def test_nothing_is_read_where_nothing_can(monkeypatch, initialized, error):
    def utilization(device):
        raise error

    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: initialized)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'utilization', utilization)
    assert nvml_reader() is None
    with watch_utilization() as readings:
        pass
    assert readings == []


def test_the_current_gpu_is_asked(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'utilization', {0: 5, 1: 87}.get)
    assert nvml_reader()() == 87
