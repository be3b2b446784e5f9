"""Precomputed person boxes: conversion to one array per image, and checks of their values."""

import copy
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import ImageError
from ..workers import Marker
from .base import Frame, Source


def with_boxes(source: Source, bboxes: Any) -> Source:
    """A source whose frames have precomputed person boxes.

    Args:
        source: The frames.
        bboxes: One item per image, see :func:`boxes_of_images`.

    Raises:
        ValueError: There is not one item for each image; while iterating, if the number of
            images is not known before.
    """
    return replace(source, frames=_with_boxes(source, boxes_of_images(bboxes, source.length)))


def _with_boxes(frames: Iterable[Frame | Marker], bboxes: Iterable) -> Iterator[Frame | Marker]:
    message = 'bboxes: expected one array of boxes for every image'
    boxes, missing = iter(bboxes), object()
    for frame in frames:
        if isinstance(frame, Marker):
            yield frame
            continue
        own = next(boxes, missing)
        if own is missing:
            raise ValueError(message)
        # Frames are read ahead, and a generator may fill one buffer again and again.
        yield replace(frame, bboxes=copy.deepcopy(detached(own)))
    if next(boxes, missing) is not missing:
        raise ValueError(message)


def boxes_of_images(bboxes: Any, length: int | None) -> Iterable:
    """Person boxes as an iterable of one item per image.

    Args:
        bboxes: Arrays, tensors or lists, each a valid argument of :func:`as_boxes`; for a single
            image also its boxes without the outer list.
        length: Number of images; None if unknown.

    Raises:
        ValueError: The number of items is not the number of images.
    """
    expected = 'bboxes: expected one array of boxes for every image'
    bboxes = detached(bboxes)
    if isinstance(bboxes, str | bytes | dict) or not np.iterable(bboxes):
        raise ValueError(f'{expected}, found {reprlib.repr(bboxes)}')
    if not isinstance(bboxes, Sequence | np.ndarray):
        return bboxes
    if length == 1:
        try:
            return [as_boxes(bboxes)]
        except ImageError:
            pass  # a list with the boxes of one image, or invalid
    if length not in (None, len(bboxes)):
        raise ValueError(f'{expected}, found {len(bboxes)} for {length}')
    return bboxes


def detached(boxes: Any) -> Any:
    """Boxes with all tensors, even on a GPU or with gradients, converted to arrays."""
    if isinstance(boxes, torch.Tensor):
        return boxes.detach().cpu().float().numpy()
    if isinstance(boxes, list | tuple):
        return [detached(box) for box in boxes]
    return boxes


def as_boxes(bboxes: Any) -> np.ndarray:
    """Boxes of one image as a float32 array (N, 4) or (N, 5).

    Args:
        bboxes: Array or lists of shape (N, 4) or (N, 5), or of (4,) or (5,) for a single box.

    Raises:
        ImageError: They have another shape or type.
    """
    expected = 'expected bboxes of shape (N, 4) or (N, 5)'
    try:
        boxes = np.asarray(bboxes, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ImageError(f'{expected}, found {reprlib.repr(bboxes)}') from error
    if boxes.size == 0:
        return np.zeros((0, 5), np.float32)
    if boxes.ndim == 1 and len(boxes) in (4, 5):
        boxes = boxes[None]
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 5):
        raise ImageError(f'{expected}, found {boxes.shape}')
    return boxes


def checked_bboxes(bboxes: Any, width: int, height: int) -> np.ndarray:
    """Check the boxes of one image, and add a score of 1 to boxes without one.

    Args:
        bboxes: Argument of :func:`as_boxes`: x1, y1, x2, y2 in pixels, and possibly a score.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        A float32 array (N, 5).

    Raises:
        ImageError: The shape is wrong, or a box is not finite, has no area, or lies outside the
            image.
    """
    bboxes = as_boxes(bboxes)
    if bboxes.shape[1] == 4:
        bboxes = np.hstack((bboxes, np.ones((len(bboxes), 1), np.float32)))
    x1, y1, x2, y2 = bboxes[:, :4].T
    for bad, what in (
        (~np.isfinite(bboxes).all(axis=1), 'with a value that is not finite'),
        ((x2 <= x1) | (y2 <= y1), 'without area'),
        ((x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height), 'outside the image'),
    ):
        if bad.any():
            number = int(np.argmax(bad))
            values = ', '.join(f'{value:g}' for value in bboxes[number, :4])
            raise ImageError(
                f'expected boxes inside {width} x {height}, found box {number} {what}: {values}'
            )
    return bboxes
