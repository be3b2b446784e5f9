"""Cores: parsing, binding a process to them, and sharing them between threads."""

import os
import subprocess
import sys

import cv2
import pytest
import torch
from support.factories import write_photos

from mmpose_batch import cores
from mmpose_batch.config import BatchOptions
from mmpose_batch.cores import default_threads, parse_cores, single_opencv_thread

pytestmark = pytest.mark.skipif(
    not hasattr(os, 'sched_setaffinity'), reason='needs a system that binds processes to cores'
)


@pytest.fixture
def machine(monkeypatch):
    """A machine with eight cores."""
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8)))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [('2', {2}), ('0-3', {0, 1, 2, 3}), ('0,2-3', {0, 2, 3}), ('1, 1', {1}), (5, {5})],
)
def test_a_list_of_cores_is_read(text, expected, machine):
    assert parse_cores(text) == expected


@pytest.mark.parametrize('text', ['', 'all', '3-1', '-1', '0,', '0-', '1.5', None])
def test_an_invalid_list_of_cores_is_rejected(text, machine):
    with pytest.raises(ValueError, match='cpu_affinity: expected cores such as 2, 0-3 or 0,2-3'):
        parse_cores(text)


def test_cores_that_do_not_exist_are_rejected(machine):
    message = 'cpu_affinity: this process may use 0, 1, 2, 3, 4, 5, 6, 7, found 8, 9'
    with pytest.raises(ValueError, match=message):
        BatchOptions(cpu_affinity='6-9')


# In a separate process, since threads of libraries stay bound.
BINDING = """
import os, sys, threading
from mmpose_batch.cores import available_cores, bind_to_cores, default_threads
import cv2, torch

cv2.setNumThreads(2)
release = threading.Event()
before = threading.Thread(target=release.wait)
before.start()
first = min(os.sched_getaffinity(0))
bind_to_cores(frozenset({first}))
found = []
after = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
after.start(), after.join()
assert found == [{first}]
assert os.sched_getaffinity(before.native_id) == {first}
assert available_cores() == default_threads() == cv2.getNumThreads() == 1
release.set()
print('bound')
"""


def test_threads_from_before_and_after_are_bound():
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', BINDING], capture_output=True, text=True, timeout=600
    )
    assert done.stdout == 'bound\n', done.stderr


@pytest.mark.parametrize(('torchs', 'there', 'expected'), [(8, 4, 4), (1, 4, 1), (4, 4, 4)])
def test_the_network_has_no_more_threads_than_cores(torchs, there, expected, monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: torchs)
    monkeypatch.setattr(cores, 'available_cores', lambda: there)
    assert default_threads() == expected


def test_opencv_has_one_thread_while_one_user_requests_that():
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        with single_opencv_thread():
            with single_opencv_thread():
                assert cv2.getNumThreads() == 1
            assert cv2.getNumThreads() == 1
        assert cv2.getNumThreads() == 2
        with pytest.raises(KeyError), single_opencv_thread():
            raise KeyError
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_an_inferencer_takes_its_threads_and_cores(monkeypatch, one_stage):
    bound = []
    monkeypatch.setattr('mmpose_batch.cores.bind_to_cores', bound.append)
    before = torch.get_num_threads()
    core = min(os.sched_getaffinity(0))
    try:
        inferencer = one_stage.ours(num_threads=2, cpu_affinity=str(core))
        assert torch.get_num_threads() == inferencer.options.num_threads == 2
    finally:
        torch.set_num_threads(before)
    assert bound == [{core}]


def test_workers_read_with_a_single_thread_of_opencv(monkeypatch, one_stage, tmp_path):
    photos = [str(path) for path in write_photos(tmp_path, 3)]
    seen = []
    original = cv2.imdecode
    monkeypatch.setattr(
        cv2, 'imdecode', lambda *args: seen.append(cv2.getNumThreads()) or original(*args)
    )
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        for workers, expected in ((2, 1), (0, 2)):
            seen.clear()
            list(one_stage.ours(num_workers=workers)(photos))
            assert set(seen) == {expected}
            assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)
