"""The journal of a worker process: what it is reading, known even after it was killed."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..sources.base import Frame
from .blame import Death

_ENTRY = re.compile(rb'([+\-=])(\d+)\n')


class Journal:
    """Writes down which images of a chunk are being read, and how many frames of a video were.

    Every entry is one small write to a file, which outlives the process.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        # Appending is atomic between threads.
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def start(self) -> None:
        """Begin with another chunk."""
        os.ftruncate(self._file, 0)

    @contextmanager
    def reading(self, frame: Frame) -> Iterator[None]:
        """Name an image, by its index, as one that is being read within the ``with`` block."""
        self._write(b'+%d\n' % frame.index)
        try:
            yield
        finally:
            self._write(b'-%d\n' % frame.index)

    def note_frames(self, count: int) -> None:
        """Note how many results of a video have been read."""
        self._write(b'=%d\n' % count)

    def _write(self, entry: bytes) -> None:
        with suppress(OSError):  # a full disk: then it is not known which file was open
            os.write(self._file, entry)


def read_death(path: str, reason: str) -> Death:
    """How a process ended that has died.

    Args:
        path: Its journal.
        reason: What happened to it.
    """
    opened: set[int] = set()
    frames = 0
    with suppress(FileNotFoundError), open(path, 'rb') as file:
        for kind, number in _ENTRY.findall(file.read()):
            if kind == b'+':
                opened.add(int(number))
            elif kind == b'-':
                opened.discard(int(number))
            else:
                frames = int(number)
    return Death(reason, frozenset(opened), frames)
