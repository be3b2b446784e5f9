"""Names of video files. Imports nothing, so that listing files is fast."""

# Suffixes of videos, in lower case. GIF is not one: upstream reads such files as images.
VIDEO_SUFFIXES = frozenset(
    '.' + suffix
    for suffix in (
        *('3g2', '3gp', 'asf', 'avi', 'divx', 'dv', 'f4v', 'flv', 'm2ts', 'm2v', 'm4v', 'mkv'),
        *('mov', 'mp4', 'mpe', 'mpeg', 'mpg', 'mts', 'mxf', 'ogm', 'ogv', 'rm', 'rmvb', 'ts'),
        *('vob', 'webm', 'wmv', 'y4m'),
    )
)


def is_video_name(path: str) -> bool:
    """Whether the suffix of a path is that of a video, in upper or lower case."""
    dot = path.rfind('.')
    return dot >= 0 and path[dot:].lower() in VIDEO_SUFFIXES
