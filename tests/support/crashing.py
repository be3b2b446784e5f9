"""Files that crash, hang or kill the process that reads them; imported by a config in tests.

They only do so in worker processes. In the process of a run they cannot be decoded.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmpose_batch.errors import READER_DIES, ImageError
from mmpose_batch.sources import items
from mmpose_batch.sources.base import Frame
from mmpose_batch.stages import read

# The frame of crash.mp4 whose decoding crashes.
CRASHING_FRAME = 5
_IN_WORKER = multiprocessing.parent_process() is not None
_read_image, _read_video = read.read_image, items.read_video


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_image(frame: Frame, *arguments: Any) -> np.ndarray:
    """Read an image, unless its name says that this ends the process."""
    # Files that are known to crash are not passed on by their path.
    name = Path(frame.name).name if isinstance(frame.data, str) else ''
    if name in ('crash.jpg', 'hang.jpg') and not _IN_WORKER:
        raise ImageError(READER_DIES)
    if name == 'crash.jpg':
        _end()
    if name == 'hang.jpg':
        time.sleep(3600)
    once = Path(frame.path).with_suffix('.killed')
    if name == 'once.jpg' and _IN_WORKER and not once.exists():
        once.touch()
        _end()
    return _read_image(frame, *arguments)


def read_video(path: str, *arguments: Any) -> Iterator[Frame]:
    """Decode a video; that of crash.mp4 crashes at one frame."""
    for frame in _read_video(path, *arguments):
        if Path(path).name == 'crash.mp4' and frame.frame_id == CRASHING_FRAME:
            if _IN_WORKER:
                _end()
            raise ImageError(READER_DIES)
        yield frame


read.read_image, items.read_video = read_image, read_video
