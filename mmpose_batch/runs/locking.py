"""One process at a time for an output folder."""

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
    """Hold a folder for one process; the system releases it when the process ends.

    The empty file ``.lock`` stays in the folder: another process may have opened it.

    Args:
        folder: Is made if it does not exist.

    Raises:
        FolderInUse: Another process holds it.
        OSError: The file or the folder cannot be made.
    """
    lock = FileLock(osp.join(folder, LOCK_NAME), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderInUse(f'{folder} is in use by another run') from error
    except OSError as error:
        if not osp.exists(lock.lock_file):
            raise
        # The file is there, so it is the lock that the file system has not: an old NFS, say.
        logger.warning('%s cannot be locked (%s): start no second run in it', folder, error)
    try:
        yield
    finally:
        lock.release()
