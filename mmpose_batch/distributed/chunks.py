"""Chunks: what one worker process is given at a time, as plain values that can be pickled."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..sources.base import Frame, chunk_name
from ..sources.items import Items, Position


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some images, or some frames of a video, that one process infers.

    Attributes:
        number: Number of the chunk among those of the images, or of its video, from 0.
        start: Number of images, or of results of the video, before it.
        size: Maximum number of its frames.
        images: The images; empty for a video.
        video: The video; None for images.
        video_number: Number of the video among those of the run.
        broken: Images that are not read, by their place in the chunk, and why: they become
            failure records. Their batches are those of files that cannot be decoded.
        stop: Number of results of the video after which it is not read any further; None to read
            all.
        stop_reason: Why, for the failure record that stands for the rest of the video.
    """

    number: int
    start: int
    size: int
    images: tuple[Frame, ...] = ()
    video: Frame | None = None
    video_number: int | None = None
    broken: Mapping[int, str] = field(default_factory=dict)
    stop: int | None = None
    stop_reason: str = ''

    @property
    def name(self) -> str:
        """Name of the chunk, as that of its frames: names sort in the order of results."""
        return chunk_name(self.number, self.video_number)

    def following(self) -> 'Chunk':
        """The chunk after this one of the same video."""
        return replace(self, number=self.number + 1, start=self.start + self.size)


def chunks_of(items: Items, start: Position) -> Iterator[Chunk]:
    """Yield the chunks of images, and the first chunk of each video, from a position on.

    How many chunks a video has is known when it has been read: see :meth:`Chunk.following`.

    Args:
        items: The images and videos of a run.
        start: Where to begin: the start of a chunk.
    """
    size = items.chunk
    for first in range(start.images, len(items.images), size):
        images = tuple(items.images[first : first + size])
        yield Chunk(first // size, first, size, images)
    for number in range(start.videos, len(items.videos)):
        done = start.frames if number == start.videos else 0
        video = items.videos[number]
        yield Chunk(done // size, done, size, video=video, video_number=number)
