"""Rotation and mirroring of a video, as its container declares them."""

from typing import Any

import numpy as np


def upright(image: np.ndarray, frame: Any) -> np.ndarray:
    """Turn and mirror the pixels of a frame as players do, by its display matrix.

    Args:
        image: Decoded image (H, W, C).
        frame: PyAV's frame, whose side data has the matrix. Only multiples of 90 degrees are
            supported; others leave the image as it is, as for OpenCV.

    Returns:
        A view of the image, (H, W, C) or (W, H, C).
    """
    a, b, c, d = _signs(frame)
    if a and d and not (b or c):
        return image[::d, ::a]
    if b and c and not (a or d):
        return image.transpose(1, 0, 2)[::b, ::c]
    return image


def swaps_sides(frame: Any) -> bool:
    """Whether width and height of a frame are swapped when it is displayed."""
    a, b, c, d = _signs(frame)
    return bool(b and c and not (a or d))


def is_turned(frame: Any) -> bool:
    """Whether a frame is turned or mirrored when it is displayed."""
    a, b, c, d = _signs(frame)
    return (a, b, c, d) != (1, 0, 0, 1) and bool(a and d) != bool(b and c)


def _signs(frame: Any) -> tuple[int, int, int, int]:
    """Signs of the matrix that maps x and y: x' = a x + c y, y' = b x + d y."""
    # PyAV loads slowly. Its frame.side_data would be a reference cycle, and frames would fill the
    # memory until the garbage collector runs.
    from av.sidedata.sidedata import SideDataContainer

    data = SideDataContainer(frame).get('DISPLAYMATRIX')
    if data is None:
        return 1, 0, 0, 1
    (a, b, _), (c, d, _) = np.frombuffer(data, np.int32)[:6].reshape(2, 3).tolist()
    # Fixed point with 16 bits after the point; a rotation by sine and cosine leaves tiny values.
    return tuple((value > 1 << 12) - (value < -(1 << 12)) for value in (a, b, c, d))
