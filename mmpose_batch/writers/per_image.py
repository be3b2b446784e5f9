"""One file an image: predictions in stock's JSON form, and drawings."""

import os.path as osp

import cv2
import mmengine
import numpy as np

from ..outputs import drawing_name
from ..results import ImageResult
from .atomic import open_atomically


def write_prediction(folder: str, result: ImageResult) -> None:
    """Write ``folder/<relative path>.json``: the instances as MMPose's inferencer dumps them."""
    text = mmengine.dump(result.predictions[0], file_format='json', indent='  ')
    with open_atomically(osp.join(folder, f'{result.frame.name}.json')) as file:
        file.write(text.encode())


def write_drawing(folder: str, result: ImageResult, drawn: np.ndarray) -> None:
    """Write ``folder/<relative path>``: a drawing (H, W, 3), uint8, RGB.

    What OpenCV reads but does not write gets ``.png`` at its end.

    Raises:
        OSError: The disk is full, or the file system cannot have the name.
        ValueError, cv2.error: The format has no images of that size.
    """
    name = drawing_name(result.frame.name)
    suffix = osp.splitext(name)[1].lower()
    good, data = cv2.imencode(suffix, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    if not good:
        height, width = drawn.shape[:2]
        raise ValueError(f'OpenCV writes no {suffix} of {width} x {height}')
    with open_atomically(osp.join(folder, name)) as file:
        file.write(data.tobytes())
