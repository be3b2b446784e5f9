"""A run over many images and videos: source -> pipeline -> writers, safe to kill and to resume."""

import os
import os.path as osp
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from typing import Any

from ..config import CallOptions
from ..distributed.chunk_files import Written, remove_chunks
from ..distributed.options import ParallelOptions
from ..distributed.pool import AHEAD, Workers
from ..errors import (
    AnnotationError,
    EngineError,
    FolderInUse,
    OutputError,
    RunError,
    TooManyErrors,
    is_device_lost,
    one_line,
)
from ..evaluation.annotations import ImageIds
from ..evaluation.categories import Categories
from ..inferencer import BatchPose2DInferencer
from ..outputs import check_added, check_places, check_targets, remove_incomplete_files, remove_run
from ..progress import ProgressReport, StageClock
from ..sources.items import START, Items, Position
from ..writers.base import FinishedRun, ResumePoint, WriterContext
from ..writers.jsonl import RECORDS_FILE
from ..writers.options import RunOptions
from . import identity
from .info import RunInfo
from .locking import locked
from .pending import pending_names
from .results import RunInference
from .resume import (
    check_failures,
    check_out_dir,
    holds_run,
    is_complete,
    no_resume,
    records_of,
    resume_position,
)
from .scores import Scores
from .summary import RunSummary
from .warm_up import RunWarmup
from .writing import RunWriters


