"""A run over many files: everything to disk as it comes, safe to kill and to resume."""

import errno
import hashlib
import json
import os
import os.path as osp
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import cv2
import mmcv
import mmdet
import mmengine
import mmpose
import numpy as np
import PIL
import torch
from torch import nn

from ..config import CallOptions
from ..engines.cache import versions as engine_versions
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
from ..outputs import check_targets, drawing_name, written
from ..progress import ProgressReport, StageClock, format_duration
from ..results import ImageResult
from ..sources.inputs import Frame, Source, number
from ..version import __version__
from ..writers.atomic import open_atomically
from ..writers.coco import write_coco
from ..writers.drawing import DrawOptions
from ..writers.jsonl import JsonLinesWriter, read_records, to_record
from ..writers.per_image import write_drawing, write_prediction
from .locking import locked

FORMATS = ('jsonl', 'json', 'coco')
# No batch crosses a multiple of this many images, so a resumed run that starts
# at one repeats the batches, and with them every bit, of an unbroken run.
CHECKPOINT_EVERY = 256
# How file systems refuse a name; other errors of theirs mean the whole folder.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What a run writes and where.

    Attributes:
        out_dir: Folder for everything.
        formats: Of predictions: ``jsonl`` (always written, resuming needs it),
            ``json``, ``coco``.
        save_vis: Also write drawings.
        drawing: How to draw.
        resume: Go on with the run that ``out_dir`` holds.
        overwrite: Replace the run that ``out_dir`` holds.
        ann_file: COCO keypoint annotations to evaluate against.
        max_errors: End the run once more images than this have failed; None for no such end.
        quiet: Print nothing but errors.
    """

    out_dir: str
    formats: tuple[str, ...] = ('jsonl',)
    save_vis: bool = False
    drawing: DrawOptions = field(default_factory=DrawOptions)
    resume: bool = False
    overwrite: bool = False
    ann_file: str | None = None
    max_errors: int | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        most = self.max_errors
        if most is not None and (type(most) is not int or most < 0):
            raise ValueError(f'max_errors: expected a number from 0, found {self.max_errors!r}')
        unknown = set(self.formats) - set(FORMATS)
        if unknown:
            raise ValueError(f'formats: expected some of {", ".join(FORMATS)}, found {unknown}')
        if self.resume and self.overwrite:
            raise ValueError('resume and overwrite exclude each other')


@dataclass(slots=True)
class RunSummary:
    """What came of a run.

    Attributes:
        images: Inputs in all, those of resumed runs too.
        resumed: Of these, done by earlier runs.
        persons: Instances found.
        failures: Inputs with a failure record.
        seconds: From the first image to the last.
        stages: Seconds in each stage.
        evaluation: What was judged, if there were annotations.
    """

    images: int = 0
    resumed: int = 0
    persons: int = 0
    failures: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    evaluation: Evaluation | None = None

    @property
    def metrics(self) -> dict[str, float | None]:
        """AP and AR, if there were annotations; None where they judge nothing."""
        return {} if self.evaluation is None else self.evaluation.metrics

    def count(self, record: Mapping[str, Any]) -> None:
        """Count one record."""
        self.images += 1
        self.persons += len(record.get('instances', ()))
        self.failures += 'error' in record

    @property
    def images_per_second(self) -> float:
        """Rate of this run alone."""
        return (self.images - self.resumed) / self.seconds if self.seconds else 0.0

    def lines(self) -> Iterator[str]:
        """The closing summary, for a person."""
        resumed = f' ({self.resumed} of them by an earlier run)' if self.resumed else ''
        yield f'images    {self.images}{resumed}'
        yield f'persons   {self.persons}'
        yield f'failures  {self.failures}' + (', see failures.jsonl' if self.failures else '')
        if self.images > self.resumed:
            rate, time = self.images_per_second, format_duration(self.seconds)
            yield f'speed     {rate:.2f} images/s in {time}'
            shares = ', '.join(
                f'{name} {100 * spent / self.seconds:.0f} %' for name, spent in self.stages.items()
            )
            yield f'time      {shares}'
        if self.evaluation is not None:
            yield from self.evaluation.lines()


def check_out_dir(options: RunOptions) -> None:
    """See that the output folder can take the run.

    Raises:
        RunError: It is no folder, or holds another run.
    """
    if osp.lexists(options.out_dir) and not osp.isdir(options.out_dir):
        raise RunError(f'cannot write below {options.out_dir}: it is no folder')
    if holds_run(options.out_dir) and not (options.resume or options.overwrite):
        raise RunError(
            f'{options.out_dir} holds a run already: go on with it (--resume), '
            'replace it (--overwrite), or name another folder'
        )


def holds_run(out_dir: str) -> bool:
    """Whether a folder has records of a run."""
    records = osp.join(out_dir, 'predictions.jsonl')
    return osp.isfile(records) and osp.getsize(records) > 0


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

    Raises:
        RunError: Two drawings would share a file.
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
        self._frames = list(number(list(paths)))
        if bboxes is not None:
            self._frames = [
                replace(f, bboxes=boxes[:, :5], labels=boxes[:, 5] if self._of_label else None)
                for f, boxes in zip(self._frames, bboxes, strict=True)
            ]
        if options.save_vis:
            self._check_drawings()
        self._call = replace(
            call,
            keep_images=options.save_vis,
            keep_labels=bool(self._of_label),
            flush_every=CHECKPOINT_EVERY,
        )
        self._options = options
        self._image_ids = image_ids or ImageIds()
        self._clock = StageClock()
        self._summary = RunSummary()
        if options.ann_file is not None:
            self._summary.evaluation = Evaluation(
                Coverage.of(paths, list(map(self._image_ids.find, paths)), self._image_ids.names),
                self._judge.scoring,
            )
        self._started = datetime.now(UTC).isoformat(timespec='seconds')
        self._identity = self._identify()
        self._before: dict[str, Any] = {}  # what the run that goes on came to

    def __call__(self) -> RunSummary:
        """Do it.

        Raises:
            RunError: The output folder holds another run or is in use, cannot be
                written, or the device failed.
            TooManyErrors: More images failed than ``max_errors``.
            InputError: A bad input, where the inferencer raises them.
        """
        try:
            check_out_dir(self._options)
            os.makedirs(self._options.out_dir, exist_ok=True)
            with locked(self._options.out_dir):
                check_out_dir(self._options)  # a run that ended in between
                keep = self._take_up()
                if keep[0] < len(self._frames):
                    self._settle()
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
        return self._summary

    def _path(self, name: str) -> str:
        return osp.join(self._options.out_dir, name)

    def _check_drawings(self) -> None:
        """See that every drawing has a file of its own.

        Raises:
            RunError: ``a.gif`` and ``a.gif.png`` are both inputs.
        """
        names = (frame.name for frame in self._frames)
        converted = {drawing_name(name): name for name in names if drawing_name(name) != name}
        for frame in self._frames:
            if frame.name in converted:
                raise RunError(
                    f'{frame.name} and {converted[frame.name]} would be drawn into one file: '
                    'rename one, or leave --save-vis out'
                )

    # ------------------------------------------------------------------ resuming

    def _take_up(self) -> tuple[int, int]:
        """Decide where to begin; returns the images and bytes to keep."""
        records = self._path('predictions.jsonl')
        if not holds_run(self._options.out_dir) or self._options.overwrite:
            if not (self._options.resume and self._is_same_run()):  # whose records are lost
                self._check_targets()
            self._remove_earlier_run()
            return 0, 0
        self._check_identity()  # of the same inputs, so its files were checked when it began
        ends = [0]
        for record, end in read_records(records):
            index = len(ends) - 1
            if index >= len(self._frames) or record.get('image') != self._frames[index].name:
                raise RunError(f'cannot resume: {records} line {index + 1} is of another input')
            ends.append(end)
        done = len(ends) - 1
        if done < len(self._frames):
            done -= done % CHECKPOINT_EVERY
        for record, end in read_records(records):
            if end <= ends[done]:
                self._summary.count(record)
        self._summary.resumed = done
        return done, ends[done]

    def _is_same_run(self) -> bool:
        """Whether the folder's ``run.json`` is of a run with this identity."""
        try:
            self._check_identity()
        except RunError:
            return False
        return True

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
        inferencer, options = self._inferencer, self._inferencer.options
        detector = inferencer.detector
        boxes = (frame.bboxes for frame in self._frames if frame.bboxes is not None)
        call = asdict(replace(self._call, keep_images=False))
        del call['keep_labels']  # see `categories`
        return {
            'inputs': _digest(map(_fingerprint, self._frames)),
            'bboxes': _digest(box.tobytes() for box in boxes),
            'categories': self._identify_categories(),
            'config': _digest(_config(inferencer.model)),
            'model': _digest(_tensors(inferencer.model)),
            'det_config': None if detector is None else _digest(_config(detector.model)),
            'detector': None if detector is None else _digest(_tensors(detector.model)),
            'det_cat_ids': None if detector is None else list(detector.cat_ids),
            **call,
            'test_cfg': _digest([_to_json(call['test_cfg'])]),
            'json': 'json' in self._options.formats,
            'drawings': asdict(self._options.drawing) if self._options.save_vis else None,
            'det_batch_size': options.det_batch_size,
            'precision': options.precision,
            'engine': options.engine,
            'engine_device': options.engine_device,
            'engine_file': inferencer.runner.report.get('file'),
            'calib_images': options.calib_images,
            'rect': options.rect,
            'no_person': options.no_person,
            'device': torch.device(inferencer.device).type,
            'threads': torch.get_num_threads(),
            'versions': versions(),
            'engine_versions': {} if options.engine == 'torch' else engine_versions(),
        }

    def _identify_categories(self) -> dict[str, Any] | None:
        """What the category of an instance depends on; None where records have none."""
        if self._of_label is None:
            return None
        labels = (frame.labels for frame in self._frames if frame.labels is not None)
        of_label = {str(label): category for label, category in self._of_label.items()}
        return {'of_label': of_label, 'labels': _digest(each.tobytes() for each in labels)}

    def _check_identity(self) -> None:
        try:
            with open(self._path('run.json'), encoding='utf-8') as file:
                info = json.load(file)
            before, self._before = info['identity'], info['settled']
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                'cannot resume: run.json, which tells what the earlier run was, is missing '
                'or damaged'
            ) from error
        now = json.loads(json.dumps(self._identity))
        changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        if changed:
            raise RunError(
                f'cannot resume: changed since the earlier run: {", ".join(changed)} '
                '(results would be mixed); use the same arguments or another folder'
            )

    # ------------------------------------------------------------------- the run

    def _stream(self, done: int, keep_bytes: int) -> None:
        """Infer what is left and write it as it comes."""
        options, total = self._options, len(self._frames)
        source = Source(iter(self._frames[done:]), total - done)
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
                if self._hosts_settled() != self._known_hosts:
                    self._write_info('running')  # before a record that depends on it
                with self._clock.stage('writing'):
                    self._write(result, records, failures)
                progress.advance()
            self._summary.seconds = time.perf_counter() - start
        stages = ('waiting', 'detection', 'network', 'writing')
        self._summary.stages = {name: self._clock.seconds.get(name, 0.0) for name in stages}
        rest = self._summary.seconds - sum(self._summary.stages.values())
        self._summary.stages['other'] = max(rest, 0.0)

    def _settle(self) -> None:
        """Settle engines and batch sizes with images from all over the run.

        A run that goes on takes over what `auto` came to, and the same images.

        Raises:
            RunError: It comes to something else now.
        """
        inferencer = self._inferencer
        if self._before:
            restore(inferencer.runners, self._before)
        samples = spread(self._frames, inferencer.wants_samples(self._call))
        if samples:
            if not self._options.quiet:
                print(
                    f'building and checking engines, up to {len(samples)} images', file=sys.stderr
                )
            inferencer.warm_up(samples, self._call)
            for name, runner in inferencer.runners.items():
                if runner.selection and not self._options.quiet:
                    print(f'{name}: {runner.selection}', file=sys.stderr)
        changed = [
            key
            for key, values in self._settled().items()
            for name, value in values.items()
            if name in self._before.get(key, {}) and value != self._before[key][name]
        ]
        if changed:
            raise RunError(
                f'cannot resume: not what the earlier run came to: {", ".join(changed)} '
                '(results would be mixed); use another folder'
            )

    def _settled(self) -> dict[str, Any]:
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
        self._summary.count(record)
        if (result.frame.index + 1) % CHECKPOINT_EVERY == 0:
            self._write_info('running')  # which images are pending now
        self._check_errors(record)

    def _check_errors(self, record: Mapping[str, Any]) -> None:
        """End the run if too many images have failed, those of earlier runs included.

        Raises:
            TooManyErrors: They have.
        """
        most, failed = self._options.max_errors, self._summary.failures
        if most is not None and failed > most and 'error' in record:
            raise TooManyErrors(
                f'ended after {self._summary.images} of {len(self._frames)} images, since {failed} '
                f'failed and max_errors is {most}; the last: {record["image"]}: {record["error"]}; '
                'see failures.jsonl, and go on with --resume'
            )

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
        paths, evaluation = [frame.path for frame in self._frames], self._summary.evaluation
        ids = coco_ids(paths, self._image_ids, judged=evaluation is not None)
        records = self._path('predictions.jsonl')
        results: Iterable[Mapping[str, Any]] = judge.results(records, ids)
        failed = None
        if evaluation is not None:
            try:
                results = judge.evaluate(records, ids, evaluation)
            except AnnotationError as error:  # raised once all else is written
                failed = error
        if 'coco' in self._options.formats:
            write_coco(self._path('predictions.coco.json'), results)
        if failed is not None:
            raise failed

    def _hosts_settled(self) -> list[str]:
        return [name for name, runner in self._inferencer.runners.items() if runner.selection]

    def _pending(self) -> list[str]:
        """Names of images whose files a killed run may have written before their records.

        A resumed run repeats those from a multiple of CHECKPOINT_EVERY on.
        """
        done = self._summary.images
        done -= done % CHECKPOINT_EVERY
        return [frame.name for frame in self._frames[done : done + CHECKPOINT_EVERY]]

    def _write_info(self, status: str) -> None:
        self._known_hosts = self._hosts_settled()
        evaluation = self._summary.evaluation
        settled = {
            key: {**now, **self._before.get(key, {})} for key, now in self._settled().items()
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
                key: getattr(self._summary, key)
                for key in ('images', 'resumed', 'persons', 'failures')
            },
            'seconds': {'total': self._summary.seconds, **self._summary.stages},
            'images_per_second': self._summary.images_per_second,
            'peak_resident_bytes': peak_resident(),
            'metrics': self._summary.metrics,
            'evaluation': evaluation and evaluation.to_json(),
        }
        with open_atomically(self._path('run.json')) as file:
            file.write(json.dumps(info, indent=2).encode() + b'\n')


