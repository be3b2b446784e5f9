"""The earlier run in an output folder, and whether a run may start or resume there."""

import os.path as osp
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from ..errors import RunError, TooManyErrors
from ..sources.base import Frame
from ..sources.numbering import number
from ..writers.base import Record, ResumePoint
from ..writers.jsonl import FAILURES_FILE, RECORDS_FILE, read_records
from ..writers.options import RunOptions
from .summary import counted


def check_out_dir(options: RunOptions) -> None:
    """Check that a run may write to its output folder.

    Raises:
        RunError: It is not a folder, or contains another run.
    """
    if osp.lexists(options.out_dir) and not osp.isdir(options.out_dir):
        raise RunError(f'cannot write below {options.out_dir}: it is not a folder')
    if holds_run(options.out_dir) and not (options.resume or options.overwrite):
        raise RunError(
            f'{options.out_dir} already contains a run: resume it (--resume), '
            'replace it (--overwrite), or name another folder'
        )


def holds_run(out_dir: str) -> bool:
    """Whether a folder contains records of a run."""
    records = osp.join(out_dir, RECORDS_FILE)
    return osp.isfile(records) and osp.getsize(records) > 0


def number_frames(
    paths: Sequence[str], bboxes: Sequence[np.ndarray] | None = None, labelled: bool = False
) -> list[Frame]:
    """The inputs of a run.

    Args:
        paths: Image files.
        bboxes: Precomputed person boxes of each path, (N, 5), or (N, 6) with labels; None uses
            the detector.
        labelled: Whether to use the labels.
    """
    frames = list(number(list(paths)))
    if bboxes is None:
        return frames
    return [
        replace(frame, bboxes=boxes[:, :5], labels=boxes[:, 5] if labelled else None)
        for frame, boxes in zip(frames, bboxes, strict=True)
    ]


def records_of(out_dir: str, images: int | None = None) -> Iterator[Record]:
    """Yield the records of the run in a folder, in input order.

    Args:
        out_dir: The folder.
        images: Maximum number of records; None for all.
    """
    for record, _ in islice(read_records(osp.join(out_dir, RECORDS_FILE)), images):
        yield record


def count_done(out_dir: str, frames: Sequence[Frame]) -> tuple[int, int]:
    """Count the images that the run in a folder has done.

    Args:
        out_dir: The folder.
        frames: Inputs of the resumed run.

    Returns:
        The number of complete records, and of failures among them.

    Raises:
        RunError: A record belongs to a different input.
    """
    done = failures = 0
    for record in records_of(out_dir):
        name = record.get('image') if isinstance(record, dict) else None
        if done >= len(frames) or name != frames[done].name:
            path = osp.join(out_dir, RECORDS_FILE)
            raise RunError(f'cannot resume: {path} line {done + 1} belongs to a different image')
        done += 1
        failures += 'error' in record
    return done, failures


def resume_point(
    out_dir: str, frames: Sequence[Frame], chunk: int, max_errors: int | None
) -> ResumePoint:
    """Where to resume the run in a folder: after its last complete chunk.

    Args:
        out_dir: The folder.
        frames: Inputs of the resumed run.
        chunk: Images per chunk.
        max_errors: Maximum number of failures, see :func:`check_failures`.

    Raises:
        RunError: A record belongs to a different input.
        TooManyErrors: More images failed than allowed, and the run is not complete.
    """
    done, failures = count_done(out_dir, frames)
    if done < len(frames):
        check_failures(failures, done, len(frames), max_errors)
        done -= done % chunk
    return ResumePoint(images=done, records=lambda: records_of(out_dir, done))


def no_resume() -> ResumePoint:
    """The resume point of a new run."""
    return ResumePoint(images=0, records=lambda: iter(()))


def check_failures(failures: int, done: int, total: int, max_errors: int | None) -> None:
    """Check that at most ``--max-errors`` images have failed.

    Args:
        failures: Number of images that failed.
        done: Number of images that are done, including those of earlier runs.
        total: Number of images of the run.
        max_errors: Maximum number of failures; None for no limit.

    Raises:
        TooManyErrors: More have failed.
    """
    if max_errors is None or failures <= max_errors:
        return
    text = f'{failures} failed and --max-errors is {max_errors}; see {FAILURES_FILE}'
    if done < total:
        raise TooManyErrors(
            f'ended after {done} of {total} images, since {text}, and resume with --resume and a '
            'larger --max-errors, or none'
        )
    raise TooManyErrors(f'all {counted(total, "image")} done, of which {text}')
