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

    A stream that MP4 cannot carry is left out, with a warning.

    Args:
        source_path: Path of the source.
        container: Output container, whose streams are not written yet.
        origin: Time of the source, in seconds, that is 0 in the output.
        begin: Packets before this time of the source are left out.
        end: Packets from this time of the source on are left out.
    """

    def __init__(
        self,
        source_path: str,
        container: 'av.container.OutputContainer',
        origin: float = 0.0,
        begin: float = -inf,
        end: float = inf,
    ) -> None:
        import av

        self._output = container
        self._origin, self._begin, self._end = origin, begin, end
        self._source = av.open(source_path)
        self._copies = {}
        for stream in self._source.streams.audio:
            if stream.codec_context is None or stream.codec_context.name not in _CODECS:
                name = 'unknown' if stream.codec_context is None else stream.codec_context.name
                logger.warning('%s: MP4 cannot carry its %s audio; left out', source_path, name)
            else:
                self._copies[stream.index] = container.add_stream_from_template(stream)
        self._packets = iter(())
        if self._copies:
            streams = [self._source.streams[index] for index in self._copies]
            self._packets = self._source.demux(streams)
        self._next: av.Packet | None = None

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

    def close(self) -> None:
        """Close the source."""
        self._packets = iter(())
        self._source.close()

    def _read(self) -> 'av.Packet | None':
        """The next packet that has a time; None at the end, or where the source is damaged."""
        import av

        try:
            for packet in self._packets:
                if packet.dts is not None and packet.size:
                    if packet.pts is None:
                        packet.pts = packet.dts
                    return packet
        except av.FFmpegError:
            self._packets = iter(())
        return None

    def _write(self, packet: 'av.Packet') -> None:
        shift = round(self._origin / packet.time_base)
        packet.pts -= shift
        packet.dts -= shift
        packet.stream = self._copies[packet.stream.index]
        self._output.mux(packet)
