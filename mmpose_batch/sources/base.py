"""What all sources have in common: numbered frames, and a stream of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..workers import FLUSH, FlushType

# Images of a chunk: the unit of resuming and of files on disk. No batch crosses the end of one,
# so a run that starts at a chunk repeats the batches, and with them every bit, of one that did not.
CHUNK = 256


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image on its way in.

    Attributes:
        index: Position in the input, from 0.
        source: Path or URL of an image file, or a uint8 array (H, W, 3) in BGR.
        name: Relative path that outputs get; differs for different files. Bytes
            of a file name that are no text are spelt out, as JSON has no other way.
        bboxes: Persons given by the user, (N, 4) or (N, 5): x1, y1, x2, y2 in
            pixels and a score; None leaves them to the detector.
        labels: Of each of these the label of its category, (N,); None where there are none.
    """

    index: int
    source: str | np.ndarray
    name: str
    bboxes: np.ndarray | None = None
    labels: np.ndarray | None = None

    @property
    def path(self) -> str:
        """The file's path, or MMPose's made-up one (``000000.jpg``) for an array."""
        return self.source if isinstance(self.source, str) else self.name


@dataclass(slots=True)
class Source:
    """A stream of frames and what is known about it.

    Attributes:
        frames: Anything to iterate once. FLUSH among the frames means that those before it
            are to be finished now: files send it at the end of a chunk and only there, a live
            source when it has nothing more at the moment.
        length: Number of frames where it is known, for a progress bar.
        sequential: Frames must be read one after the other (video, camera).
        video_name: File name that outputs of a video get, else None.
        fps: Frames per second of a video.
        live: Frames come as time passes, and each result is wanted at once.
        max_wait: Seconds that the frames may not come before those that came are finished;
            None has them wait for others.
    """

    frames: Iterable[Frame | FlushType]
    length: int | None = None
    sequential: bool = False
    video_name: str | None = None
    fps: float = 0.0
    live: bool = False
    max_wait: float | None = None


def in_chunks(frames: Iterable[Frame], size: int = CHUNK) -> Iterator[Frame | FlushType]:
    """Frames with FLUSH at the end of every chunk, by their index: a resumed run starts at one."""
    for frame in frames:
        yield frame
        if (frame.index + 1) % size == 0:
            yield FLUSH
