"""Arrays, and iterables of image paths and arrays."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .base import Source, in_chunks
from .numbering import advice_on, number
from .registry import SourceSpec, register


def open_items(inputs: np.ndarray | Iterable) -> Source:
    """Open one array, or an iterable of paths and arrays.

    A sequence is split into chunks. An iterator sends no markers, since its length is not known;
    for it ``max_wait`` limits the time for which images wait.
    """
    if isinstance(inputs, np.ndarray):
        inputs = [inputs]
    frames = number(inputs)
    if isinstance(inputs, Sequence):
        return Source(in_chunks(frames), len(inputs))
    return Source(frames)


def _recognises(inputs: Any) -> bool:
    return isinstance(inputs, Iterable) and not advice_on(inputs)


register(
    SourceSpec(
        name='arrays',
        help='an array (H, W, 3) in BGR, or an iterable of paths and arrays',
        recognises=_recognises,
        open=open_items,
    )
)
