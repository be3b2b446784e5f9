"""OpenVINO's bindings, as several threads use them."""

import subprocess
import sys

import pytest

PROCESSES = 4
# Two threads, each the first of its process to hand OpenVINO an array. Half of such processes hung
# before NumPy was met on import.
MEETING = """
import sys, threading
import mmpose_batch.engines.openvino
import numpy as np, openvino as ov
from openvino import opset13 as ops

parameter = ops.parameter([1, 3], np.float32)
compiled = ov.Core().compile_model(ov.Model([ops.relu(parameter)], [parameter]), 'CPU')
both = threading.Barrier(2)

def infer():
    request = compiled.create_infer_request()
    both.wait()
    request.infer({0: np.ones((1, 3), np.float32)}).to_tuple()
    done.append(True)

done = []
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=infer) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(done))
"""


@pytest.mark.slow
def test_two_threads_may_be_the_first_at_once():
    pytest.importorskip('openvino')
    processes = [
        subprocess.Popen([sys.executable, '-W', 'ignore', '-c', MEETING], stdout=subprocess.PIPE)
        for _ in range(PROCESSES)
    ]
    try:
        answers = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [answer.split()[-1:] for answer in answers] == [[b'2']] * PROCESSES
