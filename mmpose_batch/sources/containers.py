"""Video files: opening them, and what their headers declare. Imports PyAV on first use."""

import os
import os.path as osp
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from types import ModuleType
from typing import Any

from .. import pyav
from ..errors import SourceError
from .orientation import swaps_sides

# Frame threads lose the last frames if one of them is damaged, and slice threads lose damaged
# frames of some formats. Moreover, nothing may depend on the number of cores.
DECODER_THREADS = 1
# Frames per second between which a rate is plausible; others may come from a damaged header.
_MIN_RATE, _MAX_RATE = 1, 1000
# Factor by which declarations of one number must differ for one of them to be ignored.
_CONTRADICTION = 2
# Packets after which a stream without a decodable frame counts as one without frames.
_MAX_PROBED = 300


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the header of a video declares, which need not be true.

    Attributes:
        width: Width in pixels of the first frame, as displayed.
        height: Height in pixels of the first frame, as displayed.
        fps: Average number of frames per second; 0 if unknown.
        frames: Estimated number of frames; None if unknown.
        duration: Seconds; None if unknown.
    """

    width: int
    height: int
    fps: float
    frames: int | None
    duration: float | None


def probe(path: str) -> VideoInfo:
    """Read the header of a video and decode its first frame.

    Raises:
        SourceError: The file is missing, empty, no video, or one without a frame that can be
            decoded; or PyAV is not installed.
    """
    with opened(path) as (container, stream):
        width, height = _first_size(path, container, stream)
        rate, duration = rate_of(stream), declared_end(container, stream)
        if duration is not None:
            duration -= start_of(container)
        frames = _count_frames(container, stream, duration, rate)
        is_known = duration is not None and not exceeds_file(container, duration, rate)
        seconds = float(duration) if is_known else None
        return VideoInfo(width, height, float(rate or 0), frames, seconds)


@contextmanager
def opened(path: str) -> Iterator[tuple[Any, Any]]:
    """Open a video; gives PyAV's container and its video stream.

    The container must not be used after the end of the ``with`` block: PyAV would crash.

    Raises:
        SourceError: As for :func:`probe`, but a video without frames is not noticed.
    """
    av = import_av()
    if reason := _unusable(path):
        raise _error(path, reason)
    try:
        # The prefix prevents that a colon in the name is taken for another protocol. Playlists
        # must not load other files.
        container = av.open(
            f'file:{path}', metadata_errors='replace', options={'protocol_whitelist': 'file'}
        )
    except av.error.FFmpegError as error:
        raise _error(path, _why_not_opened(path)) from error
    with container:
        stream = _video_stream(container)
        if stream is None:
            kind = 'sound only' if container.streams.audio else 'no video stream'
            raise _error(path, f'a file with {kind}')
        if stream.codec_context is None:
            raise _error(path, 'a video in a format without a decoder')
        stream.codec_context.thread_count = DECODER_THREADS
        stream.codec_context.copy_opaque = True  # frames have the number of their packet
        if stream.codec_context.name == 'h264':
            # Notices also a slice that ends before its data, as damage may cause (only CAVLC).
            stream.codec_context.options = {'err_detect': 'aggressive'}
        yield container, stream


def new_decoder(path: str) -> Any:
    """A decoder of the video stream that has decoded nothing.

    Raises:
        SourceError: As for :func:`opened`.
    """
    with opened(path) as (_, stream):
        return stream.codec_context


def packets_of(container: Any, *streams: Any) -> Iterator[Any]:
    """Yield the packets of some streams, or of all, up to the first that cannot be read."""
    errors = import_av().error.FFmpegError
    packets = container.demux(*streams)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, errors):
            return
        except IndexError:  # PyAV at the end of a file in which damage has added a stream
            return
        if packet.size:  # otherwise the same picture again, or the end
            yield packet


def import_av() -> ModuleType:
    """Import PyAV.

    Raises:
        SourceError: It is not installed.
    """
    try:
        return pyav.import_av()
    except ImportError as error:
        raise SourceError(f'inputs: {error}') from error


def start_of(container: Any) -> Fraction:
    """Time in seconds at which the earliest stream of a file starts, when a player shows 0."""
    if container.start_time is None:
        return Fraction(0)
    start = Fraction(container.start_time, 10**6)
    # The container rounds it to microseconds, the stream does not.
    exact = [
        s.start_time * s.time_base
        for s in container.streams
        if s.start_time is not None and s.time_base
    ]
    return next((e for e in exact if abs(e - start) <= Fraction(1, 10**6)), start)


def rate_of(stream: Any) -> Fraction | None:
    """Average frames per second; None if unknown."""
    return plausible_rate(stream) if declares_wrong_rate(stream) else _declared_rate(stream)


def _declared_rate(stream: Any) -> Fraction | None:
    return stream.average_rate or stream.guessed_rate or None


def plausible_rate(stream: Any) -> Fraction | None:
    """Frames per second for times that are guessed; None if unknown.

    If the rate of the container is not plausible, it is that of the codec.
    """
    rates = [stream.average_rate, stream.guessed_rate, stream.codec_context.framerate]
    if stream.container.format.name == 'avi':
        microseconds = _avi_number(stream.container, 32)
        rates += [Fraction(10**6, microseconds)] if microseconds else []
    plausible = (rate for rate in rates if _is_plausible(rate))
    return next(plausible, _declared_rate(stream))


def declares_wrong_rate(stream: Any) -> bool:
    """Whether the times of a stream follow from a rate that the rest of its file contradicts.

    Only AVI has one rate instead of a time for each frame.
    """
    declared = _declared_rate(stream)
    is_avi = stream.container.format.name == 'avi'
    return is_avi and not _is_plausible(declared) and plausible_rate(stream) != declared


def _is_plausible(rate: Fraction | None) -> bool:
    return rate is not None and _MIN_RATE < rate < _MAX_RATE


def _avi_number(container: Any, offset: int) -> int:
    """A number in the main header of an AVI file."""
    with open(container.name.removeprefix('file:'), 'rb') as file:
        file.seek(offset)
        return int.from_bytes(file.read(4), 'little')


def _avi_frames(container: Any, stream: Any) -> int:
    """Number of frames that the header of an AVI file declares, unless its index contradicts it.

    A file that is cut has no index at its end, and its size is not the declared one.
    """
    indexed = len(stream.index_entries)
    is_complete = abs(_avi_number(container, 4) + 8 - container.size) <= 1
    if is_complete and 0 < indexed * _CONTRADICTION < stream.frames:
        return indexed
    return stream.frames


def _count_frames(
    container: Any, stream: Any, duration: Fraction | None, rate: Fraction | None
) -> int | None:
    """Estimate the number of frames; None if unknown."""
    by_time = round(duration * rate) if duration and rate else None
    frames = stream.frames or by_time
    if by_time and frames > _CONTRADICTION * by_time:
        frames = by_time
    return None if not frames or frames > container.size else frames


def exceeds_file(container: Any, duration: Fraction, rate: Fraction | None) -> bool:
    """Whether a declared duration is of more frames than the file has bytes."""
    return bool(rate) and duration * rate > container.size


def declared_end(container: Any, stream: Any) -> Fraction | None:
    """End of the video in seconds on the clock of the stream; None if unknown."""
    start = (stream.start_time or 0) * stream.time_base
    if container.format.name == 'avi' and stream.frames and rate_of(stream):
        # Of a cut file, the duration is estimated.
        return start + _avi_frames(container, stream) / rate_of(stream)
    if stream.duration:
        return start + stream.duration * stream.time_base
    # Matroska has a tag for each stream.
    tag = re.fullmatch(r'(\d+):(\d+):(\d+\.?\d*)', stream.metadata.get('DURATION', ''))
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3])
    if container.duration:
        return start_of(container) + Fraction(container.duration, 10**6)
    return None


def is_end_of_all(stream: Any) -> bool:
    """Whether :func:`declared_end` is the end of the longest stream, for example of the sound."""
    return not stream.duration and not stream.metadata.get('DURATION')


def _video_stream(container: Any) -> Any:
    """The main video stream; None if there is none. A cover picture is not one."""
    videos = [s for s in container.streams.video if not s.disposition & 1 << 10]  # attached_pic
    best = container.streams.best('video')
    return best if best in videos else next(iter(videos), None)


def _first_size(path: str, container: Any, stream: Any) -> tuple[int, int]:
    """Width and height of the first frame as displayed."""
    av = import_av()
    for count, packet in enumerate(chain(packets_of(container, stream), [None])):
        try:
            frames = stream.codec_context.decode(packet)
        except av.error.FFmpegError:
            frames = []
        if frames:
            width, height = frames[0].width, frames[0].height
            return (height, width) if swaps_sides(frames[0]) else (width, height)
        if count == _MAX_PROBED:
            break
    raise _error(path, 'one without a frame that can be decoded')


def _unusable(path: str) -> str:
    """Why a path cannot be opened; empty if it can."""
    if not osp.lexists(path):
        return 'no such file'
    if not osp.isfile(path):
        return 'a folder, pipe, device or broken link'
    try:
        with open(path, 'rb') as file:
            return '' if file.read(1) else 'an empty file'
    except OSError as error:
        return error.strerror or str(error)


def _why_not_opened(path: str) -> str:
    with open(path, 'rb') as file:
        head = file.read(12)
    if head[4:8] in (b'ftyp', b'moov', b'mdat', b'wide', b'free'):
        return 'an MP4 or MOV file without an index (moov), which is truncated'
    return f'{os.stat(path).st_size} bytes that are damaged or no video'


def _error(path: str, found: str) -> SourceError:
    return SourceError(f'inputs: expected a video, found {found}: {path}')
