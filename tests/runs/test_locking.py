"""Only one process may write to a folder."""

import logging
import subprocess
import sys

import pytest

from mmpose_batch.errors import FolderInUse
from mmpose_batch.runs.locking import locked

HOLD = """
import sys
from mmpose_batch.runs.locking import locked
with locked(sys.argv[1]):
    print('held', flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_locked_until_the_process_ends_or_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, '-c', HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == 'held\n'
        with pytest.raises(FolderInUse, match='is in use by another run'), locked(str(tmp_path)):
            raise AssertionError('two hold it')
        process.kill()
    with locked(str(tmp_path)):
        pass


def test_a_lock_can_be_acquired_again_also_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(str(tmp_path)):
        1 / 0  # noqa: B018
    for _ in range(2):
        with locked(str(tmp_path)):
            pass


def test_a_path_that_is_not_a_folder_is_an_error(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError), locked(str(tmp_path / 'file')):
        raise AssertionError('nothing is held')


def test_a_file_system_without_locks_is_reported_and_used(tmp_path, monkeypatch, caplog):
    (tmp_path / '.lock').touch()

    def reject(*_: object, **__: object) -> None:
        raise OSError(37, 'No locks available')

    monkeypatch.setattr('filelock.FileLock.acquire', reject)
    done = []
    with caplog.at_level(logging.WARNING), locked(str(tmp_path)):
        done.append(True)
    assert done
    assert 'cannot be locked' in caplog.text
