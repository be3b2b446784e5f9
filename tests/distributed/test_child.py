"""Child processes: what happens when the server that starts them is killed."""

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


def test_a_child_whose_server_was_killed_is_replaced(no_server, tmp_path):
    child = ChildProcess('json', str(tmp_path / 'temporary'))
    (tmp_path / 'temporary').mkdir()
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    with pytest.raises(ChildDied):
        for _ in range(100):
            child.call(time.sleep, 0.1)
    child.kill()
    pid = child.pid
    del child  # which looks like the end of this process to a child
    wait_for_end(pid)  # its replacement would share a GPU and a journal with it
    assert (tmp_path / 'temporary').exists()
    other = ChildProcess('json')
    assert other.call(os.getpid) == other.pid != pid
    other.kill()


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended; it may not be removed, since its parent has ended too."""
    path = Path(f'/proc/{pid}/stat')
    end = time.monotonic() + PATIENCE / 4
    while path.exists() and path.read_text().rpartition(')')[2].split()[0] not in 'ZX':
        assert time.monotonic() < end, 'the child does not end'
        time.sleep(0.05)
