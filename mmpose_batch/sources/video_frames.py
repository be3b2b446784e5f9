"""Frames of video files, in order or spread over a file."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from typing import Any

from ..config import VideoOptions
from ..errors import SourceError
from .base import Frame
from .containers import declared_end, import_av, opened, packets_of, start_of
from .decoding import Decoding, VideoPixels

# Number of packets, after the one that a seek finds, in which a keyframe is sought.
_MAX_SOUGHT = 16


def read_video(path: str, name: str, options: VideoOptions | None = None) -> Iterator[Frame]:
    """Decode a video from its beginning, in order, on the calling thread.

    ``frame_id`` counts the frames that a player shows, so those before the start of an edit list
    have none. ``time`` is the presentation time of the stream in seconds, from the start of the
    earliest stream of the file, which is where a player shows 0. It is exact for a variable frame
    rate, and the first frame of a video that starts after its sound has a time above 0. Without
    usable times, as for H.264 with B-frames in AVI, it is ``frame_id`` divided by the frame rate.

    Frames that are lost, damaged, or predicted from such ones keep their numbers and times, and
    reading their pixels fails (:mod:`mmpose_batch.sources.damage` has the rule). The rest of a
    truncated file is one such frame at the end. The frames before it end where it is certain that
    no frame is missing between them, that is with the decoding time of the last packet that was
    read. Videos are decoded on one thread, so nothing depends on the number of cores.

    Args:
        path: The file.
        name: Name of the frames.
        options: Which frames to yield; None yields all.

    Yields:
        Frames with ``index`` from 0. Their pixels can be read on any thread, also later.

    Raises:
        SourceError: The file cannot be opened as a video, or has no times of which ``start`` and
            ``end`` could select a part.
    """
    options = options or VideoOptions()
    start, end = options.seconds
    seen = count = 0
    with opened(path) as (container, stream):
        for shown in Decoding(path, container, stream).frames():
            if shown.time is None and (start, end) != (None, None):
                raise SourceError(f'inputs: start and end need times, which are missing: {path}')
            if end is not None and float(shown.time) >= end:
                return
            if start is not None and shown.is_before(start):
                continue
            is_selected = seen % options.vid_stride == 0
            seen += 1
            if is_selected or shown.is_rest:
                time = None if shown.time is None else float(shown.time)
                yield Frame(
                    count,
                    shown.data,
                    name,
                    source_id=path,
                    time=time,
                    time_guessed=shown.is_guessed,
                    frame_id=shown.number,
                )
                count += 1


def sample_frames(path: str, count: int) -> list[Frame]:
    """Decode frames at times spread over a video, each by seeking to a keyframe.

    Args:
        path: The file.
        count: Maximum number of frames.

    Returns:
        Intact frames without ``frame_id``, in the order of their times; fewer where keyframes are
        rare or damaged, and none of a file that cannot be used.
    """
    try:
        with opened(path) as (container, stream):
            start, end = start_of(container), declared_end(container, stream) or Fraction(0)
            found: dict[int | None, Any] = {}
            for number in range(count):
                time = start + (end - start) * number / count
                frame = _keyframe_at(container, stream, int(time / stream.time_base))
                if frame is not None:
                    found.setdefault(frame.pts, frame)
    except SourceError:
        return []
    frames = sorted(found.items(), key=lambda item: item[0] or 0)
    return [Frame(i, VideoPixels(f), path, source_id=path) for i, (_, f) in enumerate(frames)]


def _keyframe_at(container: Any, stream: Any, pts: int) -> Any:
    """PyAV's frame of the last keyframe up to a time; None if there is no intact one."""
    av = import_av()
    try:
        container.seek(pts, stream=stream)
        for packet in islice(packets_of(container, stream), _MAX_SOUGHT):
            for frame in packet.decode():
                if frame.key_frame and not frame.is_corrupt:
                    return frame
        return next((f for f in stream.codec_context.decode(None) if not f.is_corrupt), None)
    except (av.error.FFmpegError, EOFError):
        return None
