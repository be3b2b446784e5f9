"""The files of a run on a cluster: some for each chunk, and one JSON file about the run.

The records of a chunk are written last of its files, so they mark it as done. They are in
subfolders of 1000 chunks, so that a restarted run lists what is done with little memory.
"""

import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ..distributed.chunks import Chunk
from ..errors import RunError
from ..sources.base import chunk_name
from ..version import __version__
from ..writers.base import Record
from ..writers.jsonl import FAILURES_FILE, RECORDS_FILE, failure_of
from ..writers.parquet import path_of
from ..writers.parquet_tables import ModelInfo, tables_of, write_table
from .files import ClusterFolder
from .inputs import Inputs

INFO_FILE = 'cluster.json'
RECORDS, FAILURES, VIDEOS = 'records', 'failures', 'videos'
# Chunks in a subfolder of records.
GROUP = 1000


def records_name(number: int, video: int | None = None) -> str:
    """Path of the records of a chunk, below the output folder."""
    return f'{RECORDS}/{group_of(number, video)}/{chunk_name(number, video)}.jsonl'


def group_of(number: int, video: int | None = None) -> str:
    """Subfolder for the records of a chunk: all those of a video are in one."""
    return f'{number // GROUP:04d}' if video is None else f'v{video:05d}'


def video_name(video: int) -> str:
    """Path of the file that marks a video as done, below the output folder."""
    return f'{VIDEOS}/v{video:05d}.json'


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of results, instances and failures of some chunks."""

    results: int = 0
    persons: int = 0
    failures: int = 0

    def __add__(self, other: 'Counts') -> 'Counts':
        return Counts(
            self.results + other.results,
            self.persons + other.persons,
            self.failures + other.failures,
        )

    @classmethod
    def of(cls, records: Sequence[Record]) -> 'Counts':
        """The counts of some records."""
        return cls(
            len(records),
            sum(len(record.get('instances', ())) for record in records),
            sum('error' in record for record in records),
        )


def is_written(folder: ClusterFolder, chunk: Chunk) -> bool:
    """Whether all files of a chunk are complete."""
    return folder.exists(records_name(chunk.number, chunk.video_number))


def write_chunk(
    folder: ClusterFolder, chunk: Chunk, records: Sequence[Record], model: ModelInfo | None
) -> None:
    """Write the files of a chunk, and its records last.

    Args:
        folder: The output folder.
        chunk: The chunk.
        records: Its records, in order.
        model: The model, for the metadata of Parquet tables; None writes no tables.

    Raises:
        OSError: A file cannot be written.
        RunError: The chunk is done already, with other records: two workers differ.
    """
    name = records_name(chunk.number, chunk.video_number)
    data = b''.join(orjson.dumps(record) + b'\n' for record in records)
    before = folder.read(name)
    if before is not None and before != data:
        raise RunError(
            f'{name}: a second worker has computed other records for this chunk; workers must have '
            'the same hardware and packages'
        )
    if before is not None:
        return
    if model is not None:
        for table, rows in tables_of(records, model)._asdict().items():
            write_table(rows, folder.path(path_of(table, chunk.name)), folder.remote)
    failures = [failure_of(record) for record in records if 'error' in record]
    if failures:
        lines = b''.join(orjson.dumps(failure) + b'\n' for failure in failures)
        folder.write(f'{FAILURES}/{chunk.name}.jsonl', lines)
    folder.write(name, data)


def read_records(folder: ClusterFolder, chunk: Chunk) -> list[dict[str, Any]]:
    """The records of a chunk that is done."""
    data = folder.read(records_name(chunk.number, chunk.video_number)) or b''
    return [orjson.loads(line) for line in data.splitlines()]


def end_video(folder: ClusterFolder, video: int, chunks: int) -> None:
    """Mark a video as done."""
    folder.write(video_name(video), json.dumps({'chunks': chunks}).encode())


def missing_chunks(folder: ClusterFolder, inputs: Inputs) -> Iterator[int]:
    """Numbers of the chunks of images that are not done."""
    for first in range(0, inputs.chunks, GROUP):
        done = folder.names(f'{RECORDS}/{group_of(first)}')
        for number in range(first, min(first + GROUP, inputs.chunks)):
            if f'{chunk_name(number)}.jsonl' not in done:
                yield number


def missing_videos(folder: ClusterFolder, inputs: Inputs) -> list[int]:
    """Numbers of the videos that are not done."""
    done = folder.names(VIDEOS) if inputs.videos else set()
    names = map(video_name, range(inputs.videos))
    return [video for video, name in enumerate(names) if posixpath.basename(name) not in done]


def count_failures(folder: ClusterFolder) -> int:
    """Number of failure records of all chunks."""
    names = folder.names(FAILURES)
    return sum((folder.read(f'{FAILURES}/{name}') or b'').count(b'\n') for name in names)


def merge(folder: ClusterFolder, inputs: Inputs) -> None:
    """Write ``predictions.jsonl`` and ``failures.jsonl``, in the order of the inputs.

    Raises:
        OSError: A file cannot be written.
        RunError: The records of a chunk are gone.
    """
    failed = folder.names(FAILURES)
    with folder.writing(RECORDS_FILE) as records, folder.writing(FAILURES_FILE) as failures:
        for name, path in _names(folder, inputs):
            data = folder.read(path)
            if data is None:
                raise RunError(f'{path} is gone')
            records.write(data)
            if f'{name}.jsonl' in failed:
                failures.write(folder.read(f'{FAILURES}/{name}.jsonl') or b'')


def _names(folder: ClusterFolder, inputs: Inputs) -> Iterator[tuple[str, str]]:
    """Name and path of the records of every chunk, in the order of the inputs."""
    for number in range(inputs.chunks):
        yield chunk_name(number), records_name(number)
    for video in range(inputs.videos):
        data = folder.read(video_name(video))
        if data is None:
            raise RunError(f'{video_name(video)} is gone')
        for number in range(json.loads(data)['chunks']):
            yield chunk_name(number, video), records_name(number, video)


def read_info(folder: ClusterFolder) -> dict[str, Any] | None:
    """The JSON file about the run in a folder; None if there is no run.

    Raises:
        RunError: The file is damaged, or the folder contains another run.
    """
    data = folder.read(INFO_FILE)
    if data is None:
        if folder.exists('run.json') or folder.exists(RECORDS_FILE):
            raise RunError(
                f'{folder.url} already contains a run of one machine: name another folder'
            )
        return None
    try:
        info = json.loads(data)
        return {**info, 'identity': dict(info['identity']), 'selected': dict(info['selected'])}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f'cannot resume: {folder.url}/{INFO_FILE} is damaged') from error


def write_info(folder: ClusterFolder, **values: Any) -> None:
    """Write the JSON file about the run."""
    info = {'written_by': f'mmpose_batch {__version__}', **values}
    folder.write(INFO_FILE, json.dumps(info, indent=2).encode() + b'\n')
