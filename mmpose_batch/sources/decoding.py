"""Decoding of a video: numbers, exact times and pixels of its frames, and its missing rest."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, pairwise, takewhile
from typing import Any

import numpy as np

from ..errors import ImageError
from .containers import (
    declared_end,
    declares_wrong_rate,
    exceeds_file,
    import_av,
    is_end_of_all,
    new_decoder,
    packets_of,
    plausible_rate,
    rate_of,
    start_of,
)
from .damage import FrameOrder, Item
from .orientation import upright

# Number of packets that decide whether the times of a stream with B-frames can be used.
_MAX_TIMES = 16
# Files without an index in which a player skips damaged parts, and the bytes between two packets
# of an intact one; more are packets that were skipped.
_RESYNCED, _MAX_GAP = ('matroska', 'flv'), 128
# Formats that do not declare the length of a video.
_ENDLESS = ('mpegts', 'mpeg')
# Seconds by which decoding times may go back within one recording; not at all at a keyframe.
_MAX_BACK = 1
# Seconds between two packets of which the second is damaged if it is behind the declared end: the
# declared duration, but at least and at most so many.
_MIN_JUMP, _MAX_JUMP = 60, 3600
# Seconds, and frames, by which a complete video may be shorter than declared.
_TOLERANCE, _TOLERANCE_FRAMES = Fraction(1, 10), 2


@dataclass(frozen=True, slots=True, eq=False)
class VideoPixels:
    """Pixels of a decoded frame, which :meth:`read` converts on the thread that calls it.

    Attributes:
        frame: PyAV's frame, which owns its memory.
    """

    frame: Any

    def read(self) -> np.ndarray:
        """Return a new array (H, W, 3), uint8, BGR, oriented as displayed; as OpenCV converts."""
        image = self.frame.to_ndarray(format='bgr24', interpolation='BICUBIC', threads=1)
        return np.require(upright(image, self.frame), requirements=('C', 'W'))


@dataclass(frozen=True, slots=True, eq=False)
class NoPixels:
    """Stands for a frame that is lost or damaged.

    Attributes:
        reason: What is wrong, in one line.
    """

    reason: str

    def read(self) -> np.ndarray:
        """Raise the error.

        Raises:
            ImageError: Always.
        """
        raise ImageError(self.reason)


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A frame in presentation order, with exact times in seconds.

    Attributes:
        number: Index among the frames that a player shows.
        time: Time from the start of the file; None if unknown.
        until: End of the frame; None if unknown.
        is_guessed: Whether ``time`` is derived from the frame rate.
        data: Its pixels.
        is_rest: Whether it stands for the rest of a truncated file.
    """

    number: int
    time: Fraction | None
    until: Fraction | None
    is_guessed: bool
    data: VideoPixels | NoPixels
    is_rest: bool = False

    def is_before(self, start: float) -> bool:
        """Whether the frame is not part of a selection that starts at a time."""
        return float(self.until) <= start if self.is_rest else float(self.time) < start


@dataclass(frozen=True, slots=True, eq=False)
class _Packet:
    """A packet, and the frames that the decoder returned when it was sent."""

    pts: int | None
    dts: int | None
    is_key: bool
    has_fault: bool
    is_displayed: bool
    frames: list