class Run:
    """One run of an inferencer over images and videos.

    Args:
        inferencer: The inferencer.
        items: The images and videos.
        call: The inferencer's options for this run.
        options: What to write, and where.
        image_ids: COCO ids of the images and frames.
        categories: How instances get a category, if annotations of several are evaluated.
        parallel: Processes that infer; None for this process.

    Attributes:
        summary: Counts and times of the run so far.

    Raises:
        ValueError: The config's metric has settings that are not supported.
    """

    def __init__(
        self,
        inferencer: BatchPose2DInferencer,
        items: Items,
        call: CallOptions,
        options: RunOptions,
        image_ids: ImageIds | None = None,
        categories: Categories | None = None,
        parallel: ParallelOptions | None = None,
    ) -> None:
        self._inferencer = inferencer
        self._parallel = parallel or ParallelOptions()
        self._options = options
        self._of_label = (categories and categories.of_label) or None
        self._scores = None
        if options.ann_file is not None or any(spec.scored for spec in options.writers):
            ids = image_ids or ImageIds()
            self._scores = Scores(inferencer, items, options.ann_file, ids, categories)
        self._items = items
        self._streamed = False
        self._call = replace(
            call,
            keep_images=bool(items.images) and any(spec.needs_images for spec in options.writers),
            keep_labels=bool(self._of_label),
        )
        self._inference = RunInference(inferencer, items, self._call, options, self._of_label)
        self.summary = RunSummary(
            evaluation=self._scores and self._scores.evaluation, workers=self._parallel.workers
        )
        self._warmup = RunWarmup(inferencer, self._call)
        self._info = RunInfo(
            options.out_dir,
            self._identify(),
            inferencer,
            self._call,
            self._warmup,
            self.summary,
            options.writers,
        )

    def _identify(self) -> dict[str, Any]:
        """Everything that the output depends on; it must be the same in a resumed run."""
        return {
            **identity.of_inferencer(self._inferencer, self._call),
            **identity.of_items(self._items),
            'categories': identity.of_categories(self._of_label, self._items.images),
            **identity.of_writers(self._options),
        }

    @property
    def is_finished(self) -> bool:
        """Whether all images are done, all files written and AP computed."""
        return self._info.status == 'finished'

    def __call__(self) -> RunSummary:
        """Infer all images that are not done yet, and write the results.

        Raises:
            RunError: The output folder contains another run, is in use or cannot be
                written to, or the device failed.
            TooManyErrors: More images failed than ``max_errors``; if the last image was among
                them, the run is finished nevertheless.
            InputError: A bad input, if the inferencer raises them.
        """
        folder = self._options.out_dir
        try:
            check_out_dir(self._options)
            os.makedirs(folder, exist_ok=True)
            with locked(folder):
                check_out_dir(self._options)  # another run may have ended in between
                self._run()
        except OSError as error:
            raise RunError(f'cannot write below {folder}: {error.strerror or error}') from error
        except (AnnotationError, EngineError, FolderInUse, OutputError) as error:
            raise RunError(str(error)) from error
        except RuntimeError as error:
            if not is_device_lost(error):
                raise
            raise RunError(
                f'device error; complete results are saved, resume with --resume: {one_line(error)}'
            ) from error
        self._check_failures()
        return self.summary

    def _run(self) -> None:
        """Do the run, while its folder is locked."""
        start, resume = self._begin()
        context = WriterContext(
            inferencer=self._inferencer,
            options=self._options,
            videos=self._items.videos,
            video_options=self._items.options,
        )
        writers = RunWriters(context, scored=self._scores is not None)
        with ExitStack() as stack:
            workers = None
            if start is not None:
                if self._parallel.workers:
                    workers = stack.enter_context(
                        self._inference.workers(self._parallel, self._info.run_id)
                    )
                self._warmup(self._items, self._options.quiet, workers)
            self._write_info('running')
            self._infer_all(start, resume, writers, workers)

    def _infer_all(
        self,
        start: Position | None,
        resume: ResumePoint,
        writers: RunWriters,
        workers: Workers | None,
    ) -> None:
        """Infer from a position on, if there is one, and write everything."""
        try:
            with writers.opened(resume):
                if start is not None:
                    self._stream(start, writers, workers)
                self._streamed = True
                remove_chunks(self._options.out_dir)  # also of an earlier run with workers
                if self._items.videos:
                    self._write_info('running')
                self._finish(writers)
            self._write_info('finished')
        except BaseException:
            with suppress(OSError):  # for example a full disk
                self._write_info('stopped')
            raise

    def _begin(self) -> tuple[Position | None, ResumePoint]:
        """Determine where to start, and remove the earlier run if it is to be replaced.

        Returns:
            Where to start, None if all images are done; and what is not repeated.
        """
        options, items = self._options, self._items
        names = [frame.name for frame in items.all]
        check_places(options.out_dir, names, options.writers)
        if not holds_run(options.out_dir) or options.overwrite:
            if options.resume and self._is_same_run():  # its complete chunks are used
                check_added(options.out_dir, options.writers)
                remove_incomplete_files(options.out_dir)
            else:
                check_targets(options.out_dir, names, options.writers)
                remove_run(options.out_dir)
                remove_chunks(options.out_dir)
            return START, no_resume()
        finished = self._info.resume()  # same inputs, so check_targets ran when it started
        check_added(options.out_dir, options.writers)
        remove_incomplete_files(options.out_dir)
        start, resume = resume_position(options.out_dir, items, finished, options.max_errors)
        current = items.videos[start.videos].name if start.frames else None
        for record in resume.records():
            self.summary.count(record)
            if record.get('video') == current:
                self._inference.replay(record)
        self.summary.resumed = resume.images
        return (None if is_complete(start, items, finished) else start), resume

    def _is_same_run(self) -> bool:
        """Whether ``run.json`` belongs to this run, killed before its first records."""
        try:
            self._info.resume(has_records=False)
        except RunError:
            return False
        return True

    def _stream(self, position: Position, writers: RunWriters, workers: Workers | None) -> None:
        """Infer the images and frames from a position on, and write their results."""
        clock, done = StageClock(), position.results
        total = max(self._items.estimated(), done)
        noun = 'frames' if self._items.videos else 'images'
        with ProgressReport(total, done, self._options.quiet, noun) as progress:
            start = time.perf_counter()
            results = self._inference.results(position, total - done, clock, progress, workers)
            with closing(results):
                for written in results:
                    if workers is not None:
                        self._note(workers)
                    if self._info.is_outdated:
                        self._write_info('running')  # before a record that depends on it
                    with clock.stage('writing'):
                        self._take(written, writers)
            if workers is not None:
                self._note(workers)
                self.summary.resumed += self._inference.reused
            self.summary.set_times(time.perf_counter() - start, clock)

    def _note(self, workers: Workers) -> None:
        self.summary.deaths = workers.deaths
        self._warmup.report(workers.engines)

    def _take(self, written: Written, writers: RunWriters) -> None:
        """Write and count one result."""
        result, record, errors = written
        writers.append(result, record, errors)
        self.summary.count(record)
        if result.frame.ends_chunk:
            self._write_info('running')  # the pending images are others now
        if 'error' in record and result.frame.index != self._items.last:
            self._check_failures(record)

    def _check_failures(self, last: Mapping[str, Any] | None = None) -> None:
        """End the run if too many images have failed, including those of earlier runs.

        Args:
            last: The last failure record.

        Raises:
            TooManyErrors: More than ``max_errors`` have.
        """
        total = None if self._items.videos else len(self._items.images)
        counts = self.summary.failures, self.summary.results, total
        try:
            check_failures(*counts, self._options.max_errors, finished=last is None)
        except TooManyErrors as error:
            if last is None:
                raise
            name = last.get('image') or last['video']
            name += f' frame {last["frame"]}' if 'frame' in last else ''
            raise TooManyErrors(f'{error}; the last: {name}: {last["error"]}') from None

    def _finish(self, writers: RunWriters) -> None:
        """Evaluate the results, and write the formats that are derived from all of them.

        Raises:
            AnnotationError: The annotations are gone, or no longer fit; the rest is written.
        """
        folder = self._options.out_dir
        scored, failed = None, None
        if self._scores is not None:
            scored, failed = self._scores(osp.join(folder, RECORDS_FILE))
        writers.finish(FinishedRun(records=lambda: records_of(folder), scored=scored))
        if failed is not None:
            raise failed

    def _write_info(self, status: str) -> None:
        # The names of all videos would make the file of a finished run large.
        is_done = status == 'finished' and self._items.videos
        ahead = max(1, AHEAD * len(self._parallel.workers))
        pending = [] if is_done else pending_names(self._items, self.summary, ahead, self._streamed)
        self._info.write(status, pending, scored=self._scores is not None)
