"""A run over many files: everything to disk as it comes, safe to kill and to resume."""

import errno
import json
import os
import os.path as osp
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from ..config import CallOptions
from ..engines.warmup import outcome, restore, spread
from ..errors import (
    DEVICE_LOST,
    AnnotationError,
    EngineError,
    FolderInUse,
    InputError,
    OutputError,
    RunError,
    TooManyErrors,
    one_line,
)
from ..evaluation.annotations import ImageIds
from ..evaluation.categories import Categories
from ..evaluation.judge import Judge, coco_ids
from ..evaluation.result import Coverage, Evaluation
from ..inferencer import BatchPose2DInferencer
from ..memory import peak_resident
from ..outputs import check_places, check_targets, written
from ..progress import ProgressReport, StageClock
from ..results import ImageResult
from ..sources.base import CHUNK, Source, in_chunks
from ..version import __version__
from ..writers.atomic import open_atomically
from ..writers.coco import write_coco
from ..writers.jsonl import JsonLinesWriter, read_records, to_record
from ..writers.per_image import write_drawing, write_prediction
from . import identity
from .locking import locked
from .options import RunOptions
from .resume import check_failures, check_out_dir, holds_run, number_frames, read_done
from .summary import RunSummary, counted

CHECKPOINT_EVERY = CHUNK
# How file systems refuse a name; other errors of theirs mean the whole folder.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class Run:
    """One run of an inferencer over a list of image files.

    Args:
        inferencer: Does the work.
        paths: Image files, in the order of the results.
        call: The inferencer's options for this run.
        options: What to write.
        bboxes: For each path the persons' boxes (N, 5), or (N, 6) with labels; None to
            detect them.
        image_ids: COCO numbers of the paths.
        categories: How instances get a category, where the annotations judge several.

    Attributes:
        summary: What has come of it so far.

    Raises:
        ValueError: The config's metric has settings that it does not know.
    """

    def __init__(
        self,
        inferencer: BatchPose2DInferencer,
        paths: Sequence[str],
        call: CallOptions,
        options: RunOptions,
        bboxes: Sequence[np.ndarray] | None = None,
        image_ids: ImageIds | None = None,
        categories: Categories | None = None,
    ) -> None:
        self._inferencer = inferencer
        self._judge = None
        if options.ann_file is not None or 'coco' in options.formats:
            self._judge = Judge(inferencer, options.ann_file, categories)
        self._of_label = (categories and categories.of_label) or None
        self._frames = number_frames(paths, bboxes, bool(self._of_label))
        self._call = replace(
            call,
            keep_images=options.save_vis,
            keep_labels=bool(self._of_label),
        )
        self._options = options
        self._image_ids = image_ids or ImageIds()
        self._clock = StageClock()
        self.summary = RunSummary()
        if options.ann_file is not None:
            self.summary.evaluation = Evaluation(
                Coverage.of(paths, list(map(self._image_ids.find, paths)), self._image_ids.names),
                self._judge.scoring,
            )
        self._started = datetime.now(UTC).isoformat(timespec='seconds')
        self._identity = self._identify()
        self._status = ''
        self._before: dict[str, Any] = {}  # what the resumed run selected
        self._judged_before: dict[str, Any] = {}  # and how it was judged

    @property
    def is_finished(self) -> bool:
        """Whether all images are done, COCO results written and AP computed."""
        return self._status == 'finished'

    def __call__(self) -> RunSummary:
        """Do it.

        Raises:
            RunError: The output folder holds another run or is in use, cannot be
                written, or the device failed.
            TooManyErrors: More images failed than ``max_errors``; if the last image was among
                them, the run is finished nevertheless.
            InputError: A bad input, where the inferencer raises them.
        """
        try:
            check_out_dir(self._options)
            os.makedirs(self._options.out_dir, exist_ok=True)
            with locked(self._options.out_dir):
                check_out_dir(self._options)  # a run that ended in between
                self._check_places()
                keep = self._begin()
                if keep[0] < len(self._frames):
                    self._warm_up()
                self._write_info('running')
                try:
                    self._stream(*keep)
                    self._finalise()
                except BaseException:
                    with suppress(OSError):  # a full disk, say
                        self._write_info('stopped')
                    raise
        except OSError as error:
            raise RunError(
                f'cannot write below {self._options.out_dir}: {error.strerror or error}'
            ) from error
        except (AnnotationError, EngineError, FolderInUse, OutputError) as error:
            raise RunError(str(error)) from error
        except DEVICE_LOST as error:
            raise RunError(
                f'the device failed; what is written is whole, go on with --resume: '
                f'{one_line(error)}'
            ) from error
        self._check_failures()
        return self.summary

    def _path(self, name: str) -> str:
        return osp.join(self._options.out_dir, name)

    # ------------------------------------------------------------------ resuming

    def _begin(self) -> tuple[int, int]:
        """Decide where to begin; returns the images and bytes to keep."""
        records = self._path('predictions.jsonl')
        if not holds_run(self._options.out_dir) or self._options.overwrite:
            if not (self._options.resume and self._is_same_run()):  # whose records are lost
                self._check_targets()
            self._remove_earlier_run()
            return 0, 0
        self._check_identity()  # of the same inputs, so its files were checked when it began
        ends, failures = read_done(self._options.out_dir, self._frames)
        done = len(ends)
        if done < len(self._frames):
            check_failures(failures, done, len(self._frames), self._options.max_errors)
            done -= done % CHECKPOINT_EVERY
        kept = ends[done - 1] if done else 0
        for record, end in read_records(records):
            if end <= kept:
                self.summary.count(record)
        self.summary.resumed = done
        return done, kept

    def _is_same_run(self) -> bool:
        """Whether the folder's ``run.json`` is of a run with this identity."""
        try:
            self._check_identity()
        except RunError:
            return False
        self._judged_before = {}  # by records that are gone
        return True

    def _check_places(self) -> None:
        check_places(
            self._options.out_dir,
            [frame.name for frame in self._frames],
            self._options.save_vis,
            'json' in self._options.formats,
        )

    def _check_targets(self) -> None:
        check_targets(
            self._options.out_dir,
            (frame.name for frame in self._frames),
            self._options.save_vis,
            'json' in self._options.formats,
        )

    def _remove_earlier_run(self) -> None:
        """Remove every file that the earlier run wrote, if there is one, and last the records."""
        records = self._path('predictions.jsonl')
        for path in (*written(self._options.out_dir), 'predictions.coco.json'):
            with suppress(FileNotFoundError):
                os.unlink(self._path(path))
        # Before run.json tells what the new run is: a kill must not leave a mixture.
        if osp.isfile(records):
            os.truncate(records, 0)

    def _identify(self) -> dict[str, Any]:
        """Everything that the output depends on; a resumed run must agree in all of it."""
        inferencer, options = self._inferencer, self._options
        detector = inferencer.detector
        return {
            **identity.of_models(inferencer),
            **identity.of_frames(self._frames),
            'categories': identity.of_categories(self._of_label, self._frames),
            **identity.of_call(self._call),
            **identity.of_files(options.formats, options.drawing if options.save_vis else None),
            **identity.of_options(
                replace(inferencer.options, num_threads=torch.get_num_threads()),
                inferencer.device,
                None if detector is None else detector.cat_ids,
            ),
        }

    def _check_identity(self) -> None:
        info = identity.check_identity(self._options.out_dir, self._identity)
        self._before = info['settled']
        if info.get('metrics'):
            self._judged_before = {key: info.get(key) for key in ('metrics', 'evaluation')}

    # ------------------------------------------------------------------- the run

    def _stream(self, done: int, keep_bytes: int) -> None:
        """Infer what is left and write it as it comes."""
        options, total = self._options, len(self._frames)
        source = Source(in_chunks(self._frames[done:], CHECKPOINT_EVERY), total - done)
        with ExitStack() as stack:
            records = JsonLinesWriter(self._path('predictions.jsonl'), keep_bytes)
            stack.enter_context(records)
            failures = JsonLinesWriter(self._path('failures.jsonl'))
            stack.enter_context(failures)
            if done:
                for record, _ in read_records(records.path):
                    if 'error' in record:
                        failures.append(_failure(record))
            progress = stack.enter_context(ProgressReport(total, done, options.quiet))
            start = time.perf_counter()
            for result in self._inferencer.stream(source, self._call, self._clock):
                if self._selected_networks() != self._known_networks:
                    self._write_info('running')  # before a record that depends on it
                with self._clock.stage('writing'):
                    self._write(result, records, failures)
                progress.advance()
            self.summary.seconds = time.perf_counter() - start
        stages = ('waiting', 'detection', 'network', 'writing')
        self.summary.stages = {name: self._clock.seconds.get(name, 0.0) for name in stages}
        rest = self.summary.seconds - sum(self.summary.stages.values())
        self.summary.stages['other'] = max(rest, 0.0)

    def _warm_up(self) -> None:
        """Select engines and batch sizes with images from all over the run.

        A resumed run takes over what `auto` selected, and the same images.

        Raises:
            RunError: It comes to something else now.
        """
        inferencer = self._inferencer
        if self._before:
            restore(inferencer.runners, self._before)
        samples = spread(self._frames, inferencer.wants_samples(self._call))
        if samples:
            if not self._options.quiet:
                images = counted(len(samples), 'image')
                print(f'building and checking engines, up to {images}', file=sys.stderr)
            inferencer.warm_up(samples, self._call)
            for name, runner in inferencer.runners.items():
                if runner.selection and not self._options.quiet:
                    print(f'{name}: {runner.selection}', file=sys.stderr)
        changed = [
            key
            for key, values in self._selected().items()
            for name, value in values.items()
            if name in self._before.get(key, {}) and value != self._before[key][name]
        ]
        if changed:
            raise RunError(
                f'cannot resume: not what the earlier run came to: {", ".join(changed)} '
                '(results would be mixed); use another folder'
            )

    def _selected(self) -> dict[str, Any]:
        """What the output depends on and the first images decide, where they did."""
        return outcome(self._inferencer.runners)

    def _write(
        self, result: ImageResult, records: JsonLinesWriter, failures: JsonLinesWriter
    ) -> None:
        """Write one result; its line in predictions.jsonl comes last and marks it done.

        A file that cannot be written, a drawing say, costs that file and no instance.
        """
        record = to_record(result, self._of_label)
        if result.error is None and (errors := list(self._write_files(result))):
            result.error = f'cannot be written: {"; ".join(errors)}'
            # As to_record spells what is no text.
            record['error'] = result.error.encode(errors='backslashreplace').decode()
        if result.error is not None:
            failures.append(_failure(record))
        records.append(record)
        if (result.frame.index + 1) % CHECKPOINT_EVERY == 0:
            records.sync()
        self.summary.count(record)
        if (result.frame.index + 1) % CHECKPOINT_EVERY == 0:
            self._write_info('running')  # which images are pending now
        if 'error' in record and self.summary.images < len(self._frames):
            self._check_failures(record)

    def _check_failures(self, last: Mapping[str, Any] | None = None) -> None:
        """End the run if too many images have failed, those of earlier runs included.

        Args:
            last: The failure record that may be one too many.

        Raises:
            TooManyErrors: They have.
        """
        counts = self.summary.failures, self.summary.images, len(self._frames)
        try:
            check_failures(*counts, self._options.max_errors)
        except TooManyErrors as error:
            if last is None:
                raise
            raise TooManyErrors(f'{error}; the last: {last["image"]}: {last["error"]}') from None

    def _write_files(self, result: ImageResult) -> Iterator[str]:
        """Write what an image has of its own; yields why a file cannot be written.

        Raises:
            InputError: The same, if the run is to end with the first failure.
            OSError: The disk is full.
        """
        for write in (self._write_prediction, self._write_drawing):
            try:
                write(result)
            except Exception as error:
                if isinstance(error, OSError) and error.errno not in _NAME_ERRORS:
                    raise  # the disk, not this image
                if self._inferencer.options.on_error == 'raise':
                    raise InputError(
                        f'{result.frame.path}: cannot be written: {one_line(error)}'
                    ) from error
                yield one_line(error)

    def _write_prediction(self, result: ImageResult) -> None:
        if 'json' in self._options.formats:
            write_prediction(self._path('predictions'), result)

    def _write_drawing(self, result: ImageResult) -> None:
        if self._options.save_vis:
            drawn = self._inferencer.draw(result, self._options.drawing)
            write_drawing(self._path('vis'), result, drawn)

    def _finalise(self) -> None:
        """Write what needs all results: COCO, AP, and last the mark that the run is whole."""
        if self._judge is not None:
            self._judge_results(self._judge)
        self._write_info('finished')

    def _judge_results(self, judge: Judge) -> None:
        """Write the COCO results of all records, and judge them if there are annotations.

        Raises:
            AnnotationError: The annotations are gone, or no longer fit.
        """
        paths, evaluation = [frame.path for frame in self._frames], self.summary.evaluation
        ids = coco_ids(paths, self._image_ids, judged=evaluation is not None)
        records = self._path('predictions.jsonl')
        results: Iterable[Mapping[str, Any]] = judge.results(records, ids)
        failed = None
        if evaluation is not None:
            try:
                results = judge.evaluate(records, ids, evaluation)
            except AnnotationError as error:  # raised once all else is written
                failed = error
        path = self._path('predictions.coco.json')
        # That of the resumed run may be of other annotations: it would contradict run.json.
        if 'coco' in self._options.formats or osp.exists(path):
            write_coco(path, results)
        if failed is not None:
            raise failed

    def _selected_networks(self) -> list[str]:
        return [name for name, runner in self._inferencer.runners.items() if runner.selection]

    def _pending(self) -> list[str]:
        """Names of images whose files a killed run may have written before their records.

        A resumed run repeats those from a multiple of CHECKPOINT_EVERY on.
        """
        done = self.summary.images
        done -= done % CHECKPOINT_EVERY
        return [frame.name for frame in self._frames[done : done + CHECKPOINT_EVERY]]

    def _write_info(self, status: str) -> None:
        self._status = status
        self._known_networks = self._selected_networks()
        evaluation = self.summary.evaluation
        settled = {
            key: {**now, **self._before.get(key, {})} for key, now in self._selected().items()
        }
        info = {
            'status': status,
            'written_by': f'mmpose_batch {__version__}',
            'pending': self._pending(),
            'started': self._started,
            'identity': self._identity,
            'device': str(self._inferencer.device),
            'options': {
                **asdict(self._inferencer.options),
                'batch_size': self._call.batch_size,
            },
            'settled': settled,
            'engines': {name: runner.report for name, runner in self._inferencer.runners.items()},
            'counts': {
                key: getattr(self.summary, key)
                for key in ('images', 'resumed', 'persons', 'failures')
            },
            'seconds': {'total': self.summary.seconds, **self.summary.stages},
            'images_per_second': self.summary.images_per_second,
            'peak_resident_bytes': peak_resident(),
            'metrics': self.summary.metrics,
            'evaluation': evaluation and evaluation.to_json(),
            **(self._judged_before if self._judge is None else {}),
        }
        with open_atomically(self._path('run.json')) as file:
            file.write(json.dumps(info, indent=2).encode() + b'\n')


def _failure(record: Mapping[str, Any]) -> dict[str, Any]:
    """The failure record of an image: its instances, if it has any, stay in predictions.jsonl."""
    return {key: record[key] for key in ('image', 'error')}
