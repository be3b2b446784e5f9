"""Copies the audio of a video into another one, without decoding it."""

import logging
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

logger = logging.getLogger('mmpose_batch')

# Codecs that MP4 carries and that players expect in it.
_CODECS = frozenset(['aac', 'ac3', 'alac', 'eac3', 'flac', 'mp2', 'mp3', 'opus'])


class AudioCopy:
    """Copies the packets of all audio streams, as far as the video is written.

    A stream that MP4 cannot carry is left out, with a warning; so are packets whose times do not
    increase, as behind the seam of two recordings that were joined.

    Args:
        source: Container of the source, which nothing else reads from.
        output: Container of the output, to which nothing is written yet.
        origin: Time of the source, in seconds, that is 0 in the output.
        begin: Packets before this time of the source are left out.
        end: Packets from this time of the source on are left out.
    """

    def __init__(
        self,
        source: 'av.container.InputContainer',
        output: 'av.container.OutputContainer',
        origin: float = 0.0,
        begin: float = -inf,
        end: float = inf,
    ) -> None:
        self._output, self._name = output, source.name.removeprefix('file:')
        self._origin, self._begin, self._end = origin, begin, end
        self._copies = {}
        for stream in source.streams.audio:
            context = stream.codec_context
            codec = 'unknown' if context is None else context.name
            if codec in _CODECS and context.sample_rate and context.channels:
                self._copies[stream.index] = output.add_stream_from_template(stream)
            else:
                logger.warning(
                    '%s: MP4 cannot carry its %s audio, which is left out', self._name, codec
                )
        streams = [source.streams[index] for index in self._copies]
        self._packets = source.demux(streams) if streams else iter(())
        self._next: av.Packet | None = None
        self._last: dict[int, int] = {}  # decoding time of each stream's last packet
        self._has_warned = False

    def write_until(self, time: float) -> None:
        """Copy the packets up to a time of the output in seconds."""
        until = self._origin + time
        while (packet := self._next or self._read()) is not None:
            start = float(packet.pts * packet.time_base)
            if start > until:
                self._next = packet
                return
            self._next = None
            if self._begin <= start < self._end:
                self._write(packet)

    def finish(self) -> None:
        """Copy the remaining packets."""
        self.write_until(inf)

    def _read(self) -> 'av.Packet | None':
        """The next packet that has a time; None at the end, or where the source is damaged."""
        import av

        try:
            for packet in self._packets:
                if packet.dts is not None and packet.size:
                    if packet.pts is None:
                        packet.pts = packet.dts
                    return packet
        except (av.FFmpegError, IndexError):  # PyAV's, where damage has added a stream
            self._packets = iter(())
        return None

    def _write(self, packet: 'av.Packet') -> None:
        import av

        index = packet.stream.index
        if packet.dts <= self._last.get(index, -inf) or packet.pts < packet.dts:
            self._warn()
            return
        self._last[index] = packet.dts
        shift = round(self._origin / packet.time_base)
        packet.pts -= shift
        packet.dts -= shift
        packet.stream = self._copies[index]
        try:
            self._output.mux(packet)
        except (av.error.ArgumentError, av.error.InvalidDataError):  # a damaged packet
            self._warn()

    def _warn(self) -> None:
        if not self._has_warned:
            logger.warning(
                '%s: damaged audio, or audio whose time goes back, is left out', self._name
            )
        self._has_warned = True
