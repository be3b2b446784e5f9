"""The source of a single video file."""

import os.path as osp
from dataclasses import replace
from typing import Any

from ..config import VideoOptions
from .base import Source
from .containers import import_av
from .items import Items
from .registry import SourceSpec, register
from .video_names import is_video_name


def open_video(path: str, options: VideoOptions | None = None) -> Source:
    """Open a video file. One that cannot be used has one frame, which fails.

    Raises:
        SourceError: PyAV is not installed.
    """
    import_av()
    items = Items([path], options)
    source = items.source(length=items.estimated())
    info = items.info(items.videos[0])
    return replace(
        source, video_name=osp.basename(path), fps=0.0 if isinstance(info, str) else info.fps
    )


def _recognises(inputs: Any) -> bool:
    return isinstance(inputs, str) and is_video_name(inputs) and osp.isfile(inputs)


register(
    SourceSpec(
        name='video',
        help='a video file',
        recognises=_recognises,
        open=open_video,
        has_videos=True,
    )
)
