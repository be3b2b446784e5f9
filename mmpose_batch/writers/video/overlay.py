"""Videos with the poses drawn on their frames, from the records of a run.

The video is decoded a second time: one thread decodes, worker threads draw and convert pixels, and
the calling thread encodes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...config import DrawOptions, VideoOptions
from ...errors import READER_DIES, ImageError, SourceError
from ...models.keypoints import Keypoints
from ...sources.base import Frame
from ...sources.containers import opened, probe, rate_of, start_of
from ...sources.decoding import NoPixels, VideoPixels
from ...sources.video_frames import read_video
from ...workers import WorkerPool, read_ahead
from ..base import Record
from .audio import AudioCopy
from .canvas import Canvas, Target, target_of
from .encoding import VideoFile, open_output, to_even_size, to_yuv
from .openpose import OpenPoseDrawer
from .poses import PoseDrawer, draw_label

if TYPE_CHECKING:
    import av

# Frames that are decoded before a worker thread takes them.
_DECODED_AHEAD = 4
_ALL_FRAMES = VideoOptions()
_GREY = 128
_RED = (40, 30, 190)


def write_overlay(
    video_path: str,
    out_path: str,
    records: Iterable[Record],
    keypoints: Keypoints,
    options: DrawOptions,
    video_options: VideoOptions = _ALL_FRAMES,
    num_workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Draw the poses of one video and encode it as MP4 that browsers play, with its audio.

    There is one frame per record, at the time of the record. If ``video_options`` has a start, the
    time of the first frame is subtracted from the times of video and audio. A frame that is damaged
    or missing shows the last intact one and the reason.

    Args:
        video_path: Path of the video.
        out_path: Path of the overlay, which is replaced when the new one is complete.
        records: Records of the selected frames of the video, in order.
        keypoints: Keypoints of the model.
        options: How to draw.
        video_options: The selected frames.
        num_workers: Threads that draw; 0 draws in the calling thread.
        progress: Called after each frame with the number of frames that are encoded.

    Raises:
        SourceError: The video cannot be read, or its frames are not those of the records.
        OSError: The overlay cannot be encoded or written.
    """
    with ExitStack() as stack:
        matched = _matched(video_path, records, video_options)
        items = stack.enter_context(closing(read_ahead(matched, _DECODED_AHEAD)))
        head, size = _until_readable(items, video_path)
        source, stream = stack.enter_context(opened(video_path))
        times = _Times.of(source, stream, video_options, first=head[0].frame)
        is_openpose = options.skeleton_style == 'openpose'
        drawer = (OpenPoseDrawer if is_openpose else PoseDrawer)(keypoints, options)
        painter = _Painter(drawer, size)
        pool = stack.enter_context(WorkerPool(num_workers, 'mmpose_batch_overlay'))
        painted = pool.map(painter.paint, chain(head, items), ahead=2 * num_workers)
        stack.enter_context(closing(painted))
        container = stack.enter_context(open_output(out_path))
        video = VideoFile(container, painter.even_size, times.unit, times.rate)
        audio = AudioCopy(source, container, times.origin, times.begin, times.end)
        last: Frame | None = None  # that can be read
        for count, (frame, picture) in enumerate(painted, 1):
            if isinstance(picture, str):
                picture = painter.substitute(frame, picture, last)
            else:
                last = frame
            pts = times.pts(frame)
            audio.write_until(float(pts * times.unit))
            video.write(picture, pts)
            painter.canvas.release(picture)
            if progress is not None:
                progress(count)
        video.finish()
        audio.finish()


@dataclass(frozen=True, slots=True)
class _Item:
    frame: Frame
    record: Record


def _matched(path: str, records: Iterable[Record], options: VideoOptions) -> Iterator[_Item]:
    """Frames of a video, each with its record.

    Raises:
        SourceError: The video cannot be read, or has other frames.
    """
    with closing(read_video(path, path, options)) as frames:
        for record in chain(records, [None]):
            if record is not None and record.get('error', '').startswith(READER_DIES):
                yield _Item(_unread(path, record), record)
                return
            frame = next(frames, None)
            if frame is record is None:
                return
            found = None if frame is None else frame.frame_id
            expected = None if record is None else record['frame']
            if found != expected:
                one, other = (
                    'the end' if number is None else f'frame {number}'
                    for number in (expected, found)
                )
                raise SourceError(
                    f'{path} has changed since it was read: expected {one}, found {other}'
                )
            yield _Item(frame, record)


def _unread(path: str, record: Record) -> Frame:
    """The frame of a record that must not be read again, since that ends the process."""
    pixels = NoPixels(record['error'])
    number = record['frame']
    return Frame(number, pixels, path, source_id=path, time=record['time'], frame_id=number)