def versions() -> dict[str, str]:
    """Versions of everything that results depend on."""
    modules = [mmpose, mmdet, mmengine, mmcv, torch, np, cv2, PIL]
    if find_spec('pillow_heif'):  # reads HEIC
        modules.append(import_module('pillow_heif'))
    return {
        'mmpose_batch': __version__,
        'python': platform.python_version(),
        **{module.__name__: module.__version__ for module in modules},
    }


def _failure(record: Mapping[str, Any]) -> dict[str, Any]:
    """The failure record of an image: its instances, if it has any, stay in predictions.jsonl."""
    return {key: record[key] for key in ('image', 'error')}


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, 'big') + part)
    return digest.hexdigest()


def _to_json(value: Any) -> bytes:
    return json.dumps(value, default=str, sort_keys=True).encode()


def _config(model: nn.Module) -> Iterator[bytes]:
    config = model.cfg.to_dict()
    config.pop('visualizer', None)  # MMEngine names it, by the time of day if need be
    yield _to_json(config)


def _tensors(model: nn.Module) -> Iterator[bytes]:
    for name, tensor in model.state_dict().items():
        yield name.encode()
        yield tensor.cpu().numpy().tobytes()


def _fingerprint(frame: Frame) -> bytes:
    """What tells that a file is still the same without reading it."""
    try:
        info = os.stat(frame.path)
        state = f'{info.st_size} {info.st_mtime_ns}'
    except (OSError, ValueError):  # no file here, which its record will say
        state = ''
    return f'{frame.name} {state}'.encode()
