"""OpenVINO's bindings, as several threads use them."""

import multiprocessing
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.factories import FORKED_WITH

PROCESSES = 8
# Until all are taken for deadlocked; they need one or two.
SECONDS = 300

# The server that forks test_run's tools has imported all but OpenVINO.
pytestmark = pytest.mark.xdist_group('test_run')


def infer_in_two_threads(out: str) -> None:
    """Let two threads be the first of this process to hand OpenVINO an array.

    Half of such processes deadlocked before NumPy was met on import.
    """
    assert 'openvino' not in sys.modules
    import openvino as ov
    from openvino import opset13 as ops

    import mmpose_batch.engines.openvino  # noqa: F401

    parameter = ops.parameter([1, 3], np.float32)
    compiled = ov.Core().compile_model(ov.Model([ops.relu(parameter)], [parameter]), 'CPU')
    both = threading.Barrier(2)

    def infer() -> None:
        request = compiled.create_infer_request()
        both.wait()
        request.infer({0: np.ones((1, 3), np.float32)}).to_tuple()
        done.append(True)

    done: list[bool] = []
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=infer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Path(out).write_text(str(len(done)))


@pytest.mark.slow
def test_two_threads_may_be_the_first_at_once(tmp_path):
    pytest.importorskip('openvino')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(FORKED_WITH)
    outs = [tmp_path / str(number) for number in range(PROCESSES)]
    processes = [context.Process(target=infer_in_two_threads, args=(str(out),)) for out in outs]
    for process in processes:
        process.start()
    try:
        deadline = time.monotonic() + SECONDS
        for process in processes:
            process.join(max(0, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert [out.read_text() if out.exists() else 'deadlock' for out in outs] == ['2'] * PROCESSES
