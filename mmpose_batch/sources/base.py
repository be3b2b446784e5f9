"""The interface of sources: a stream of numbered frames, in chunks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import Protocol, runtime_checkable

import numpy as np

from ..workers import CHUNK_END, Marker

# Number of frames in a chunk, the unit of resuming and of flushing files: images of an input, or
# frames of one video. No batch crosses the end of a chunk, so a run that resumes there has the
# same batches, and bitwise the same results, as a run that was not interrupted.
CHUNK = 256
# Frames of a video that are decoded before they are needed. They wait in the decoder's format,
# which takes half the memory of BGR.
READ_AHEAD = 16


@runtime_checkable
class Pixels(Protocol):
    """An image that is converted when it is needed, on a worker thread; for frames of videos."""

    def read(self) -> np.ndarray:
        """Return the image as a new array (H, W, 3), uint8, BGR, oriented as displayed.

        Raises:
            ImageError: There is no image, for example since the file is damaged there.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image of an input.

    Attributes:
        index: Position in the input, from 0.
        data: Path or URL of an image file, a uint8 array (H, W, 3) in BGR that nothing else
            writes to, or :class:`Pixels`. Any other array, or a file that is not an image, makes
            this frame fail.
        name: Relative path of the frame's outputs, unique in its input; the frames of a video
            share that of the video. Bytes of a file name that are not valid text are escaped,
            since JSON cannot represent them.
        bboxes: Precomputed person boxes, (N, 4) or (N, 5): x1, y1, x2, y2 in
            pixels and a score; None uses the detector.
        labels: Category label of each of these boxes, (N,); None without labels.
        source_id: Identifies the video or camera of the frame; empty for separate images.
        time: Seconds since the start of the video or since the camera was opened; None for
            images, and for a video of unknown frame rate.
        time_guessed: Whether ``time`` is derived from the frame rate, because the file has no
            usable times.
        frame_id: Index of the frame among those that a player shows, from 0; None for images.
        ends_chunk: Whether it is known to be the last frame of its chunk.
        chunk: Name of its chunk, see :func:`chunk_name`; empty if the source has no names.
    """

    index: int
    data: str | np.ndarray | Pixels
    name: str
    bboxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    source_id: str = ''
    time: float | None = None
    time_guessed: bool = False
    frame_id: int | None = None
    ends_chunk: bool = False
    chunk: str = ''

    @property
    def path(self) -> str:
        """Path of the file, or MMPose's name for an array (``000000.jpg``)."""
        return self.data if isinstance(self.data, str) else self.name


@dataclass(frozen=True, slots=True)
class Source:
    """A read-only stream of frames that is iterated once.

    Besides frames it has markers, across which no batch extends. Inputs of known length send
    CHUNK_END at the end of each chunk, by :func:`in_chunks`, and nothing else, so that outputs
    do not depend on the speed of a disk. A live source sends FLUSH whenever no further frame is
    available yet: the frames before it are to be finished now.

    A frame that cannot be used is not skipped: its ``data`` is passed on, and only this frame
    fails. An exception in the iteration ends the run.

    Attributes:
        frames: Iterable of frames and markers; nothing is read before the first is requested.
        length: Number of frames, for the progress bar; that of a video is an estimate. None if
            unknown.
        sequential: Whether the iteration decodes frames (video, camera). It then runs in a
            separate thread.
        ahead: Number of frames that this thread reads ahead.
        video_name: File name of the video of drawings; None for separate images.
        fps: Frames per second of a video; 0 if unknown.
        live: Whether frames come in real time and results are needed with low latency.
        max_wait: Seconds without a new frame after which waiting frames are finished, as by
            FLUSH; None waits for full batches.

    Raises:
        ValueError: ``max_wait`` is not a number of seconds.
    """

    frames: Iterable[Frame | Marker]
    length: int | None = None
    sequential: bool = False
    ahead: int = 2
    video_name: str | None = None
    fps: float = 0.0
    live: bool = False
    max_wait: float | None = None

    def __post_init__(self) -> None:
        wait = self.max_wait
        is_number = isinstance(wait, Real) and not isinstance(wait, bool)
        if wait is not None and not (is_number and 0 <= wait < inf):
            raise ValueError(f'max_wait: expected seconds from 0, or None, found {wait!r}')

    def __iter__(self) -> Iterator[Frame | Marker]:
        return iter(self.frames)


def chunk_name(number: int, video: int | None = None) -> str:
    """The name of a chunk.

    Names sort in the order of results, up to 100,000 videos and 10 million chunks of images.

    Args:
        number: Number of the chunk among those of the images, or of its video, from 0.
        video: Number of the video among those of the run, from 0; None for images.
    """
    return f'{number:07d}' if video is None else f'v{video:05d}-{number:05d}'


def in_chunks(frames: Iterable[Frame], size: int = CHUNK) -> Iterator[Frame | Marker]:
    """Yield frames, and CHUNK_END at the end of every chunk, including a shorter last one.

    Args:
        frames: Images, or frames of one video, starting at the start of a chunk.
        size: Number of frames in a chunk.
    """
    count = 0
    for count, frame in enumerate(frames, 1):
        yield frame
        if count % size == 0:
            yield CHUNK_END
    if count % size:
        yield CHUNK_END
