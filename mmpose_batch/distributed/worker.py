"""The functions that run in a worker process: it builds an inferencer, then infers chunks."""

import os
import os.path as osp
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from mmengine.logging import MMLogger

from ..config import CallOptions, VideoOptions
from ..copies import build_on
from ..engines.warmup import outcome
from ..errors import DEVICE_LOST, RunError, one_line
from ..inferencer import BatchPose2DInferencer
from ..progress import StageClock
from ..results import ImageResult, to_record
from ..sources.base import Frame
from ..writers.base import Record, WriterContext
from ..writers.jsonl import RECORDS_FILE, read_records
from ..writers.one_image import error_of_image
from ..writers.options import RunOptions
from .chunk_files import (
    ChunkSummary,
    Written,
    chunk_path,
    read_chunk_records,
    write_chunk,
)
from .chunks import Chunk
from .infer import ChunkInferer
from .journal import Journal

# Exit status of a process whose device is lost; a new process may find it again.
DEVICE_IS_LOST = 70


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSetup:
    """Everything that a worker process needs, once.

    Attributes:
        kind: Class of the inferencer.
        state: State of the inferencer, as it is pickled.
        samples: Images that engines are verified with, as in the process of the run.
        call: Options of the call.
        options: Options of the run.
        video_options: Which frames of videos are used, and whether persons are tracked.
        of_label: Category id of each label; None if records have no categories.
        log_level: Level of the messages of MMEngine.
        folder: Current folder, which relative paths start from.
    """

    kind: type
    state: Mapping[str, Any]
    samples: list[Frame]
    call: CallOptions
    options: RunOptions
    video_options: VideoOptions
    of_label: Mapping[int, int] | None
    log_level: int
    folder: str

    @classmethod
    def of(
        cls, inferencer: BatchPose2DInferencer, samples: Sequence[Frame], **settings: Any
    ) -> 'WorkerSetup':
        """The setup of workers with the same inferencer as this process.

        Args:
            inferencer: The inferencer, whose engines are selected.
            samples: Images that engines were verified with.
            **settings: The other attributes.
        """
        arrays = (
            frame if isinstance(frame.data, str) else replace(frame, data=frame.data.read())
            for frame in samples
        )
        return cls(
            kind=type(inferencer),
            state=inferencer.__getstate__(),
            samples=list(arrays),
            log_level=MMLogger.get_current_instance().level,
            folder=os.getcwd(),
            **settings,
        )


class Worker:
    """Infers chunks and writes their files.

    Args:
        setup: What the run shares with all of its workers.
        device: Device of the networks.
        journal: File that names the images that are being read, for the case that this process
            dies.

    Raises:
        RunError: Engines are selected differently than in the process of the run.
    """

    def __init__(self, setup: WorkerSetup, device: str, journal: str) -> None:
        inferencer = build_on(setup.kind, setup.state, device)
        if setup.samples and inferencer.predictor.wants_samples(setup.call):
            inferencer.predictor.warm_up(setup.samples, setup.call)
        _check_selection(outcome(inferencer.runners), setup.state['spec'].selected)
        self._setup = setup
        self._folder = setup.options.out_dir
        self._journal = Journal(journal)
        context = WriterContext(inferencer=inferencer, options=setup.options)
        self._writers = {
            spec.name: spec.build(context) for spec in setup.options.writers if spec.by_worker
        }
        for writer in self._writers.values():
            writer.join(self._folder)
        self._chunks = ChunkInferer(inferencer, setup.call, setup.video_options, self._earlier)
        self._chunks.watch_reading(self._journal.reading)

    def infer(self, chunk: Chunk) -> ChunkSummary:
        """Infer a chunk, and write its file and its drawings."""
        clock, written = StageClock(), []
        self._journal.start()
        for result in self._chunks.results(chunk, clock, self._note_frames):
            record = to_record(result, self._setup.of_label)
            with clock.stage('writing'):
                errors = {name: self._error(name, result, record) for name in self._writers}
            result.image = None
            written.append(Written(result, record, errors))
        summary = ChunkSummary(
            count=len(written),
            ended=self._chunks.ends_video(chunk),
            seconds=dict(clock.seconds),
            detections=asdict(clock.detections),
        )
        write_chunk(chunk_path(self._folder, chunk), summary, written)
        return summary

    def survives(self, chunk: Chunk) -> None:
        """Infer some images, and drop their results."""
        self._journal.start()
        for _ in self._chunks.results(chunk):
            pass

    def _error(self, name: str, result: ImageResult, record: Record) -> str | None:
        """Write a result in one format; returns why this cannot be done."""
        raises = self._setup.state['spec'].settings.get('on_error') == 'raise'
        return error_of_image(self._writers[name], result, record, raises)

    def _note_frames(self) -> None:
        self._journal.note_frames(self._chunks.frames)

    def _earlier(self, chunk: Chunk) -> Iterator[Record]:
        """Records of a video before a chunk: those in the run's file, then those of chunks.

        The file of a chunk is removed only after the complete video is in the run's file.
        """
        count = 0
        path = osp.join(self._folder, RECORDS_FILE)
        if osp.exists(path):
            of_video = (r for r, _ in read_records(path) if r.get('video') == chunk.video.name)
            for record in islice(of_video, chunk.start):
                yield record
                count += 1
        number, skipped = divmod(count, chunk.size)
        while number < chunk.number:
            file = chunk_path(self._folder, replace(chunk, number=number))
            yield from islice(read_chunk_records(file), skipped, None)
            number, skipped = number + 1, 0


def _check_selection(own: Mapping[str, Any], of_run: Mapping[str, Any]) -> None:
    """Check that a worker has the engines and batch sizes of its run.

    Raises:
        RunError: It has others, with which its results would differ.
    """
    for key in ('engines', 'precisions', 'batch_sizes'):
        if of_run and own[key] != of_run[key]:
            raise RunError(
                f'a worker process selected other {key} than the run: {own[key]} instead of '
                f'{of_run[key]}'
            )


# The worker of this process.
_worker: Worker | None = None


def build(setup: str, device: str, journal: str) -> None:
    """Build the worker of this process.

    Args:
        setup: File with the pickled :class:`WorkerSetup`, written by the process of the run.
        device: Device of the networks.
        journal: See :class:`Worker`.
    """
    global _worker
    with open(setup, 'rb') as file:
        loaded = pickle.load(file)
    os.chdir(loaded.folder)
    MMLogger.get_current_instance().setLevel(loaded.log_level)
    _worker = Worker(loaded, device, journal)


def infer(chunk: Chunk) -> ChunkSummary:
    """Infer a chunk with the worker of this process, and write its file."""
    try:
        return _worker.infer(chunk)
    except DEVICE_LOST as error:
        _end(error)


def survives(chunk: Chunk) -> None:
    """Infer some images with the worker of this process, which may end it."""
    try:
        _worker.survives(chunk)
    except DEVICE_LOST as error:
        _end(error)


def _end(error: Exception) -> None:
    """End this process, whose device cannot be used any more."""
    print(f'device error: {one_line(error)}', file=sys.stderr, flush=True)
    os._exit(DEVICE_IS_LOST)
