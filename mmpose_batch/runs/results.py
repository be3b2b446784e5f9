"""Results of a run in input order, from the process of the run or from worker processes."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from ..distributed.chunk_files import (
    ChunkSummary,
    Written,
    chunk_path,
    read_chunk,
    remove_chunks,
    remove_incomplete_chunks,
)
from ..distributed.chunks import Chunk, chunks_of
from ..distributed.pool import Workers
from ..postprocess.tracking import PersonTracker
from ..progress import ProgressReport, StageClock
from ..results import ImageResult, to_record
from ..sources.items import Items, Position


def with_records(
    results: Iterable[ImageResult],
    tracker: PersonTracker | None,
    of_label: Mapping[int, int] | None,
    clock: StageClock,
    progress: ProgressReport,
) -> Iterator[Written]:
    """Yield results of this process with their records.

    Args:
        results: In input order.
        tracker: Gives persons of videos their track ids; None for none.
        of_label: Category id of each label; None if records have no categories.
        clock: Collects the seconds.
        progress: Shows the progress.
    """
    for result in results:
        if tracker is not None:
            tracker.assign(result)
        with clock.stage('writing'):
            record = to_record(result, of_label)
        yield Written(result, record, {})
        progress.advance()


class MergedChunks:
    """The results of worker processes, in input order.

    Args:
        workers: The processes.
        items: The images and videos.
        folder: Output folder of the run.
    """

    def __init__(self, workers: Workers, items: Items, folder: str) -> None:
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
        remove_incomplete_chunks(self._folder)
        waiting = deque(chunks_of(self._items, start))
        complete: dict[str, ChunkSummary] = {}
        index = start.results
        for done in self._workers.infer(list(waiting)):
            progress.advance(done.summary.count)
            if done.is_new:
                self._add(done.summary, clock)
            complete[done.chunk.name] = done.summary
            while waiting and waiting[0].name in complete:
                chunk = waiting[0]
                summary = complete.pop(chunk.name)
                ends = chunk.video is None or summary.ended
                if ends and len(waiting) == 1:
                    self._items.last = index + summary.count - 1
                yield from read_chunk(chunk_path(self._folder, chunk), chunk, index)
                index += summary.count
                if ends:
                    waiting.popleft()
                    self._remove(chunk)
                    self._workers.release()
                else:
                    waiting[0] = chunk.following()
        remove_chunks(self._folder)

    def _add(self, summary: ChunkSummary, clock: StageClock) -> None:
        for name, seconds in summary.seconds.items():
            clock.seconds[name] += seconds / self._workers.count
        for name, count in summary.detections.items():
            setattr(clock.detections, name, getattr(clock.detections, name) + count)

    def _remove(self, last: Chunk) -> None:
        """Remove the file of a chunk of images, or those of all chunks of a video."""
        first = last.number if last.video is None else 0
        for number in range(first, last.number + 1):
            with suppress(FileNotFoundError):  # of an earlier run in one process
                os.unlink(chunk_path(self._folder, replace(last, number=number)))
