"""Non-maximum suppression of MMPose's one-stage heads in NumPy, with identical results."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch

# Number of boxes whose overlaps with all others are computed at once: 64 times 2000 overlaps in
# float32 take half a megabyte, and several such arrays exist at the same time.
BOXES_AT_ONCE = 64
# Upstream's minimum of the union of two boxes, in square pixels.
_MIN_UNION = 1e-6


def select(
    scores: np.ndarray, bboxes: np.ndarray, counts: Sequence[int], nms_pre: int, nms_thr: float
) -> list[np.ndarray]:
    """Rows of the persons of each image, best first, as upstream's one-stage heads select them.

    Args:
        scores: (N,), float32, image by image.
        bboxes: (N, 4), float32: x1, y1, x2, y2.
        counts: Number of rows of each image.
        nms_pre: Maximum number of rows per image, those with the highest scores.
        nms_thr: IoU above which a box is a duplicate; 1 disables NMS.

    Returns:
        For each image the indices of its rows, int64.
    """
    selected = []
    found = torch.from_numpy(scores).split(counts)
    for of_image, first in zip(found, accumulate(counts, initial=0), strict=False):
        # Sorted twice and by PyTorch, as in upstream, so that equal scores end up in the same
        # order.
        best, order = of_image.sort(descending=True)
        rows = order[:nms_pre].numpy() + first
        if nms_thr < 1 and len(rows):
            rows = rows[best[:nms_pre].sort(descending=True)[1].numpy()]
            rows = rows[suppress(bboxes[rows], nms_thr)]
        selected.append(rows)
    return selected


def suppress(bboxes: np.ndarray, threshold: float) -> np.ndarray:
    """Indices (M,) of the boxes (N, 4), best first, that remain after upstream's ``nms_torch``."""
    left, selected = np.arange(len(bboxes)), []
    while len(left):
        block = left[:BOXES_AT_ONCE]
        # Upstream computes the overlaps box by box.
        far = ~(_overlaps(bboxes[block], bboxes[left]) > bboxes.dtype.type(threshold))
        free = np.ones(len(left), dtype=bool)
        for row, others in enumerate(far):
            if free[row]:
                selected.append(block[row])
                free &= others
        left = left[len(block) :][free[len(block) :]]
    return np.array(selected, dtype=np.int64)


def _overlaps(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU (M, N) of boxes (M, 4) and (N, 4), by the steps of upstream's ``bbox_overlaps``."""
    left, top, right, bottom = some.T[:, :, None]
    lefts, tops, rights, bottoms = others.T
    with np.errstate(invalid='ignore', over='ignore'):  # boxes may be infinite
        width = np.maximum(np.minimum(right, rights) - np.maximum(left, lefts), 0)
        height = np.maximum(np.minimum(bottom, bottoms) - np.maximum(top, tops), 0)
        overlap = width * height
        areas = (right - left) * (bottom - top) + (rights - lefts) * (bottoms - tops)
        return overlap / np.maximum(areas - overlap, some.dtype.type(_MIN_UNION))
