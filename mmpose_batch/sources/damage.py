"""Presentation order of a video's frames, and which of them are damaged or lost.

Decoders mark only those frames as damaged in which they find a fault, not the later frames that
are predicted from them, and do not report at all where a frame is missing. Every packet of the
container is therefore followed until its frame appears or is overtaken by later ones.

The rule, in the order in which packets are decoded: a frame that is lost or marked as damaged
spoils itself and all frames up to the next intact keyframe; also those that are decoded after
that keyframe and displayed before it, since they are predicted from both sides. Whether a B-frame
is intact is known only when the frames that are decoded before and displayed after it are known.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterator
from typing import Any

# In a stream without times: number of packets after which a missing frame is lost. H.264 and HEVC
# keep up to 16 frames for reordering.
_MAX_DELAY = 32
# With times: number of frames that wait for the certainty that no earlier one follows.
_MAX_WAITING = 64
# PyAV's av.video.frame.PictureType.I
_INTRA = 1


class Item:
    """A packet with one frame to display.

    Attributes:
        number: Position in decoding order.
        pts: Presentation time in units of the stream; None if unknown.
        frame: PyAV's frame; None if it is lost.
        is_bad: Whether its pixels are missing or may be wrong.
    """

    __slots__ = ('frame', 'has_fault', 'is_bad', 'is_flushed', 'is_hidden', 'is_key', 'is_known')
    __slots__ += ('key', 'may_be_field', 'number', 'pts')

    def __init__(self, number: int, pts: int | None, is_key: bool, has_fault: bool) -> None:
        self.number, self.pts, self.is_key, self.has_fault = number, pts, is_key, has_fault
        self.frame: Any = None
        self.key: tuple[int, int, int] | None = None  # sorts by presentation
        self.is_known = self.is_hidden = self.is_bad = False
        self.is_flushed = self.may_be_field = False

    @property
    def is_timed(self) -> bool:
        """Whether ``pts`` can be used."""
        return self.key is not None and self.key[0] == 0


class FrameOrder:
    """Collects packets and frames in decoding order, and returns frames in presentation order.

    Args:
        has_times: Whether presentation times order the frames; otherwise the order is that in
            which the decoder outputs them.
    """

    def __init__(self, has_times: bool) -> None:
        self._has_times = has_times
        self._unsettled: deque[Item] = deque()  # in decoding order
        self._by_number: dict[int, Item] = {}  # the same
        self._waiting: list[Item] = []  # in presentation order
        self._count = self._outputs = 0
        self._part = 0 if has_times else 1  # of 0, times are those of the stream
        self._last_dts: int | None = None
        self._last_key: tuple[int, int, int] | None = None
        self._first_key: Item | None = None
        self._newest: Item | None = None
        # Whether frames are damaged, in decoding order; and the keyframe that ended damage last.
        self._is_spoilt = False
        self._spoilt_before: tuple[int, int, int] | None = None
        self._is_flushing = self._is_finished = False

    def add(
        self,
        pts: int | None,
        dts: int | None,
        is_key: bool,
        has_fault: bool,
        is_displayed: bool = True,
    ) -> None:
        """Add the next packet in decoding order; :meth:`put` refers to it by its number, from 0.

        Args:
            pts: Presentation time in units of the stream; None drops the times of this frame and
                those after it.
            dts: Decoding time in the same units.
            is_key: Whether the container marks it as a keyframe.
            has_fault: Whether the container reports damage in or before it, or the decoder has
                rejected it.
            is_displayed: Whether it has a frame to display. Others, as those before the start of
                an edit list, are only needed to decode those that follow.
        """
        item = Item(self._count, pts, is_key, has_fault)
        self._count += 1
        if item.number == 0:
            self._is_spoilt = not is_key  # a stream that starts between keyframes
        if is_key and self._first_key is None:
            self._first_key = item
        if dts is not None:
            self._last_dts = dts
        self._unsettled.append(item)
        self._by_number[item.number] = item
        self._newest = item
        if self._has_times and pts is None:
            self.drop_times()
        if not is_displayed:
            item.is_known = item.is_hidden = True
        elif self._has_times:
            item.key = (self._part, pts, item.number)
            insort(self._waiting, item, key=_key_of)

    def number_of(self, pts: int | None) -> int | None:
        """Number of the packet with a time, for a decoder that does not pass on the number."""
        return next((item.number for item in self._unsettled if item.pts == pts), None)

    def restart(self) -> None:
        """Start a part whose times do not continue those of the packets before."""
        self._part += 1
        self._last_dts = None

    def drop_times(self) -> None:
        """From now on, order frames as the decoder outputs them, since times contradict it."""
        self._has_times = False
        self._part += 1
        self._waiting = [item for item in self._waiting if item.is_known]
        for item in self._unsettled:
            item.key = item.key if item.is_known else None

    def put(self, number: int, frame: Any) -> bool:
        """Add the frame of a packet.

        Returns:
            Whether it can be displayed; False if its time has passed already.
        """
        item = self._by_number.get(number)
        if item is None or item.is_known:
            return False
        if item.key is not None and self._last_key is not None and item.key < self._last_key:
            return False
        item.frame, item.is_flushed = frame, self._is_flushing
        item.has_fault |= frame.is_corrupt
        following = self._by_number.get(number + 1)
        if frame.interlaced_frame and following is not None:
            following.may_be_field = True
        for lost in self._overtaken(item):
            self._lose(lost)
        self._output(item)
        self._settle()
        return True

    def flush(self) -> None:
        """Note that no further packet follows."""
        self._is_flushing = True

    def finish(self) -> None:
        """Note that all packets have been decoded."""
        self._is_finished = True
        for item in [item for item in self._unsettled if not item.is_known]:
            self._lose(item)
        self._settle()

    def ready(self) -> Iterator[Item]:
        """Remove and yield frames, those lost included, whose turn has come."""
        while self._waiting:
            item = self._waiting[0]
            if item.number in self._by_number or not self._may_go(item):
                return
            del self._waiting[0]
            self._last_key = item.key
            yield item

    def is_sure(self, item: Item) -> bool:
        """Whether no packet that has not been read can precede a frame."""
        if not self._has_times:
            return not item.is_flushed  # the decoder waited for the frames before
        part, pts, _ = item.key
        # No packet is displayed before it is decoded.
        return part < self._part or self._last_dts is None or pts <= self._last_dts

    @property
    def ends_with_fault(self) -> bool:
        """Whether the last packet is damaged or lost, as in a file that is cut off."""
        return self._newest is not None and self._newest.has_fault

    def _may_go(self, item: Item) -> bool:
        return self._is_finished or self.is_sure(item) or len(self._waiting) > _MAX_WAITING

    def _overtaken(self, item: Item) -> list[Item]:
        """Packets whose frames should have appeared before the frame of another."""
        unknown = (other for other in self._unsettled if not other.is_known and other is not item)
        if self._has_times:
            return [other for other in unknown if other.key < item.key]
        # Nothing before a keyframe is displayed after it.
        limit = item.number if _is_intact_key(item) else item.number - _MAX_DELAY
        return [other for other in unknown if other.number < limit]

    def _lose(self, item: Item) -> None:
        item.is_hidden = self._is_never_displayed(item)
        item.has_fault |= not item.is_hidden
        if item.is_hidden and item.key is not None:
            self._waiting.remove(item)
        self._output(item)

    def _is_never_displayed(self, item: Item) -> bool:
        """Whether no frame was to be expected of a packet without one."""
        first = self._first_key
        if first is None or item.number < first.number:
            return True
        if item.may_be_field and not item.has_fault:
            return True  # of the frame of the packet before
        # A stream that was cut out of another one may start with frames that refer to the part
        # before, which decoders leave out.
        leads = item.pts is not None and first.pts is not None and item.pts < first.pts
        return leads and not item.has_fault

    def _output(self, item: Item) -> None:
        item.is_known = True
        if item.key is None and not item.is_hidden:
            item.key = (self._part, self._outputs, item.number)
            self._outputs += 1
            self._waiting.append(item)

    def _settle(self) -> None:
        """Apply the rule to packets in decoding order, as far as all is known of them."""
        while self._unsettled and self._unsettled[0].is_known:
            item = self._unsettled.popleft()
            del self._by_number[item.number]
            is_key = item.is_key and not item.has_fault if item.is_hidden else _is_intact_key(item)
            if is_key:
                self._spoilt_before = item.key if self._is_spoilt else None
                self._is_spoilt = False
                continue
            before = self._spoilt_before
            if None not in (before, item.key) and item.key < before:
                item.is_bad = True  # and no later frame is predicted from it
                continue
            self._is_spoilt |= item.has_fault
            item.is_bad = self._is_spoilt


def _key_of(item: Item) -> tuple[int, int, int]:
    return item.key


def _is_intact_key(item: Item) -> bool:
    """Whether an intact picture depends on no other; a flag alone may mean gradual refresh."""
    frame = item.frame
    is_key = frame is not None and frame.key_frame and frame.pict_type == _INTRA
    return is_key and not item.has_fault
