"""The functions that run in a worker process: it builds an inferencer, then infers chunks."""

import os
import os.path as osp
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from mmengine.logging import MMLogger

from ..config import CallOptions, VideoOptions
from ..copies import build_on
from ..engines.warmup import outcome, restore
from ..errors import is_device_lost, one_line
from ..images.native_messages import names_messages, native_messages
from ..inferencer import BatchPose2DInferencer
from ..progress import StageClock
from ..results import ImageResult, to_record
from ..sources.items import Samples
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
        call: Options of the call.
        options: Options of the run.
        video_options: Which frames of videos are used, and whether persons are tracked.
        of_label: Category id of each label; None if records have no categories.
        log_level: Level of the messages of MMEngine.
        folder: Current folder, which relative paths start from.
        run_id: Identifies the run; see :func:`mmpose_batch.distributed.chunk_files.chunk_path`.
        names_messages: Whether to prefix messages of decoders with the names of images.
    """

    kind: type
    state: Mapping[str, Any]
    call: CallOptions
    options: RunOptions
    video_options: VideoOptions
    of_label: Mapping[int, int] | None
    log_level: int
    folder: str
    run_id: str = ''
    names_messages: bool = False

    @classmethod
    def of(cls, inferencer: BatchPose2DInferencer, **settings: Any) -> 'WorkerSetup':
        """The setup of workers with the same inferencer as this process.

        Args:
            inferencer: The inferencer, whose engines need not be selected.
            **settings: The other attributes.
        """
        return cls(
            kind=type(inferencer),
            state=inferencer.__getstate__(),
            log_level=MMLogger.get_current_instance().level,
            folder=os.getcwd(),
            names_messages=names_messages(),
            **settings,
        )


class WarmedUp(NamedTuple):
    """The result of a warm-up.

    Attributes:
        selected: What was selected, see :func:`mmpose_batch.engines.warmup.outcome`.
        texts: The selected engine of each network, in words.
        reports: Reports about the networks for ``run.json``.
    """

    selected: dict[str, Any]
    texts: dict[str, str]
    reports: dict[str, dict[str, Any]]


class Worker:
    """Infers chunks and writes their files.

    Args:
        setup: What the run shares with all of its workers.
        device: Device of the networks.
        journal: File that names the images that are being read, for the case that this process
            dies.
    """

    def __init__(self, setup: WorkerSetup, device: str, journal: str) -> None:
        self._inferencer = inferencer = build_on(setup.kind, setup.state, device)
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

    def warm_up(self, samples: Samples, selected: Mapping[str, Any]) -> 'WarmedUp':
        """Select, verify and warm up the engines.

        Args:
            samples: Images and videos that represent the run.
            selected: What an earlier run, or another worker, selected.
        """
        inferencer = self._inferencer
        self._journal.start()
        warm_up(inferencer, self._setup.call, samples, selected)
        selections = {name: runner.selection for name, runner in inferencer.runners.items()}
        return WarmedUp(
            selected=outcome(inferencer.runners),
            texts={name: str(found) for name, found in selections.items() if found},
            reports=self._reports,
        )

    @property
    def _reports(self) -> dict[str, dict[str, Any]]:
        return {name: runner.report for name, runner in self._inferencer.runners.items()}

    def infer(self, chunk: Chunk) -> ChunkSummary:
        """Infer a chunk, and write its file and its drawings."""
        clock, written = StageClock(), []
        self._journal.start()
        self._note_frames()
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
            engines=self._reports,
        )
        write_chunk(chunk_path(self._folder, chunk, self._setup.run_id), summary, written)
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
            earlier = replace(chunk, number=number)
            file = chunk_path(self._folder, earlier, self._setup.run_id)
            yield from islice(read_chunk_records(file), skipped, None)
            number, skipped = number + 1, 0


def warm_up(
    inferencer: BatchPose2DInferencer,
    call: CallOptions,
    samples: Samples,
    selected: Mapping[str, Any],
) -> None:
    """Select, verify and warm up the engines of an inferencer, if that needs images.

    Args:
        inferencer: The inferencer.
        call: Options of the run's call.
        samples: Images and videos that represent the run.
        selected: What an earlier run, or another process, selected; empty if nothing is.
    """
    if selected:
        restore(inferencer.runners, selected)
    if samples.count and inferencer.predictor.wants_samples(call):
        frames = [replace(frame, index=place) for place, frame in enumerate(samples.read())]
        if frames:
            inferencer.predictor.warm_up(frames, call)


# The worker of this process, and contexts that last as long as the process.
_worker: Worker | None = None
_contexts = ExitStack()


def build(
    setup: str, device: str, journal: str, samples: Samples, selected: Mapping[str, Any]
) -> WarmedUp:
    """Build and warm up the worker of this process.

    Args:
        setup: File with the pickled :class:`WorkerSetup`, written by the process of the run.
        device: Device of the networks.
        journal: See :class:`Worker`.
        samples: See :meth:`Worker.warm_up`.
        selected: See :meth:`Worker.warm_up`.
    """
    global _worker
    with open(setup, 'rb') as file:
        loaded = pickle.load(file)
    os.chdir(loaded.folder)
    if loaded.names_messages:
        _contexts.enter_context(native_messages())
    MMLogger.get_current_instance().setLevel(loaded.log_level)
    _worker = Worker(loaded, device, journal)
    return _worker.warm_up(samples, selected)


def infer(chunk: Chunk) -> ChunkSummary:
    """Infer a chunk with the worker of this process, and write its file."""
    try:
        return _worker.infer(chunk)
    except Exception as error:
        _end_if_lost(error)
        raise


def survives(chunk: Chunk) -> None:
    """Infer some images with the worker of this process, which may end it."""
    try:
        _worker.survives(chunk)
    except Exception as error:
        _end_if_lost(error)
        raise


def _end_if_lost(error: Exception) -> None:
    """End this process if its device cannot be used any more."""
    if is_device_lost(error):
        print(f'device error: {one_line(error)}', file=sys.stderr, flush=True)
        os._exit(DEVICE_IS_LOST)
