"""Locking an output folder, so that only one process writes to it."""

import logging
import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from ..errors import FolderInUse

LOCK_NAME = '.lock'

logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Lock a folder for this process; the system releases the lock when the process ends.

    The empty file ``.lock`` stays in the folder: another process may have opened it.

    Args:
        folder: Path of the folder, which is created if it does not exist.

    Raises:
        FolderInUse: Another process has locked it.
        OSError: The file or the folder cannot be created.
    """
    lock = FileLock(osp.join(folder, LOCK_NAME), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderInUse(f'{folder} is in use by another run') from error
    except OSError as error:
        if not osp.exists(lock.lock_file):
            raise
        # The file exists, so the file system does not support locks (an old NFS).
        logger.warning('%s cannot be locked (%s); do not start a second run in it', folder, error)
    try:
        yield
    finally:
        lock.release()
