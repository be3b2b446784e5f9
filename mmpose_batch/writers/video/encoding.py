"""Encoded video files that browsers play, with the times and the audio of a source."""

import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...errors import one_line
from ..atomic import path_atomically

if TYPE_CHECKING:
    import av

# Encoders in order of preference, and their options. Chromium was seen to play libx264 and VP9.
ENCODERS: dict[str, dict[str, str]] = {
    'libx264': {'preset': 'veryfast', 'crf': '23'},
    'libopenh264': {},
    'libvpx-vp9': {'deadline': 'realtime', 'cpu-used': '8', 'crf': '33', 'b': '0'},
}
# Frames between keyframes, to which players jump.
_KEYFRAME_INTERVAL = 60
# Containers by suffix; files with any other suffix are MP4 too.
_CONTAINERS = {'.avi': 'avi', '.mkv': 'matroska', '.mov': 'mov'}
# FFmpeg's numbers of the colour matrix and the range that OpenCV converts to.
BT601, LIMITED = 6, 1


def to_yuv(image: np.ndarray) -> 'av.VideoFrame':
    """Convert an image (H, W, 3), uint8, BGR, of even sizes to the encoder's pixel format."""
    import av

    planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
    # Without a copy where that is possible: PyAV 18 finds the last plane only for whole rows.
    is_whole = image.shape[0] % 4 == 0
    build = av.VideoFrame.from_numpy_buffer if is_whole else av.VideoFrame.from_ndarray
    picture = build(planes, format='yuv420p')
    picture.colorspace, picture.color_range = BT601, LIMITED
    return picture


def to_even_size(image: np.ndarray) -> np.ndarray:
    """Repeat the last column and row of an image if the width or height is odd."""
    height, width = image.shape[:2]
    if not (height % 2 or width % 2):
        return image
    return cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)


class VideoFile:
    """One encoded video, written picture by picture.

    Args:
        container: Output container, from :func:`open_output`.
        size: Width and height of the pictures, both even.
        time_base: Unit of the times of the pictures, in seconds.
        rate: Approximate number of pictures per second.
    """

    def __init__(
        self,
        container: 'av.container.OutputContainer',
        size: tuple[int, int],
        time_base: Fraction,
        rate: Fraction,
    ) -> None:
        self._container = container
        encoder = _encoder()
        stream = container.add_stream(encoder, rate=rate, options=dict(ENCODERS[encoder]))
        stream.width, stream.height = size
        stream.pix_fmt = 'yuv420p'
        stream.time_base = stream.codec_context.time_base = time_base
        stream.codec_context.gop_size = _KEYFRAME_INTERVAL
        stream.codec_context.thread_type = 'AUTO'
        stream.codec_context.colorspace = BT601
        stream.codec_context.color_range = LIMITED
        if container.format.name == 'avi':  # it stores one time per picture
            stream.codec_context.max_b_frames = 0
        self._stream = stream
        self._last: int | None = None
        self._step = max(1, round(1 / (rate * time_base)))

    def write(self, picture: 'av.VideoFrame', pts: int) -> None:
        """Encode the next picture.

        Args:
            picture: From :func:`to_yuv`; the same object may be written again.
            pts: Time in units of ``time_base``. If it is not later than the last one, it
                is set to the next unit, since a video cannot contain two pictures of one time.
        """
        if self._last is not None:
            pts = max(pts, self._last + 1)
            self._step = pts - self._last
        self._last = pts
        picture.pts, picture.time_base = pts, self._stream.codec_context.time_base
        # The last picture, for which there is no other rule, is shown as long as the one before.
        picture.duration = self._step
        self._container.mux(self._stream.encode(picture))

    def finish(self) -> None:
        """Encode the pictures that the encoder holds back."""
        self._container.mux(self._stream.encode())


@contextmanager
def open_output(path: str) -> Iterator['av.container.OutputContainer']:
    """Open a video file that appears at ``path`` when the ``with`` block ends without an error.

    Raises:
        OSError: The file cannot be written or a picture cannot be encoded.
    """
    import av

    name = _CONTAINERS.get(osp.splitext(path)[1].lower(), 'mp4')
    # The index comes first, so that a browser plays the file while it loads.
    options = {'movflags': 'faststart'} if name in ('mp4', 'mov') else {}
    with path_atomically(path) as partial:
        container = None
        try:
            container = av.open(f'file:{partial}', 'w', format=name, options=options)
            yield container
            container.close()
        except av.FFmpegError as error:
            raise OSError(f'cannot write {path}: {one_line(error)}') from error
        finally:
            if container is not None:
                with suppress(av.FFmpegError):  # after an error, of which this is a consequence
                    container.close()


def _encoder() -> str:
    import av

    for name in ENCODERS:
        with suppress(av.codec.codec.UnknownCodecError):
            av.Codec(name, 'w')
            return name
    raise OSError(f'PyAV was built without an encoder for videos: {", ".join(ENCODERS)}')
