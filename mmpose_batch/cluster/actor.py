"""Ray's actors: one that infers the chunks of a run, and one for pipelines of the user.

An actor builds its inferencer when it gets its first work, not in its constructor: Ray would
restart an actor whose constructor kills it without end, but it gives up work after two deaths.
"""

import os
import os.path as osp
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Timer
from typing import TYPE_CHECKING, Any

from .files import ClusterFolder, file_system, is_url
from .inputs import Inputs, image_chunk, name_of, videos_of

if TYPE_CHECKING:
    import numpy as np

    from ..distributed.chunks import Chunk
    from ..spec import InferencerSpec
    from ..writers.base import Record
    from ..writers.parquet_tables import ModelInfo
    from .inference import Inference
    from .outputs import Counts

# Exit status of an actor's process that ends itself since a chunk takes too long.
HANGS = 71


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all actors of a run share; small and picklable.

    Attributes:
        folder: The output folder.
        inputs: The inputs of the run.
        setup: Ray's reference to the pickled
            :class:`mmpose_batch.cluster.inference.ActorSetup`, which is copied to each
            node once.
        model: The model, for Parquet tables; None writes none.
        timeout: Seconds after which a chunk counts as hanging; None for never.
        isolated: Whether each actor infers in a process of its own, and finds the files that kill
            this process; else it infers in the process of the actor.
    """

    folder: ClusterFolder
    inputs: Inputs
    setup: Any
    model: 'ModelInfo | None' = None
    timeout: float | None = None
    isolated: bool = False


class ChunkActor:
    """Infers chunks, each of which is a row, and writes their files.

    Args:
        work: What all actors of the run share.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._inference: Inference | None = None
        self._videos: list[str] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Infer one chunk of images, or all chunks of a video, and write their files.

        Args:
            row: ``video``: number of the video, or -1; ``number``, ``start`` and ``end``: number of
                the chunk of images and place of its paths, see
                :func:`mmpose_batch.cluster.inputs.read_offsets`.

        Returns:
            ``results``, ``persons`` and ``failures``: counts of this row. ``error``: why it cannot
            be computed, or empty. ``is_fatal``: whether the others cannot be either.
        """
        from ..errors import RunError, is_device_lost, one_line
        from .outputs import Counts

        try:
            counts = self._infer_video(row) if row['video'] >= 0 else self._infer_images(row)
            return _answer(counts)
        except Exception as error:  # the driver decides; raised, it would count as a death
            if is_device_lost(error):
                from ..distributed.worker import DEVICE_IS_LOST

                os._exit(DEVICE_IS_LOST)  # Ray replaces it
            return _answer(Counts(), one_line(error), isinstance(error, RunError))

    def _infer_images(self, row: Mapping[str, Any]) -> 'Counts':
        work, place = self._work, (row['start'], row['end'])
        chunk = image_chunk(work.folder, work.inputs, row['number'], place)
        found = self._counts_if_written(chunk)  # by an actor that died right after it
        return self._write(chunk)[0] if found is None else found

    def _counts_if_written(self, chunk: 'Chunk') -> 'Counts | None':
        from .outputs import Counts, is_written, read_records

        folder = self._work.folder
        return Counts.of(read_records(folder, chunk)) if is_written(folder, chunk) else None

    def _infer_video(self, row: Mapping[str, Any]) -> 'Counts':
        from ..distributed.chunks import Chunk
        from ..sources.base import Frame
        from .outputs import Counts, end_video

        work, number, counts = self._work, row['video'], Counts()
        if self._videos is None:
            self._videos = videos_of(work.folder, work.inputs)
        path, size = self._videos[number], work.inputs.chunk
        with _on_this_node(path) as (local, error):
            video = Frame(0, local, name_of(path, work.inputs.root), source_id=local)
            chunk, ended = Chunk(0, 0, size, video=video, video_number=number), False
            if error:
                chunk = replace(chunk, stop=0, stop_reason=error)
            # An isolated process needs the chunks before a death, so it begins at the first one.
            while not work.isolated and (done := self._counts_if_written(chunk)) is not None:
                counts += done
                chunk = chunk.following()
            while not ended:
                found, ended = self._write(chunk)
                counts += found
                chunk = chunk.following()
        # The last chunk is empty if the actor before this one died right after the last frame.
        last = chunk.number if found.results else chunk.number - 1
        end_video(work.folder, number, last)
        return counts

    def _write(self, chunk: 'Chunk') -> 'tuple[Counts, bool]':
        """Infer a chunk and write its files; returns its counts, and whether its video ends."""
        from .outputs import Counts, write_chunk

        work = self._work
        inference = self._ready()
        with _limited(None if work.isolated else work.timeout):
            records, ended = inference.records(chunk)
        if records:
            write_chunk(work.folder, chunk, records, work.model)
        return Counts.of(records), ended

    def _ready(self) -> 'Inference':
        if self._inference is None:
            import ray

            from .inference import inference_of

            work = self._work
            setup = ray.get(work.setup)
            self._inference = inference_of(setup, work.isolated, work.timeout, self._earlier)
        return self._inference

    def _earlier(self, chunk: 'Chunk') -> 'Iterator[Record]':
        """Records of a video before a chunk."""
        from .outputs import read_records

        for number in range(chunk.number):
            yield from read_records(self._work.folder, replace(chunk, number=number))


class PoseActor:
    """Infers poses of images in a Ray Data pipeline of the user, with ``map_batches``.

    Args:
        spec: The inferencer, for example ``plan_inferencer('rtmo-s').spec``.
        column: Column of the paths and URLs of images.
        **thresholds: Options of the call, such as ``bbox_thr``; see
            :meth:`mmpose_batch.inferencer.BatchPose2DInferencer.call_options`. The others have the
            defaults of the kind of model.
    """

    def __init__(self, spec: 'InferencerSpec', column: str = 'item', **thresholds: Any) -> None:
        self._spec, self._column, self._thresholds = spec, column, thresholds
        self._chunks: Any = None

    def __call__(self, batch: 'dict[str, np.ndarray]') -> 'dict[str, Any]':
        """Infer a batch of images; never raises for an image.

        Args:
            batch: Columns of a Ray Data batch, with one row per image. Its images are a chunk: no
                batch of the network contains images of another one.

        Returns:
            All columns of the batch, and ``persons``: number of instances; ``error``: why there is
            no result, or None; ``record``: JSON as in ``predictions.jsonl``.
        """
        import orjson

        from ..distributed.chunks import Chunk
        from ..results import to_record
        from ..sources.base import Frame

        paths = [str(path) for path in batch[self._column]]
        images = tuple(Frame(i, path, name_of(path, '')) for i, path in enumerate(paths))
        chunk = Chunk(0, 0, len(images), images)
        records = [to_record(result) for result in self._ready(paths).results(chunk)]
        return {
            **batch,
            'persons': [len(record.get('instances', ())) for record in records],
            'error': [record.get('error') for record in records],
            'record': [orjson.dumps(record).decode() for record in records],
        }

    def _ready(self, paths: list[str]) -> Any:
        if any(map(is_url, paths)):
            from . import remote_images  # noqa: F401 - registers a file backend
        if self._chunks is None:
            from ..config import VideoOptions
            from ..distributed.infer import ChunkInferer
            from ..models.names import default_filters

            inferencer = self._spec.build()
            filters = {**default_filters(inferencer.cfg), **self._thresholds}
            call = inferencer.call_options(**filters, select_thr=filters['bbox_thr'])
            self._chunks = ChunkInferer(inferencer, call, VideoOptions())
        return self._chunks


def _answer(counts: 'Counts', error: str = '', is_fatal: bool = False) -> dict[str, Any]:
    return {
        'results': counts.results,
        'persons': counts.persons,
        'failures': counts.failures,
        'error': error,
        'is_fatal': is_fatal,
    }


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """End this process if the ``with`` block takes longer; None for no limit."""
    timer = None if seconds is None else Timer(seconds, os._exit, [HANGS])
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


@contextmanager
def _on_this_node(path: str) -> Iterator[tuple[str, str]]:
    """The path of a video on this node, to which it is copied from another file system.

    Yields:
        The path, and why the video cannot be read, or an empty text.
    """
    if not is_url(path):
        yield path, ''
        return
    with tempfile.TemporaryDirectory(prefix='mmpose_batch-') as folder:
        files, inner = file_system(path)
        local = osp.join(folder, osp.basename(inner))
        try:
            files.get_file(inner, local)
            error = ''
        except Exception as found:  # each file system raises its own errors
            error = f'expected a readable file, found {found}'
        yield local, error
