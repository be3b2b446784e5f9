"""The source of a single video file. Other modules import the reading of videos from here."""

import mimetypes
import os.path as osp
from typing import Any

from ..config import VideoOptions
from .base import READ_AHEAD, Source, in_chunks
from .containers import VideoInfo, probe
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
    """Open a video file.

    Raises:
        SourceError: It cannot be read, or PyAV is not installed.
    """
    info = probe(path)
    return Source(
        in_chunks(read_video(path, osp.basename(path), options)),
        length=info.frames,
        sequential=True,
        ahead=READ_AHEAD,
        video_name=osp.basename(path),
        fps=info.fps,
    )


def _recognises(inputs: Any) -> bool:
    if not isinstance(inputs, str):
        return False
    is_named = is_video_name(inputs) or (mimetypes.guess_type(inputs)[0] or '').startswith('video')
    return is_named and osp.isfile(inputs)


register(
    SourceSpec(
        name='video', help='a video file', recognises=_recognises, open=open_video, has_videos=True
    ),
)
