"""Suffixes of video files; nothing heavy is imported, since listing folders uses them."""

import os.path as osp

# Suffixes of containers that FFmpeg reads.
VIDEO_SUFFIXES = frozenset(
    '.' + suffix
    for suffix in (
        *('3g2', '3gp', 'asf', 'avi', 'f4v', 'flv', 'm2ts', 'm4v', 'mkv', 'mov', 'mp4', 'mpeg'),
        *('mpg', 'mts', 'mxf', 'ogm', 'ogv', 'ts', 'vob', 'webm', 'wmv'),
    )
)


def is_video_name(path: str) -> bool:
    """Whether a file's name has the suffix of a video."""
    return osp.splitext(path)[1].lower() in VIDEO_SUFFIXES
