"""Frames of a video file."""

import mimetypes
import os.path as osp
from collections.abc import Iterator
from typing import Any

import mmcv
import numpy as np

from ..errors import SourceError
from .base import Source, in_chunks
from .numbering import number
from .registry import SourceSpec, register


def open_video(path: str) -> Source:
    """Open a video file.

    Raises:
        SourceError: It cannot be read.
    """
    video = mmcv.VideoReader(path)
    if not video.opened or video.frame_cnt == 0:
        raise SourceError(f'inputs: expected a video, found a file that cannot be read: {path}')
    fps = video.fps
    clock = (lambda index: index / fps) if fps > 0 else None
    frames = number(_read_video(video), fresh=True, source_id=path, clock=clock)
    return Source(
        in_chunks(frames),
        length=video.frame_cnt,
        sequential=True,
        video_name=osp.basename(path),
        fps=fps,
    )


def _read_video(video: mmcv.VideoReader) -> Iterator[np.ndarray]:
    while (image := video.read()) is not None:
        yield image


def _recognises(inputs: Any) -> bool:
    if not isinstance(inputs, str):
        return False
    return (mimetypes.guess_type(inputs)[0] or '').startswith('video') and osp.isfile(inputs)


register(
    SourceSpec(name='video', help='a video file', recognises=_recognises, open=open_video),
)
