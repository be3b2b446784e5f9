"""Writing files so that what is on disk is whole or absent."""

import os
import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


@contextmanager
def open_atomically(path: str) -> Iterator[BinaryIO]:
    """Open a file that appears at ``path`` when the ``with`` block ends well.

    It survives a power cut from then on. What a killed process leaves of it lies in
    the same folder as ``.partial``, and goes when the next file there is written.

    Raises:
        OSError: The folder cannot be made or the disk is full.
    """
    os.makedirs(osp.dirname(path) or '.', exist_ok=True)
    partial = osp.join(osp.dirname(path), '.partial')
    try:
        with open(partial, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(osp.dirname(path) or '.')  # the name too
    except BaseException:
        if osp.lexists(partial):
            os.unlink(partial)
        raise


def _sync_folder(folder: str) -> None:
    """Have the names in a folder survive a power cut, where the system lets a program ask for it.

    Raises:
        OSError: The disk fails.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders; others may lack the right to list one
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