def _until_readable(items: Iterator[_Item], path: str) -> tuple[list[_Item], tuple[int, int]]:
    """The items up to the first frame that can be read, and its width and height.

    Without such a frame, all items and the size of the first frame that can be decoded.
    """
    head = []
    for item in items:
        head.append(item)
        try:
            height, width = item.frame.data.read().shape[:2]
        except ImageError:
            continue
        return head, (width, height)
    if not head:
        raise SourceError(f'{path}: the video has no frames in the selected range')
    info = probe(path)
    return head, (info.width, info.height)


class _Painter:
    """Makes pictures of one size for the encoder; used by several threads.

    Args:
        drawer: Draws the poses.
        size: Width and height of the frames. Frames of other sizes are scaled to fit.

    Attributes:
        even_size: Width and height of the pictures.
        canvas: Makes pictures of frames that need no conversion.
    """

    def __init__(self, drawer: PoseDrawer, size: tuple[int, int]) -> None:
        self._drawer = drawer
        self._size = size
        self.even_size = size[0] + size[0] % 2, size[1] + size[1] % 2
        self.canvas = Canvas(self.even_size)

    def paint(self, item: _Item) -> 'tuple[Frame, av.VideoFrame | str]':
        """A frame and its picture, or why it has none."""
        frame = item.frame
        if isinstance(frame.data, VideoPixels) and self.canvas.accepts(frame.data.frame):
            return frame, self.canvas.paint(frame.data.frame, partial(self._draw, item))
        try:
            image = frame.data.read()
        except ImageError as error:
            return frame, str(error)
        self._draw(item, target_of(image))
        return frame, self._encodable(image)

    def _draw(self, item: _Item, target: Target) -> None:
        if 'instances' in item.record:
            self._drawer.draw(target, item.record)
        else:
            self._draw_text(target, f'frame {item.frame.frame_id}: no result')

    def substitute(self, frame: Frame, reason: str, last: Frame | None) -> 'av.VideoFrame':
        """A picture for a damaged frame: the last one that can be read, or grey, and the reason."""
        if last is None:
            image = np.full((self._size[1], self._size[0], 3), _GREY, np.uint8)
        else:
            image = last.data.read()
        self._draw_text(target_of(image), f'frame {frame.frame_id}: {reason}')
        return self._encodable(image)

    def _draw_text(self, target: Target, text: str) -> None:
        bottom = target.width / 2, target.height * 0.97
        draw_label(target, text, bottom, _RED, enlarge=1.4)

    def _encodable(self, image: np.ndarray) -> 'av.VideoFrame':
        return to_yuv(to_even_size(_fitted(image, self._size)))


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale an image to a width and height, with black borders if its proportions differ."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    scale = min(size[0] / width, size[1] / height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    fitted = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    area = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    fitted[top : top + inner[1], left : left + inner[0]] = cv2.resize(
        image, inner, interpolation=area
    )
    return fitted


@dataclass(frozen=True, slots=True)
class _Times:
    """Times of the output.

    Attributes:
        unit: Unit of the times of the pictures, in seconds; that of the source, if usable.
        rate: Approximate number of frames per second.
        shift: Time of the source's frame that is 0 in the output, in units.
        origin: The same for the source's audio, in seconds.
        begin: First time of the source's audio that is used, in seconds.
        end: End of the source's audio that is used, in seconds.
    """

    unit: Fraction
    rate: Fraction
    shift: int
    origin: float
    begin: float
    end: float

    @classmethod
    def of(
        cls,
        container: 'av.container.InputContainer',
        stream: 'av.VideoStream',
        options: VideoOptions,
        first: Frame,
    ) -> '_Times':
        """Times for the selected frames of a video, whose first one is given."""
        zero = float(start_of(container))
        rate = rate_of(stream) or Fraction(25)
        # A damaged header may declare a unit that is longer than a frame, or of nanoseconds.
        is_usable = Fraction(1, 10**7) <= stream.time_base <= 1 / rate
        unit = stream.time_base if is_usable else Fraction(1, 90_000)
        rate /= options.vid_stride
        start, end = options.seconds
        shift = 0 if start is None else round(first.time / unit)
        origin = zero + float(shift * unit)
        begin = -inf if start is None else origin
        return cls(unit, rate, shift, origin, begin, inf if end is None else zero + end)

    def pts(self, frame: Frame) -> int:
        """Time of a frame in the output, in units; by the rate if the video has no times."""
        time = frame.index / self.rate if frame.time is None else frame.time
        return round(time / self.unit) - self.shift
