"""The file with the results of a chunk, by which a worker process hands them to the run.

It is written atomically and contains nothing that is executed when it is read. The same results
give the same bytes, up to the times in the first line.
"""

import base64
import os.path as osp
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import orjson
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample

from ..results import ImageResult
from ..sources.base import Frame
from ..sources.decoding import NoPixels
from ..writers.atomic import open_atomically, remove_incomplete
from .chunks import Chunk

# Folder, in the output folder, of the chunks that are not in the run's own files yet.
FOLDER = '.chunks'
_NOT_HERE = NoPixels('the frame was read by another process')


class Written(NamedTuple):
    """A result that another process has inferred, and written in some formats.

    Attributes:
        result: The result. Its data samples have predictions, but no other data.
        record: Its record.
        errors: Name of each format that the process has written to its error; None without one.
    """

    result: ImageResult
    record: dict[str, Any]
    errors: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class ChunkSummary:
    """What a worker says about a chunk.

    Attributes:
        count: Number of results.
        ended: Whether the video of the chunk ends with it.
        seconds: Seconds that were spent in each stage.
        detections: Frames by where their boxes come from, with ``det_interval``.
        engines: Reports about the networks for ``run.json``.
    """

    count: int
    ended: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    detections: Mapping[str, int] = field(default_factory=dict)
    engines: Mapping[str, Any] = field(default_factory=dict)


def chunk_path(folder: str, chunk: Chunk, run_id: str = '') -> str:
    """Path of the file of a chunk.

    Args:
        folder: Output folder of the run.
        chunk: The chunk.
        run_id: Identifies the run. A process of another run in the folder, which was killed, may
            still write a chunk.
    """
    return osp.join(folder, FOLDER, run_id, f'{chunk.name}.jsonl')


def write_chunk(path: str, summary: ChunkSummary, results: Iterable[Written]) -> None:
    """Write the file of a chunk.

    Raises:
        OSError: The disk is full.
    """
    with open_atomically(path) as file:
        file.write(orjson.dumps(summary) + b'\n')
        for result, record, errors in results:
            line = {
                'result': _packed(result),
                'record': record,
                **({'errors': errors} if errors else {}),
            }
            file.write(orjson.dumps(line) + b'\n')


def read_summary(path: str) -> ChunkSummary | None:
    """What the file of a chunk says about it; None if there is no such file."""
    try:
        with open(path, 'rb') as file:
            return ChunkSummary(**orjson.loads(file.readline()))
    except FileNotFoundError:
        return None


def read_chunk(path: str, chunk: Chunk, first: int) -> Iterator[Written]:
    """Yield the results of a chunk.

    Args:
        path: Its file.
        chunk: The chunk.
        first: Index of its first result in the run.
    """
    with open(path, 'rb') as file:
        count = orjson.loads(file.readline())['count']
        for place, line in enumerate(file):
            values = orjson.loads(line)
            is_last = place == count - 1
            frame = _frame_of(chunk, place, first + place, values['result'], is_last)
            result = _unpacked(values['result'], frame)
            yield Written(result, values['record'], values.get('errors', {}))


def read_chunk_records(path: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a chunk."""
    with open(path, 'rb') as file:
        file.readline()
        for line in file:
            yield orjson.loads(line)['record']


def remove_chunks(folder: str) -> None:
    """Remove the files of all chunks of a run.

    Raises:
        OSError: They cannot be removed.
    """
    with suppress(FileNotFoundError):
        shutil.rmtree(osp.join(folder, FOLDER))


def remove_incomplete_chunks(folder: str, run_id: str) -> None:
    """Remove what killed processes have left of the chunks of a run."""
    remove_incomplete(osp.join(folder, FOLDER, run_id))


def _packed(result: ImageResult) -> dict[str, Any]:
    """A result as JSON values; arrays are encoded bytes, so that no bit changes."""
    frame = result.frame
    values: dict[str, Any] = {'size': result.size, 'error': result.error}
    if frame.source_id:
        of_video = (frame.frame_id, frame.time, frame.time_guessed)
        values['frame_id'], values['time'], values['time_guessed'] = of_video
    values['samples'] = [
        {name: _array(value) for name, value in sample.pred_instances.items()}
        for sample in result.data_samples
    ]
    values['track_ids'] = result.track_ids
    return values


def _unpacked(values: Mapping[str, Any], frame: Frame) -> ImageResult:
    samples = []
    for arrays in values['samples']:
        sample = PoseDataSample()
        found = {name: _from_array(value) for name, value in arrays.items()}
        sample.pred_instances = InstanceData(**found)
        samples.append(sample)
    size = values['size']
    return ImageResult(
        frame=frame,
        size=None if size is None else tuple(size),
        data_samples=samples,
        track_ids=values['track_ids'],
        error=values['error'],
    )


def _frame_of(
    chunk: Chunk, place: int, index: int, values: Mapping[str, Any], is_last: bool
) -> Frame:
    """The frame of a result; frames of videos have no pixels here."""
    settings: dict[str, Any] = {'ends_chunk': is_last, 'chunk': chunk.name}
    if chunk.video is None:
        image = chunk.images[place]
        return Frame(index, image.data, image.name, image.bboxes, image.labels, **settings)
    return Frame(
        index,
        _NOT_HERE,
        chunk.video.name,
        source_id=chunk.video.data,
        time=values['time'],
        time_guessed=values['time_guessed'],
        frame_id=values['frame_id'],
        **settings,
    )


def _array(value: Any) -> list[Any]:
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise TypeError(f'expected numbers in the predictions, found {array.dtype}')
    return [array.dtype.str, array.shape, base64.b64encode(array.tobytes()).decode()]


def _from_array(value: list[Any]) -> np.ndarray:
    dtype, shape, data = value
    return np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()
