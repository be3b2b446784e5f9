"""Frames of a camera, as they come."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from ..errors import SourceError
from ..workers import FLUSH, FlushType
from .base import Frame, Source
from .numbering import number


def open_camera(text: str) -> Source:
    """Open ``webcam`` or ``webcam:ID``; raises SourceError if there is none."""
    camera = text.removeprefix('webcam').removeprefix(':') or '0'
    if not camera.isdigit():
        raise SourceError(f"inputs: expected 'webcam' or 'webcam:ID', found {text!r}")
    capture = cv2.VideoCapture(int(camera))
    if not capture.isOpened():
        raise SourceError(f'inputs: camera {camera} cannot be opened')

    def read() -> Iterator[np.ndarray]:
        try:
            while cv2.waitKey(5) & 0xFF != 27:  # Esc in the window ends it, as upstream
                good, image = capture.read()
                if not good:
                    return
                yield image
        finally:
            capture.release()

    return Source(
        _one_by_one(number(read(), fresh=True)),
        sequential=True,
        video_name='webcam.mp4',
        fps=capture.get(cv2.CAP_PROP_FPS),
        live=True,
    )


def _one_by_one(frames: Iterable[Frame]) -> Iterator[Frame | FlushType]:
    """Frames after each of which there is nothing for a while."""
    for frame in frames:
        yield frame
        yield FLUSH
