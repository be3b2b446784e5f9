"""Child processes: what happens when the server that starts them is killed."""

import gc
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import forkserver, get_all_start_methods
from pathlib import Path
from threading import Thread

import pytest

from mmpose_batch.distributed.child import ChildDied, ChildProcess

pytestmark = pytest.mark.skipif(
    'forkserver' not in get_all_start_methods(), reason='there is no fork server here'
)
# Seconds after which a test that would wait forever fails.
PATIENCE = 60
SLOW = """
import os, pathlib, time
path = pathlib.Path(__file__)
if not path.with_suffix('.pid').exists():
    path.with_suffix('.tmp').write_text(str(os.getpid()))
    path.with_suffix('.tmp').rename(path.with_suffix('.pid'))
    time.sleep(60)
"""


@pytest.fixture
def no_server() -> Iterator[None]:
    """Ends the fork server of this process before a test, and that of the test after it.

    They have imported other modules: children of later tests would import them one by one.
    """
    forkserver._forkserver._stop()
    yield
    forkserver._forkserver._stop()


def kill_when_written(path: Path) -> None:
    """Kill the process whose id a file contains, once the file exists."""
    end = time.monotonic() + PATIENCE
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(int(path.read_text()), signal.SIGKILL)


def test_a_server_that_is_killed_while_it_starts_a_child(no_server, tmp_path, monkeypatch):
    (tmp_path / 'slow_to_import.py').write_text(SLOW)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    killer = Thread(target=kill_when_written, args=(tmp_path / 'slow_to_import.pid',))
    killer.start()
    child = ChildProcess('slow_to_import')
    killer.join()
    assert child.call(os.getpid) == child.pid
    child.kill()


def has_ended(pid: int) -> bool:
    try:
        return ') Z ' in Path(f'/proc/{pid}/stat').read_text()
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='reads the states of processes')
def test_a_child_removes_no_folder_that_its_parent_still_needs(no_server, tmp_path):
    child = ChildProcess('json', str(tmp_path))
    pid = child.call(os.getpid)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    with pytest.raises(ChildDied):
        child.call(time.sleep, PATIENCE)
    del child
    end = time.monotonic() + PATIENCE
    while not has_ended(pid):
        assert time.monotonic() < end, 'a child that was given up does not end'
        gc.collect()
        time.sleep(0.01)
    assert tmp_path.exists()


def test_a_child_whose_server_was_killed_is_replaced(no_server):
    child = ChildProcess('json')
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    with pytest.raises(ChildDied):
        for _ in range(100):
            child.call(time.sleep, 0.1)
    child.kill()
    other = ChildProcess('json')
    assert other.call(os.getpid) == other.pid != child.pid
    other.kill()
