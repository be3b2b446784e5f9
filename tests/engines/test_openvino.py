"""OpenVINO's Python bindings in several threads."""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.factories import FORKED_WITH

PROCESSES = 8
# Seconds until all processes count as deadlocked; they need one or two.
SECONDS = 300

# The fork server of test_run has imported everything but OpenVINO.
pytestmark = pytest.mark.xdist_group('test_run')


def infer_in_two_threads(out: str) -> None:
    """Let two threads be the first of this process to pass OpenVINO an array.

    Some of such processes deadlock where openvino is imported by its own name only.
    """
    assert 'openvino' not in sys.modules
    from mmpose_batch.engines.openvino import import_openvino

    ov = import_openvino()
    from openvino import opset13 as ops

    parameter = ops.parameter([1, 3], np.float32)
    compiled = ov.Core().compile_model(ov.Model([ops.relu(parameter)], [parameter]), 'CPU')
    both = threading.Barrier(2)

    def infer(_: int) -> int:
        request = compiled.create_infer_request()
        both.wait(SECONDS / 5)
        (output,) = request.infer({0: np.ones((1, 3), np.float32)}).to_tuple()
        return int(output.sum())

    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(2) as pool:
        Path(out).write_text(str(list(pool.map(infer, range(2)))))


def note_telemetry(out: str) -> None:
    """Write whether OpenVINO may send usage statistics, as it does by default."""
    from mmpose_batch.engines.openvino import import_openvino

    before = dict(os.environ)
    import_openvino()
    from openvino.tools import ovc

    assert dict(os.environ) == before
    Path(out).write_text(f'may send: {ovc.telemetry.consent}')


def fail(out: str) -> None:
    raise LookupError('no such processor')


def end_at_once(out: str) -> None:
    os._exit(7)


def hang(out: str) -> None:
    threading.Event().wait()


def report_error(run: Callable[[str], None], out: str) -> None:
    try:
        run(out)
    except BaseException as error:
        Path(out).write_text(f'{type(error).__name__}: {error}')
        raise


def outcomes(run: Callable[[str], None], outs: list[Path], seconds: float = SECONDS) -> list[str]:
    """What processes wrote to their files, or else how they ended, or that they hang."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(FORKED_WITH)
    processes = [context.Process(target=report_error, args=(run, str(out))) for out in outs]
    for process in processes:
        process.start()
    try:
        deadline = time.monotonic() + seconds
        for process in processes:
            process.join(max(0, deadline - time.monotonic()))
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [
        'deadlock'
        if code is None
        else out.read_text()
        if out.exists()
        else f'ended with code {code} and wrote nothing'
        for code, out in zip(codes, outs, strict=True)
    ]


@pytest.mark.slow
def test_two_threads_may_use_openvino_first_concurrently(tmp_path):
    pytest.importorskip('openvino')
    outs = [tmp_path / str(number) for number in range(PROCESSES)]
    assert outcomes(infer_in_two_threads, outs) == ['[3, 3]'] * PROCESSES


@pytest.mark.slow
def test_openvino_sends_no_usage_statistics(tmp_path):
    pytest.importorskip('openvino_telemetry')
    assert outcomes(note_telemetry, [tmp_path / 'out']) == ['may send: False']


@pytest.mark.parametrize(
    ('run', 'seconds', 'outcome'),
    [
        (fail, SECONDS, 'LookupError: no such processor'),
        (end_at_once, SECONDS, 'ended with code 7 and wrote nothing'),
        (hang, 0.0, 'deadlock'),
    ],
)
def test_only_a_process_that_hangs_counts_as_a_deadlock(tmp_path, run, seconds, outcome):
    assert outcomes(run, [tmp_path / 'out'], seconds) == [outcome]
