"""Atomic writing of files: a file on disk is complete or absent."""

import os
import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


@contextmanager
def open_atomically(path: str) -> Iterator[BinaryIO]:
    """Open a file that appears at ``path`` when the ``with`` block ends without an error.

    From then on the file survives a power cut. A killed process leaves an incomplete file named
    ``.partial`` in the same folder, which the next atomic write there replaces.

    Raises:
        OSError: The folder cannot be created or the disk is full.
    """
    os.makedirs(osp.dirname(path) or '.', exist_ok=True)
    partial = osp.join(osp.dirname(path), '.partial')
    try:
        with open(partial, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(osp.dirname(path) or '.')  # flushes the new name
    except BaseException:
        if osp.lexists(partial):
            os.unlink(partial)
        raise


def _sync_folder(folder: str) -> None:
    """Flush the names in a folder to disk, on systems that can sync a folder.

    Raises:
        OSError: The disk fails.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows cannot open folders; elsewhere permission may be missing
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