class Decoding:
    """Decodes a video from its beginning to its end, once.

    Args:
        path: The file.
        container: PyAV's container of it, which stays open during the iteration.
        stream: Its video stream.
    """

    def __init__(self, path: str, container: Any, stream: Any) -> None:
        self._path, self._container, self._stream = path, container, stream
        self._unit, self._rate = stream.time_base, rate_of(stream)
        guessed_rate = plausible_rate(stream)
        self._step = 1 / guessed_rate if guessed_rate else None  # between guessed times
        self._start = start_of(container)
        self._count = 0
        self._time: Fraction | None = None  # of the last frame
        self._until = Fraction(0)
        self._is_guessed = False
        self._bad_since: int | None = None

    def frames(self) -> Iterator[Shown]:
        """Yield all frames, and at the end the missing rest of a truncated file."""
        packets = _Packets(self._path, self._container, self._stream)
        # B-frames start early in nearly all streams that have them.
        reorders = self._stream.codec_context.has_b_frames
        first = list(islice(packets, _MAX_TIMES if reorders else 1))
        order = FrameOrder(_are_usable(first) and not declares_wrong_rate(self._stream))
        last_dts, end = None, declared_end(self._container, self._stream)
        for packet in chain(first, packets):
            back = 0 if None in (packet.dts, last_dts) else last_dts - packet.dts
            if back * self._unit > _MAX_BACK or (back > 0 and packet.is_key):
                order.restart()
            pts = packet.dts if packet.pts is None else packet.pts
            if end is not None and self._is_damaged(pts, last_dts, end):
                pts = None
            last_dts = last_dts if packet.dts is None else packet.dts
            order.add(pts, packet.dts, packet.is_key, packet.has_fault, packet.is_displayed)
            for frame in packet.frames:
                self._put(order, frame)
            yield from map(self._show, order.ready())
        order.flush()
        for frame in packets.flushed():
            self._put(order, frame)
        order.finish()
        yield from self._end(order, packets.read_until)

    def _is_damaged(self, pts: int | None, last_dts: int | None, end: Fraction) -> bool:
        """Whether a time is too far behind the packet before, and behind the declared end."""
        if pts is None:
            return False
        last = self._start if last_dts is None else last_dts * self._unit
        jump = min(_MAX_JUMP, max(_MIN_JUMP, end - self._start))
        return pts * self._unit > end and pts * self._unit - last > jump

    def _put(self, order: FrameOrder, frame: Any) -> None:
        number = frame.opaque if frame.opaque is not None else order.number_of(frame.pts)
        if number is not None and not order.put(number, frame):
            order.drop_times()
            order.put(number, frame)

    def _show(self, item: Item) -> Shown:
        step = self._step
        self._is_guessed = True
        least = self._time or Fraction(0)
        time = item.pts * self._unit - self._start if item.is_timed else None
        if time is not None and least - time <= _MAX_BACK:
            self._time, self._is_guessed = max(time, least), time < least
        elif step is not None:
            self._time = Fraction(0) if self._time is None else self._time + step
        duration = getattr(item.frame, 'duration', 0)
        length = duration * self._unit if item.is_timed and duration else step or 0
        self._until = (self._time or 0) + length
        number, self._count = self._count, self._count + 1
        data = VideoPixels(item.frame)
        if item.is_bad:
            self._bad_since = number if self._bad_since is None else self._bad_since
            data = NoPixels(f'the video is damaged since frame {self._bad_since}')
        else:
            self._bad_since = None
        return Shown(number, self._time, self._until, self._is_guessed, data)

    def _end(self, order: FrameOrder, read_until: Fraction) -> Iterator[Shown]:
        """Yield the frames that waited for the end of the file, and its missing rest."""
        items = list(order.ready())
        end = declared_end(self._container, self._stream)
        tolerance = max(_TOLERANCE, _TOLERANCE_FRAMES / self._rate if self._rate else 0)
        is_truncated = end is not None and end - read_until > tolerance
        if is_truncated:
            items = list(takewhile(order.is_sure, items))
            while items and items[-1].is_bad:
                del items[-1]
        is_cut = order.ends_with_fault
        for item in items:
            is_cut |= self._follows_a_gap(item)
            item.is_bad |= is_cut and not order.is_sure(item)
            yield self._show(item)
        if is_truncated:
            total = end - self._start
            missing = f'{float(total - self._until):.1f} s of {float(total):.1f} s are missing'
            after = f' after frame {self._count - 1}' if self._count else ''
            is_doubtful = exceeds_file(self._container, total, self._rate)
            doubt = ', or its header declares a wrong duration' if is_doubtful else ''
            data = NoPixels(f'the video is truncated{doubt}: {missing}{after}')
            yield Shown(self._count, self._until, total, self._is_guessed, data, is_rest=True)

    def _follows_a_gap(self, item: Item) -> bool:
        """Whether frames are missing before one at the end of a stream of unknown length.

        Such a stream may be cut between a frame and the B-frames that are displayed before it.
        """
        if self._container.format.name not in _ENDLESS or not (item.is_timed and self._rate):
            return False
        gap = item.pts * self._unit - self._start - self._until
        return self._count > 0 and gap * self._rate > Fraction(1, 2)


