"""Parquet files of a run in ``parquet/``: one file per chunk for persons, and one for images."""

import os
import os.path as osp
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..sources.video_names import is_video_name
from .base import Record, ResumePoint, Writer, WriterContext, WriterSpec
from .parquet_tables import ModelInfo, Tables, import_pyarrow, tables_of, write_table
from .registry import register

if TYPE_CHECKING:
    from ..results import ImageResult
    from .options import RunOptions

NAME = 'parquet'
FOLDER = 'parquet'
_FILE = re.compile(r'part-(\d{7,}|v\d{5,}-\d{5,})\.parquet')


def path_of(table: str, chunk: str) -> str:
    """Path below the output folder of a chunk's file of one of the :class:`Tables`."""
    return f'{FOLDER}/{table}/part-{chunk}.parquet'


class ParquetWriter(Writer):
    """Writes ``parquet/poses/part-<chunk>.parquet`` and ``parquet/images/part-<chunk>.parquet``.

    All values are those of the records.
    """

    def __init__(self, context: WriterContext) -> None:
        self._model = ModelInfo.of(context.inferencer)
        self._videos = {video.name: number for number, video in enumerate(context.videos)}
        self._chunk = ''
        self._records: list[Record] = []

    def open(self, folder: str, resume: ResumePoint) -> None:
        """See :class:`Writer`."""
        super().open(folder, resume)
        done = {
            path_of(table, chunk)
            for chunk in self._chunks_of(resume.records())
            for table in Tables._fields
        }
        for path in find_files(folder):
            if path not in done:
                os.unlink(osp.join(folder, path))

    def _chunks_of(self, records: Iterable[Record]) -> set[str]:
        """Names of the chunks of a run's records, in their order from the first one on."""
        from ..sources.base import chunk_name

        size, counts, names = _chunk_size(), Counter[int | None](), set()
        for record in records:
            video = self._videos[record['video']] if 'video' in record else None
            names.add(chunk_name(counts[video] // size, video))
            counts[video] += 1
        return names

    def append(self, result: 'ImageResult', record: Record) -> None:
        """See :class:`Writer`."""
        self._chunk = result.frame.chunk
        self._records.append(record)

    def sync(self) -> None:
        """See :class:`Writer`."""
        if not self._records:
            return
        tables = tables_of(self._records, self._model)
        for name, table in tables._asdict().items():
            write_table(table, osp.join(self.folder, path_of(name, self._chunk)))
        self._records = []


def _chunk_size() -> int:
    from ..sources import items  # not at the top: it imports PyTorch

    return items.CHUNK


def paths(names: Iterable[str]) -> Iterator[str]:
    """Paths of the files of images and videos with these names; of each video, the first chunk."""
    from ..sources.base import chunk_name

    size, images, videos = _chunk_size(), 0, 0
    for name in names:
        if is_video_name(name):
            chunk = chunk_name(0, videos)
            videos += 1
        else:
            chunk = chunk_name(images // size) if images % size == 0 else None
            images += 1
        if chunk is not None:
            yield from (path_of(table, chunk) for table in Tables._fields)


def find_files(folder: str) -> Iterator[str]:
    """Yield the files with names of chunks in an output folder, as paths below it."""
    for table in Tables._fields:
        below = f'{FOLDER}/{table}'
        with suppress(FileNotFoundError, NotADirectoryError):
            names = sorted(os.listdir(osp.join(folder, below)))
            yield from (f'{below}/{name}' for name in names if _FILE.fullmatch(name))


def _settings(options: 'RunOptions') -> dict[str, Any] | None:
    """The files depend on the version of pyarrow."""
    return {'pyarrow': import_pyarrow().__version__} if NAME in options.formats else None


register(
    WriterSpec(
        name=NAME,
        help='Parquet tables of persons and of images, one file per chunk',
        build=ParquetWriter,
        folder=FOLDER,
        paths=paths,
        find_files=find_files,
        check_packages=import_pyarrow,
        settings=_settings,
    )
)
