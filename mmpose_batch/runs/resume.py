"""The earlier run in an output folder, and whether a run may start or resume there."""

import os.path as osp
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from ..errors import RunError, TooManyErrors
from ..sources.items import Items, Position
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


def records_of(out_dir: str, images: int | None = None) -> Iterator[Record]:
    """Yield the records of the run in a folder, in input order.

    Args:
        out_dir: The folder.
        images: Maximum number of records; None for all.
    """
    for record, _ in islice(read_records(osp.join(out_dir, RECORDS_FILE)), images):
        yield record


def count_done(out_dir: str, items: Items) -> tuple[Position, int]:
    """Count the images, and the frames of videos, that the run in a folder has done.

    Args:
        out_dir: The folder.
        items: Inputs of the resumed run.

    Returns:
        The position after the last complete record, and the number of failures before it.

    Raises:
        RunError: A record belongs to a different input.
    """
    names = [frame.name for frame in items.all]
    results = images = videos = frames = failures = 0
    for results, record in enumerate(records_of(out_dir), 1):
        record = record if isinstance(record, dict) else {}
        if images < len(items.images):
            good = record.get('image') == names[images]
            images += good
        else:
            if frames and record.get('video') != names[images + videos]:
                videos, frames = videos + 1, 0
            good = images + videos < len(names) and record.get('video') == names[images + videos]
            frames += good
        if not good:
            path = osp.join(out_dir, RECORDS_FILE)
            raise RunError(f'cannot resume: {path} line {results} belongs to a different input')
        failures += 'error' in record
    return Position(results, images, videos, frames), failures


def resume_position(
    out_dir: str, items: Items, finished: bool, max_errors: int | None
) -> tuple[Position, ResumePoint]:
    """Where to resume the run in a folder: after its last complete chunk.

    Args:
        out_dir: The folder.
        items: Inputs of the resumed run.
        finished: Whether the run was finished.
        max_errors: Maximum number of failures, see :func:`check_failures`.

    Raises:
        RunError: A record belongs to a different input.
        TooManyErrors: More images failed than allowed, and the run is not complete.
    """
    done, failures = count_done(out_dir, items)
    if not is_complete(done, items, finished):
        total = None if items.videos else len(items.images)
        check_failures(failures, done.results, total, max_errors)
        done = _chunk_start(done, items)
    point = ResumePoint(images=done.results, records=lambda: records_of(out_dir, done.results))
    return done, point


def is_complete(done: Position, items: Items, finished: bool) -> bool:
    """Whether nothing follows a position of an earlier run.

    The number of frames of a video is known only if the run was finished.
    """
    return finished if items.videos else done.images == len(items.images)


def _chunk_start(done: Position, items: Items) -> Position:
    """The start of the chunk that a position is in; at the end of a chunk, that position."""
    if done.images < len(items.images):
        images = done.images - done.images % items.chunk
        return Position(results=images, images=images)
    rest = done.frames % items.chunk
    return replace(done, results=done.results - rest, frames=done.frames - rest)


def no_resume() -> ResumePoint:
    """The resume point of a new run."""
    return ResumePoint(images=0, records=lambda: iter(()))


def check_failures(
    failures: int, done: int, total: int | None, max_errors: int | None, finished: bool = False
) -> None:
    """Check that at most ``--max-errors`` images have failed.

    Args:
        failures: Number of images that failed.
        done: Number of images that are done, including those of earlier runs.
        total: Number of images of the run; None if it is not known, as with videos.
        max_errors: Maximum number of failures; None for no limit.
        finished: Whether all images are done.

    Raises:
        TooManyErrors: More have failed.
    """
    if max_errors is None or failures <= max_errors:
        return
    text = f'{failures} failed and --max-errors is {max_errors}; see {FAILURES_FILE}'
    if not finished:
        so_far = f'{done} images and frames' if total is None else f'{done} of {total} images'
        raise TooManyErrors(
            f'ended after {so_far}, since {text}, and resume with --resume and a '
            'larger --max-errors, or none'
        )
    everything = f'{done} images and frames' if total is None else counted(done, 'image')
    raise TooManyErrors(f'all {everything} done, of which {text}')
