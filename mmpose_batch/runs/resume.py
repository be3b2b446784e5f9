"""What an output folder holds of an earlier run, and whether a run may begin there."""

import os.path as osp
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import RunError, TooManyErrors
from ..sources.base import Frame
from ..sources.numbering import number
from ..writers.jsonl import read_records
from .options import RunOptions
from .summary import counted


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


def number_frames(
    paths: Sequence[str], bboxes: Sequence[np.ndarray] | None = None, labelled: bool = False
) -> list[Frame]:
    """The inputs of a run.

    Args:
        paths: Image files.
        bboxes: For each path the persons' boxes (N, 5), or (N, 6) with labels; None to
            detect them.
        labelled: Whether the labels are used.
    """
    frames = list(number(list(paths)))
    if bboxes is None:
        return frames
    return [
        replace(frame, bboxes=boxes[:, :5], labels=boxes[:, 5] if labelled else None)
        for frame, boxes in zip(frames, bboxes, strict=True)
    ]


def read_done(out_dir: str, frames: Sequence[Frame]) -> tuple[list[int], int]:
    """What the run that a folder holds has done.

    Args:
        out_dir: The folder.
        frames: Inputs of the resumed run.

    Returns:
        Where each whole record ends, in bytes, and the number of failures among them.

    Raises:
        RunError: A record is of another input.
    """
    records = osp.join(out_dir, 'predictions.jsonl')
    ends, failures = [], 0
    for record, end in read_records(records):
        index = len(ends)
        name = record.get('image') if isinstance(record, dict) else None
        if index >= len(frames) or name != frames[index].name:
            raise RunError(f'cannot resume: {records} line {index + 1} is of another input')
        ends.append(end)
        failures += 'error' in record
    return ends, failures


def check_failures(failures: int, done: int, total: int, most: int | None) -> None:
    """See that no more images than ``--max-errors`` have failed.

    Args:
        failures: Images that failed.
        done: Images that are done, by earlier runs too.
        total: Images in all.
        most: The limit; None for none.

    Raises:
        TooManyErrors: More have.
    """
    if most is None or failures <= most:
        return
    text = f'{failures} failed and --max-errors is {most}; see failures.jsonl'
    if done < total:
        raise TooManyErrors(
            f'ended after {done} of {total} images, since {text}, and go on with --resume and a '
            'larger --max-errors, or none'
        )
    raise TooManyErrors(f'all {counted(total, "image")} done, of which {text}')
