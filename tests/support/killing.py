"""An image file that kills the process that reads it; imported by the config of a test.

Unlike :mod:`support.crashing`, also in an actor of Ray, which no Python process has started.
"""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from mmpose_batch.sources.base import Frame
from mmpose_batch.stages import read

_read_image = read.read_image


def read_image(frame: Frame, *arguments: Any) -> np.ndarray:
    """Read an image, unless its name says that this ends the process."""
    if isinstance(frame.data, str) and Path(frame.name).name == 'kills.jpg':
        os.kill(os.getpid(), signal.SIGKILL)
    return _read_image(frame, *arguments)


read.read_image = read_image
