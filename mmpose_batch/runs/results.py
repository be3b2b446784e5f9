"""Results of a run in input order, from the process of the run or from worker processes."""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

from ..config import CallOptions
from ..distributed.chunk_files import (
    ChunkSummary,
    Written,
    chunk_path,
    read_chunk,
    remove_incomplete_chunks,
)
from ..distributed.chunks import Chunk, chunks_of
from ..distributed.options import ParallelOptions
from ..distributed.pool import Workers
from ..distributed.worker import WorkerSetup
from ..inferencer import BatchPose2DInferencer
from ..postprocess.tracking import PersonTracker
from ..progress import DetectionCounts, ProgressReport, StageClock
from ..results import to_record
from ..sources.items import Items, Position
from ..writers.options import RunOptions


class RunInference:
    """Infers the inputs of a run, in its process or in worker processes.

    Args:
        inferencer: The inferencer.
        items: The images and videos.
        call: Options of the call.
        options: Options of the run.
        of_label: Category id of each label; None if records have no categories.

    Attributes:
        reused: Number of results that an earlier run has left in complete chunks.
    """

    def __init__(
        self,
        inferencer: BatchPose2DInferencer,
        items: Items,
        call: CallOptions,
        options: RunOptions,
        of_label: Mapping[int, int] | None,
    ) -> None:
        self._inferencer = inferencer
        self._items = items
        self._call = call
        self._options = options
        self._of_label = of_label
        self._tracker = PersonTracker() if items.videos and items.options.track else None
        self.reused = 0

    def replay(self, record: Mapping[str, Any]) -> None:
        """Let the tracker see a record that an earlier run has written."""
        if self._tracker is not None:
            self._tracker.replay(record)

    def workers(self, options: ParallelOptions, run_id: str) -> Workers:
        """New worker processes.

        Args:
            options: How many, and where.
            run_id: Identifies the run in its output folder.
        """
        setup = WorkerSetup.of(
            self._inferencer,
            run_id=run_id,
            call=self._call,
            options=self._options,
            video_options=self._items.options,
            of_label=self._of_label,
        )
        return Workers(setup, options.workers, options.timeout_per_chunk)

    def results(
        self,
        start: Position,
        length: int,
        clock: StageClock,
        progress: ProgressReport,
        workers: Workers | None,
    ) -> Iterator[Written]:
        """Yield the results from a position on, in input order, with their records.

        Args:
            start: The start of a chunk.
            length: Number of results, for the progress bar.
            clock: Collects the seconds of the stages.
            progress: Shows the progress.
            workers: Processes that infer; None for this process.
        """
        if workers is not None:
            merged = MergedChunks(workers, self._items, self._options.out_dir)
            yield from merged.results(start, clock, progress)
            self.reused = merged.reused
            return
        source = self._items.source(start, length)
        with closing(self._inferencer.stream(source, self._call, clock)) as results:
            for result in results:
                if self._tracker is not None:
                    self._tracker.assign(result)
                with clock.stage('writing'):
                    record = to_record(result, self._of_label)
                yield Written(result, record, {})
                progress.advance()


class MergedChunks:
    """The results of worker processes, in input order.

    Args:
        workers: The processes.
        items: The images and videos.
        folder: Output folder of the run.

    Attributes:
        reused: Number of results that an earlier run has left in complete chunks.
    """

    def __init__(self, workers: Workers, items: Items, folder: str) -> None:
        self.reused = 0
        self._workers = workers
        self._items = items
        self._folder = folder

    def results(
        self, start: Position, clock: StageClock, progress: ProgressReport
    ) -> Iterator[Written]:
        """Yield the results from a position on.

        The file of a chunk is removed when its results, with a video those of all its chunks, were
        processed, so that the next run need not infer what is complete.

        Args:
            start: The start of a chunk.
            clock: Collects the seconds of the stages, as their mean over all processes.
            progress: Counts the results of a chunk as soon as it is complete.
        """
        remove_incomplete_chunks(self._folder, self._workers.run_id)
        waiting = deque(chunks_of(self._items, start))
        complete: dict[str, ChunkSummary] = {}
        index = start.results
        for done in self._workers.infer(list(waiting)):
            progress.advance(done.summary.count)
            if done.is_new:
                self._add(done.summary, clock)
            else:
                self.reused += done.summary.count
            complete[done.chunk.name] = done.summary
            while waiting and waiting[0].name in complete:
                chunk = waiting[0]
                summary = complete.pop(chunk.name)
                ends = chunk.video is None or summary.ended
                if ends and len(waiting) == 1:
                    self._items.last = index + summary.count - 1
                yield from read_chunk(self._path(chunk), chunk, index)
                index += summary.count
                if ends:
                    waiting.popleft()
                    self._remove(chunk)
                    self._workers.release()
                else:
                    waiting[0] = chunk.following()

    def _path(self, chunk: Chunk) -> str:
        return chunk_path(self._folder, chunk, self._workers.run_id)

    def _add(self, summary: ChunkSummary, clock: StageClock) -> None:
        for name, seconds in summary.seconds.items():
            clock.seconds[name] += seconds / self._workers.count
        clock.detections.add(DetectionCounts(**summary.detections))

    def _remove(self, last: Chunk) -> None:
        """Remove the file of a chunk of images, or those of all chunks of a video."""
        first = last.number if last.video is None else 0
        for number in range(first, last.number + 1):
            with suppress(FileNotFoundError):  # of an earlier run in one process
                os.unlink(self._path(replace(last, number=number)))
