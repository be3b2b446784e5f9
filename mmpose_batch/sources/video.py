"""The source of a single video file. Other modules import the reading of videos from here."""

import os.path as osp
from dataclasses import replace
from typing import Any

from ..config import VideoOptions
from ..errors import SourceError
from .base import Source
from .containers import VideoInfo, import_av, probe
from .items import Items
from .registry import SourceSpec, register
from .video_frames import read_video, sample_frames
from .video_names import VIDEO_SUFFIXES, is_video_name

__all__ = [
    'VIDEO_SUFFIXES',
    'VideoInfo',
    'is_video_name',
    'open_video',
    'probe',
    'read_video',
    'sample_frames',
]


def open_video(path: str, options: VideoOptions | None = None) -> Source:
    """Open a video file. One that cannot be used has one frame, which fails.

    Raises:
        SourceError: PyAV is not installed.
    """
    import_av()
    try:
        fps = probe(path).fps
    except SourceError:
        fps = 0.0
    items = Items([path], options)
    source = items.source(length=items.estimated())
    return replace(source, video_name=osp.basename(path), fps=fps)


def _recognises(inputs: Any) -> bool:
    if not isinstance(inputs, str):
        return False
    return is_video_name(inputs) and osp.isfile(inputs)


register(
    SourceSpec(
        name='video', help='a video file', recognises=_recognises, open=open_video, has_videos=True
    ),
)
