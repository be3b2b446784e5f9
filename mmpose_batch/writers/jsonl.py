"""JSON lines: one record per image or frame of a video, in order: the journal of a run.

A run is resumed from ``predictions.jsonl`` alone: a complete line marks its image as done, so
the line is written after all other files of the image. Therefore this format is always written,
the rest of the package may read it (:data:`RECORDS_FILE` and :func:`read_records`), and other
formats can be derived from its records. ``failures.jsonl`` repeats the failure records; it is
written again when a run is resumed.
"""

import os
import os.path as osp
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any

import orjson

from .base import Record, ResumePoint, Writer, WriterSpec
from .registry import register

if TYPE_CHECKING:
    from ..results import ImageResult

RECORDS_FILE = 'predictions.jsonl'
FAILURES_FILE = 'failures.jsonl'


class JsonLinesFile:
    """A file that records are appended to, in a ``with`` block.

    Records reach the operating system when a buffer of a few kilobytes is full, in :meth:`sync`
    and at the end of the block. The last line of a killed process may be incomplete.

    Args:
        path: Path of the file.
        keep_bytes: Bytes at its beginning that stay; the rest is truncated.
    """

    def __init__(self, path: str, keep_bytes: int = 0) -> None:
        self.path = path
        self._keep_bytes = keep_bytes

    def __enter__(self) -> 'JsonLinesFile':
        os.makedirs(osp.dirname(self.path) or '.', exist_ok=True)
        self._file = open(self.path, 'ab')
        if self._file.seekable() and osp.isfile(self.path):
            self._file.truncate(self._keep_bytes)
        return self

    def append(self, record: Record) -> None:
        """Append one record.

        Raises:
            OSError: The disk is full.
        """
        self._file.write(orjson.dumps(record) + b'\n')

    def sync(self) -> None:
        """Flush all appended records to disk.

        Raises:
            OSError: The disk is full.
        """
        self._file.flush()
        if osp.isfile(self.path):
            os.fsync(self._file.fileno())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.sync()
        finally:
            self._file.close()


def read_records(path: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each complete record of a file and the offset of its end, in bytes.

    Stops at the first line that is not a complete record, which a killed run may leave.
    """
    offset = 0
    with open(path, 'rb') as file:
        for line in file:
            if not line.endswith(b'\n'):
                return
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                return
            offset += len(line)
            yield record, offset


class JsonLinesWriter(Writer):
    """Writes ``predictions.jsonl`` and ``failures.jsonl``."""

    def __init__(self) -> None:
        self._files = ExitStack()

    def open(self, folder: str, resume: ResumePoint) -> None:
        """See :class:`Writer`."""
        path = osp.join(folder, RECORDS_FILE)
        self._failures = self._files.enter_context(JsonLinesFile(osp.join(folder, FAILURES_FILE)))
        end = 0
        if resume.images:
            for record, offset in islice(read_records(path), resume.images):
                end = offset
                if 'error' in record:
                    self._failures.append(failure_of(record))
        self._records = self._files.enter_context(JsonLinesFile(path, end))

    def append(self, result: 'ImageResult', record: Record) -> None:
        """See :class:`Writer`."""
        if 'error' in record:
            self._failures.append(failure_of(record))
        self._records.append(record)

    def sync(self) -> None:
        """See :class:`Writer`."""
        self._failures.sync()
        self._records.sync()

    def close(self) -> None:
        """See :class:`Writer`."""
        self._files.close()


def failure_of(record: Record) -> dict[str, Any]:
    """The failure record of an image; its instances, if any, stay in ``predictions.jsonl``."""
    keys = ('image', 'video', 'frame', 'time', 'time_guessed', 'error')
    return {key: record[key] for key in keys if key in record}


register(
    WriterSpec(
        name='jsonl',
        help='one line per image, always written',
        build=lambda context: JsonLinesWriter(),
        files=(RECORDS_FILE, FAILURES_FILE),
        journal=True,
    )
)
