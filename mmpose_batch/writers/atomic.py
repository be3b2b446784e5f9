"""Atomic writing of files: a file on disk is complete or absent."""

import os
import os.path as osp
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

_PARTIAL = '.partial-'
_INCOMPLETE = re.compile(re.escape(_PARTIAL) + '[0-9a-f]{16}')


@contextmanager
def open_atomically(path: str) -> Iterator[BinaryIO]:
    """Open a file that appears at ``path`` when the ``with`` block ends without an error.

    From then on the file survives a power cut. Any number of threads and processes may write into
    one folder. A killed process leaves an incomplete file in the folder, with a name such as
    ``.partial-0123456789abcdef``, which :func:`remove_incomplete` removes.

    Raises:
        OSError: The folder cannot be created or the disk is full.
    """
    with _renamed(path) as partial, open(partial, 'xb') as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def path_atomically(path: str) -> Iterator[str]:
    """As :func:`open_atomically`, for libraries that open a file by its path.

    Yields the path of the incomplete file, which must exist and be closed when the ``with`` block
    ends.

    Raises:
        OSError: The folder cannot be created, or the file cannot be flushed to disk.
    """
    with _renamed(path) as partial:
        yield partial
        with open(partial, 'rb+') as file:  # Windows flushes only files that are open for writing
            os.fsync(file.fileno())


@contextmanager
def _renamed(path: str) -> Iterator[str]:
    """Path of an incomplete file, which is renamed at the end, or removed after an error."""
    folder = osp.dirname(path) or '.'
    os.makedirs(folder, exist_ok=True)
    partial = osp.join(folder, _PARTIAL + secrets.token_hex(8))
    try:
        yield partial
        os.replace(partial, path)
        _sync_folder(folder)  # flushes the new name
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def remove_incomplete(folder: str) -> None:
    """Remove the incomplete files that killed processes left in a folder, but not below it.

    No other process may be writing into the folder.

    Raises:
        OSError: A file cannot be removed.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(folder):
            if _INCOMPLETE.fullmatch(name):
                os.unlink(osp.join(folder, name))


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
