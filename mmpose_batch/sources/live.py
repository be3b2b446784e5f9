"""Frames of a camera in real time."""

import os.path as osp
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from ..errors import SourceError
from ..workers import FLUSH, Marker
from .base import Frame, Source
from .numbering import number
from .registry import SourceSpec, register


def open_camera(text: str) -> Source:
    """Open the camera ``webcam`` or ``webcam:ID``.

    Raises:
        SourceError: There is no such camera, or it cannot be opened.
    """
    camera = text.removeprefix('webcam').removeprefix(':') or '0'
    if not camera.isdigit():
        raise SourceError(f"inputs: expected 'webcam' or 'webcam:ID', found {text!r}")
    capture = cv2.VideoCapture(int(camera))
    if not capture.isOpened():
        raise SourceError(f'inputs: camera {camera} cannot be opened')
    opened = time.monotonic()

    def read() -> Iterator[np.ndarray]:
        try:
            while cv2.waitKey(5) & 0xFF != 27:  # Esc in the window ends the stream, as upstream
                good, image = capture.read()
                if not good:
                    return
                yield image
        finally:
            capture.release()

    frames = number(
        read(),
        fresh=True,
        source_id=f'webcam:{camera}',
        clock=lambda _: time.monotonic() - opened,
    )
    return Source(
        _one_by_one(frames),
        sequential=True,
        video_name='webcam.mp4',
        fps=capture.get(cv2.CAP_PROP_FPS),
        live=True,
    )


def _one_by_one(frames: Iterable[Frame]) -> Iterator[Frame | Marker]:
    """Yield frames with FLUSH after each, so that none waits for the next."""
    for frame in frames:
        yield frame
        yield FLUSH


def _recognises(inputs: Any) -> bool:
    if not isinstance(inputs, str):
        return False
    camera = re.fullmatch(r'webcam(:?\d+)?', inputs) is not None
    # An invalid camera name is an error, unless it is the name of a file.
    return camera or (inputs.startswith('webcam') and not osp.lexists(inputs))


register(
    SourceSpec(
        name='webcam',
        help="a camera, `'webcam'` or `'webcam:1'`",
        recognises=_recognises,
        open=open_camera,
    )
)