class _Decoder:
    """Decodes packets, and replaces FFmpeg's decoder by a new one at a keyframe after damage.

    After a damaged frame, FFmpeg's decoder of H.264 may add remains of it to intact ones. Whether
    a frame is damaged is known when it is output, which may be later than the next keyframe is
    decoded. Therefore packets are kept from each keyframe until its frame is output.

    Args:
        path: The video.
        context: PyAV's decoder of its stream.
    """

    def __init__(self, path: str, context: Any) -> None:
        self._path, self._context = path, context
        self._errors = import_av().error.FFmpegError
        self._is_dirty = False
        self._kept: list[Any] = []  # beginning with a keyframe whose frame is not output yet
        self._seen: set[int | None] = set()  # numbers of frames output since then

    def decode(self, packet: Any) -> tuple[list[Any], bool]:
        """Decode a packet, or output the remaining frames if it is None.

        Returns:
            Frames in the order of output, and whether the packet was rejected.
        """
        if packet is not None and packet.is_keyframe:
            self._kept, self._seen = [], set()
        if packet is not None and (self._kept or packet.is_keyframe):
            self._kept.append(packet)
        frames, is_rejected = self._send(packet)
        if not self._kept:
            return frames, is_rejected
        numbers = [frame.opaque for frame in frames]
        first = self._kept[0].opaque
        if first in numbers:
            position = numbers.index(first)
            self._seen.update(numbers[:position])
            if self._is_dirty:
                frames[position:] = self._again(ends=packet is None)
            self._kept = []
        self._seen.update(numbers)
        return frames, is_rejected

    def _again(self, ends: bool) -> list[Any]:
        """Decode the packets since the keyframe again, by a new decoder."""
        self._context, self._is_dirty = new_decoder(self._path), False
        # Those displayed before the keyframe need frames that the new decoder does not have.
        first = self._kept[0].pts
        packets = [p for p in self._kept if None in (p.pts, first) or p.pts >= first]
        frames = [frame for packet in packets for frame in self._send(packet)[0]]
        frames += self._send(None)[0] if ends else []
        return [frame for frame in frames if frame.opaque not in self._seen]

    def _send(self, packet: Any) -> tuple[list[Any], bool]:
        try:
            frames = self._context.decode(packet)
        except (self._errors, EOFError):
            self._is_dirty = True
            return [], True
        self._is_dirty |= any(frame.is_corrupt for frame in frames)
        return frames, False


class _Packets:
    """Reads and decodes the packets of a video.

    Attributes:
        read_until: End of what has been read, in seconds on the clock of the stream.
    """

    def __init__(self, path: str, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self._decoder = _Decoder(path, stream.codec_context)
        self._is_resynced = any(name in container.format.name for name in _RESYNCED)
        self._uses_all = is_end_of_all(stream)
        self._length = 1 / rate_of(stream) if rate_of(stream) else Fraction(0)
        self._has_times = not declares_wrong_rate(stream)
        self.read_until = start_of(container)
        self._iterator = self._read()

    def __iter__(self) -> Iterator[_Packet]:
        return self._iterator

    def flushed(self) -> list[Any]:
        """The frames that are still in the decoder."""
        return self._decoder.decode(None)[0]

    def _read(self) -> Iterator[_Packet]:
        has_gap, number = False, 0
        for packet, is_after_gap in self._demuxed():
            has_gap |= is_after_gap
            if packet.stream_index != self._stream.index:
                continue
            packet.opaque = number
            number += 1
            frames, is_rejected = self._decoder.decode(packet)
            yield _Packet(
                packet.pts,
                packet.dts,
                packet.is_keyframe,
                has_fault=packet.is_corrupt or has_gap or is_rejected,
                is_displayed=not packet.is_discard and not self._is_hidden(packet),
                frames=frames,
            )
            has_gap = False

    def _demuxed(self) -> Iterator[tuple[Any, bool]]:
        """Yield packets, and whether others before them were skipped."""
        needs_all = self._is_resynced or self._uses_all
        end = None
        for packet in packets_of(self._container, *(() if needs_all else (self._stream,))):
            is_after_gap = False
            if self._is_resynced and packet.pos is not None:
                is_after_gap = end is not None and packet.pos - end > _MAX_GAP
                has_more = packet.has_sidedata('matroska_block_additional')
                end = None if has_more else packet.pos + packet.size
            self._note_end(packet)
            yield packet, is_after_gap

    def _note_end(self, packet: Any) -> None:
        is_video = packet.stream_index == self._stream.index
        if not self._has_times:
            self.read_until += is_video * self._length
            return
        if packet.pts is None or not (is_video or self._uses_all):
            return
        length = (packet.duration or 0) * packet.time_base or is_video * self._length
        self.read_until = max(self.read_until, packet.pts * packet.time_base + length)

    def _is_hidden(self, packet: Any) -> bool:
        """Whether a packet of VP8 has a picture that only others are predicted from."""
        return self._stream.codec_context.name == 'vp8' and not bytes(packet)[0] & 0x10


def _are_usable(packets: list[_Packet]) -> bool:
    """Whether the frames of the first packets come in the order of their times."""
    if any(packet.pts is None and packet.dts is None for packet in packets):
        return False
    times = [frame.pts for packet in packets for frame in packet.frames]
    return None not in times and all(a <= b for a, b in pairwise(times))
