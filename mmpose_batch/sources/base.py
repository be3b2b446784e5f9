"""The contract of sources: a stream of numbered frames, in chunks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from numbers import Real

import numpy as np

from ..workers import FLUSH, FlushType

# Frames of a chunk, which is the unit of resuming and of files on disk: images of an input, or
# frames of one video. No batch crosses the end of a chunk, so a run that starts at one repeats
# the batches, and with them every bit, of a run that was not interrupted.
CHUNK = 256


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image of an input.

    Attributes:
        index: Position in the input, from 0.
        data: Path or URL of an image file, or a uint8 array (H, W, 3) in BGR that nothing else
            writes to. An array of another kind, or a file that is no image, becomes the failure
            of this frame.
        name: Relative path of the frame's outputs, unique in its input. Bytes of a file name
            that are no text are escaped, as JSON cannot express them.
        bboxes: Precomputed person boxes, (N, 4) or (N, 5): x1, y1, x2, y2 in
            pixels and a score; None leaves them to the detector.
        labels: Category label of each of these boxes, (N,); None without labels.
        source_id: Video or camera that the frame is of; empty for separate images.
        time: Seconds since the start of the video or since the camera was opened; None for
            images, and for a video of unknown frame rate.
    """

    index: int
    data: str | np.ndarray
    name: str
    bboxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    source_id: str = ''
    time: float | None = None

    @property
    def path(self) -> str:
        """Path of the file, or MMPose's name for an array (``000000.jpg``)."""
        return self.data if isinstance(self.data, str) else self.name


@dataclass(frozen=True, slots=True)
class Source:
    """A read-only stream of frames that is iterated once.

    A FLUSH item means that the frames before it are to be finished now. Inputs of known extent
    send it at the end of each chunk, by :func:`in_chunks`, and nowhere else, so that outputs
    do not depend on the speed of a disk. A live source sends it when it has nothing more at the
    moment.

    A frame that cannot be used is not left out: its ``data`` is handed on, and fails on its own.
    An exception in the iteration ends the run.

    Attributes:
        frames: The frames and FLUSH items; nothing is read before they are asked for.
        length: Number of frames if it is known, for the progress bar.
        sequential: Whether decoding happens in the iteration (video, camera), which then runs
            two frames ahead on a thread of its own.
        video_name: File name of the drawn video; None for separate images.
        fps: Frames per second of a video; 0 if unknown.
        live: Whether frames come in real time, and each result is wanted at once.
        max_wait: Seconds without a frame after which waiting frames are finished, as by FLUSH;
            None waits for full batches.

    Raises:
        ValueError: ``max_wait`` is not a number of seconds.
    """

    frames: Iterable[Frame | FlushType]
    length: int | None = None
    sequential: bool = False
    video_name: str | None = None
    fps: float = 0.0
    live: bool = False
    max_wait: float | None = None

    def __post_init__(self) -> None:
        wait = self.max_wait
        is_number = isinstance(wait, Real) and not isinstance(wait, bool)
        if wait is not None and not (is_number and 0 <= wait < inf):
            raise ValueError(f'max_wait: expected seconds from 0, or None, found {wait!r}')

    def __iter__(self) -> Iterator[Frame | FlushType]:
        return iter(self.frames)


def in_chunks(frames: Iterable[Frame], size: int = CHUNK) -> Iterator[Frame | FlushType]:
    """Frames with FLUSH at the end of every chunk, also of the last one, which may be shorter.

    Args:
        frames: Images, or frames of one video, from the start of a chunk on.
        size: Frames in a chunk.
    """
    count = 0
    for count, frame in enumerate(frames, 1):
        yield frame
        if count % size == 0:
            yield FLUSH
    if count % size:
        yield FLUSH
