"""Precision by device, and whose time is counted where."""

import pytest
import torch

from mmpose_batch import runtime
from mmpose_batch.runtime import StageClock, resolve_precision


@pytest.mark.parametrize(
    ('precision', 'device', 'cpu_bf16', 'expected'),
    [
        ('fp32', 'cpu', True, 'fp32'),
        ('bf16', 'cpu', False, 'bf16'),
        ('auto', 'cpu', True, 'bf16'),
        ('auto', 'cpu', False, 'fp32'),
        ('fp32', 'cuda:0', False, 'fp32'),
        ('fp16', 'cuda:0', False, 'fp16'),
        ('bf16', 'cuda', False, 'bf16'),
        ('auto', 'cuda', False, 'fp16'),
        ('fp16', 'mps', True, 'fp16'),
        ('auto', 'mps', True, 'fp32'),
    ],
)
def test_precision_is_settled_for_the_device(precision, device, cpu_bf16, expected, monkeypatch):
    monkeypatch.setattr(runtime, 'cpu_has_bf16', lambda: cpu_bf16)
    assert resolve_precision(precision, device) == expected


@pytest.mark.parametrize(
    ('precision', 'message'),
    [
        ('fp16', 'precision: fp16 is not for a CPU; use bf16 there'),
        ('half', "expected one of fp32, fp16, bf16, int8, auto, found 'half'"),
    ],
)
def test_a_precision_that_a_cpu_cannot_do_is_refused(precision, message):
    with pytest.raises(ValueError) as raised:
        resolve_precision(precision, 'cpu')
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ('precision', 'engine', 'expected'),
    [
        ('int8', 'openvino', 'int8'),
        ('int8', 'onnxruntime', 'int8'),
        ('int8', 'auto', 'int8'),
        ('auto', 'openvino', 'bf16'),
        ('auto', 'onnxruntime', 'fp32'),
    ],
)
def test_an_engine_has_precisions_of_its_own(precision, engine, expected, monkeypatch):
    monkeypatch.setattr(runtime, 'cpu_has_bf16', lambda: True)
    assert resolve_precision(precision, 'cpu', engine) == expected


def test_an_engine_has_a_device_of_its_own():
    assert resolve_precision('auto', 'cpu', 'openvino', 'GPU') == 'fp16'
    assert resolve_precision('fp16', 'cpu', 'openvino', 'GPU.1') == 'fp16'
    assert resolve_precision('auto', 'cuda', 'openvino') in ('fp32', 'bf16')


@pytest.mark.parametrize(
    ('precision', 'engine', 'message'),
    [
        ('int8', 'torch', 'engine torch does fp32, fp16, bf16, not int8; onnxruntime, openvino, '),
        ('int8', 'torch-compile', 'not int8; onnxruntime'),
        ('bf16', 'onnxruntime', 'engine onnxruntime does fp32, int8, not bf16; torch, '),
    ],
)
def test_a_precision_that_an_engine_cannot_do_is_refused(precision, engine, message):
    with pytest.raises(ValueError) as raised:
        resolve_precision(precision, 'cpu', engine)
    assert message in str(raised.value)


class Time:
    """A clock that goes on only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(runtime, 'time', time)
    return time


def test_the_time_of_a_stage_adds_up(time):
    clock = StageClock()
    for seconds in (1.5, 2.0):
        with clock.stage('network'):
            time.now += seconds
    with clock.stage('writing'):
        time.now += 0.25
    time.now += 10  # nobody's
    assert clock.seconds == {'network': 3.5, 'writing': 0.25}


def test_a_stage_that_fails_took_its_time_too(time):
    clock = StageClock()
    with pytest.raises(LookupError), clock.stage('network'):
        time.now += 2
        raise LookupError
    assert clock.seconds == {'network': 2}


def test_waiting_leaves_out_what_inner_stages_took(time):
    # A stream that reads (1 s an item, waiting) and detects (5 s an item, its own stage).
    clock = StageClock()

    def read():
        for item in range(3):
            time.now += 1
            yield item

    def detect(items):
        for item in items:
            with clock.stage('detection'):
                time.now += 5
            yield item

    items = clock.waiting('waiting', detect(clock.waiting('waiting', read())))
    for _ in items:
        time.now += 100  # the consumer's
    assert clock.seconds == {'waiting': 3, 'detection': 15}


def test_waiting_counts_the_end_of_the_stream_and_hands_on_errors(time):
    clock = StageClock()

    def read():
        yield 1
        time.now += 2
        raise LookupError('two')

    items = clock.waiting('waiting', read())
    assert next(items) == 1
    with pytest.raises(LookupError, match='two'):
        next(items)
    assert clock.seconds == {'waiting': 2}


@pytest.mark.parametrize(
    ('machine', 'avx512', 'expected'),
    [('aarch64', False, True), ('x86_64', True, True)],
)
def test_where_products_of_int8_are_added_in_32_bits(machine, avx512, expected, monkeypatch):
    monkeypatch.setattr(runtime.platform, 'machine', lambda: machine)
    monkeypatch.setattr(torch.cpu, '_is_vnni_supported', lambda: avx512, raising=False)
    assert runtime.cpu_has_vnni() == expected
