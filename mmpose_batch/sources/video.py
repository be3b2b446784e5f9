"""Frames of a video file."""

import os.path as osp
from collections.abc import Iterator

import mmcv
import numpy as np

from ..errors import SourceError
from .base import Source, in_chunks
from .numbering import number


def open_video(path: str) -> Source:
    """Open a video file; raises SourceError if it cannot be read."""
    video = mmcv.VideoReader(path)
    if not video.opened or video.frame_cnt == 0:
        raise SourceError(f'inputs: expected a video, found a file that cannot be read: {path}')
    return Source(
        in_chunks(number(_read_video(video), fresh=True)),
        length=video.frame_cnt,
        sequential=True,
        video_name=osp.basename(path),
        fps=video.fps,
    )


def _read_video(video: mmcv.VideoReader) -> Iterator[np.ndarray]:
    while (image := video.read()) is not None:
        yield image
