"""Images and videos of an input, in the order of their results: images first, then videos."""

import os.path as osp
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, count, islice, pairwise
from typing import TypeVar

import numpy as np

from ..config import VideoOptions
from ..errors import SourceError, one_line
from ..workers import CHUNK_END, Marker
from .base import CHUNK, READ_AHEAD, Frame, Source, chunk_name
from .containers import VideoInfo, probe
from .decoding import NoPixels
from .numbering import number
from .video_frames import read_video, sample_frames
from .video_names import is_video_name


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the results of :class:`Items`.

    Attributes:
        results: Number of results before it.
        images: Number of images before it.
        videos: Number of videos that are complete before it.
        frames: Number of results of the next video before it.
    """

    results: int = 0
    images: int = 0
    videos: int = 0
    frames: int = 0


START = Position()

Item = TypeVar('Item')


class Items:
    """Image and video files, whose frames are read in order.

    Images come before videos, so that folders in which they alternate have full batches.

    Args:
        paths: Paths of images and videos, which are told apart by their suffix. A video that is
            repeated has another name each time, as ``a-2.mp4``, since its files and its track ids
            are its own.
        options: Which frames of videos are used.
        bboxes: Precomputed person boxes of each image, (N, 5), or (N, 6) with labels; None uses
            the detector. They are not possible with videos.
        labelled: Whether to use the labels.

    Attributes:
        images: The images.
        videos: The videos: their ``data`` is a path.
        options: Which frames of videos are used.
        chunk: Number of images, or frames of one video, in a chunk.
        last: Index of the last frame of all; None until it is known, which is before it is
            yielded.
    """

    def __init__(
        self,
        paths: Sequence[str],
        options: VideoOptions | None = None,
        bboxes: Sequence[np.ndarray] | None = None,
        labelled: bool = False,
    ) -> None:
        frames = list(number(list(paths)))
        self.images = _indexed(frame for frame in frames if not is_video_name(frame.data))
        videos = (frame for frame in frames if is_video_name(frame.data))
        self.videos = list(_with_unique_names(videos))
        self.options = options or VideoOptions()
        self.chunk = CHUNK
        self._infos: dict[str, VideoInfo | str] = {}
        self.last: int | None = None
        if bboxes is not None:
            self.images = [
                replace(frame, bboxes=boxes[:, :5], labels=boxes[:, 5] if labelled else None)
                for frame, boxes in zip(self.images, bboxes, strict=True)
            ]

    @property
    def all(self) -> list[Frame]:
        """Images and videos, in the order of their results."""
        return [*self.images, *self.videos]

    def estimated(self) -> int:
        """Number of results; that of videos is estimated by their headers."""
        with ThreadPoolExecutor() as pool:
            return len(self.images) + sum(pool.map(self.estimated_frames, self.videos))

    def info(self, video: Frame) -> VideoInfo | str:
        """The header of a video, which is read once, or the reason why it cannot be used."""
        if video.name not in self._infos:
            try:
                self._infos[video.name] = probe(video.data)
            except SourceError as error:
                self._infos[video.name] = _reason(error, video.data)
        return self._infos[video.name]

    def estimated_frames(self, video: Frame) -> int:
        """Number of results of a video by its header; 1 if it cannot be used."""
        info = self.info(video)
        if isinstance(info, str):
            return 1
        start, end = self.options.seconds
        frames = info.frames or 1
        if info.fps > 0:
            frames = min(frames, round((end or frames / info.fps) * info.fps))
            frames -= round((start or 0) * info.fps)
        return max(1, -(-frames // self.options.vid_stride))

    def stream(self, start: Position = START) -> Iterator[Frame | Marker]:
        """Yield the frames from a position on, with CHUNK_END at the end of each chunk.

        The last frame of a chunk has ``ends_chunk``. A chunk has the same name wherever the
        stream begins. Videos are decoded from their beginning.

        Args:
            start: Where to begin; its ``images`` or ``frames`` are a multiple of ``CHUNK``, or
                all images.
        """
        index, parts = start.results, list(self._parts(start))
        for place, (frames, done, video) in enumerate(parts, 1):
            for nth, (frame, following) in enumerate(pairwise(chain(frames, [None])), done + 1):
                ends = following is None or nth % self.chunk == 0
                if following is None and place == len(parts):
                    self.last = index
                name = chunk_name((nth - 1) // self.chunk, video)
                yield replace(frame, index=index, ends_chunk=ends, chunk=name)
                index += 1
                if ends:
                    yield CHUNK_END

    def _parts(self, start: Position) -> Iterator[tuple[Iterable[Frame], int, int | None]]:
        """The images, and the frames of each video, from a position on, if there are any.

        Yields:
            Frames, the number of those of the same part before them, and the number of the
            video, from 0; None for images.
        """
        if start.images < len(self.images):
            yield self.images[start.images :], start.images, None
        for place, video in enumerate(self.videos[start.videos :], start.videos):
            done = start.frames if place == start.videos else 0
            yield islice(self.frames_of(video), done, None), done, place

    def frames_of(self, video: Frame) -> Iterator[Frame]:
        """Frames of a video; of a video that cannot be used, one frame that fails."""
        reason, last = 'there are no frames between start and end', None
        with closing(read_video(video.data, video.name, self.options)) as frames:
            while True:
                try:
                    frame = next(frames, None)
                except Exception as error:  # of the decoder too, for a damaged file
                    reason = _reason(error, video.data)
                    if last is not None:
                        yield replace(last, frame_id=last.frame_id + 1, data=NoPixels(reason))
                    break
                if frame is None:
                    break
                last = frame
                yield frame
        if last is None:
            yield Frame(0, NoPixels(reason), video.name, source_id=video.data)

    def samples(self, count: int) -> 'Samples':
        """At most so many frames, spread over images and videos, for the warm-up of engines."""
        if not self.videos:
            return Samples(count, spread(self.images, count))
        images = spread(self.images, count // 2)
        return Samples(count, images, spread(self.videos, count - len(images)))

    def source(self, start: Position = START, length: int | None = None) -> Source:
        """The frames from a position on, as a source.

        Args:
            start: Where to begin.
            length: Number of frames, for the progress bar; None if unknown.
        """
        return Source(
            self.stream(start),
            length=length,
            sequential=bool(self.videos),
            ahead=READ_AHEAD,
        )


@dataclass(frozen=True, slots=True)
class Samples:
    """Images and videos of which some frames represent a run.

    Attributes:
        count: Maximum number of frames.
        images: The images.
        videos: The videos.
    """

    count: int
    images: list[Frame] = field(default_factory=list)
    videos: list[Frame] = field(default_factory=list)

    def read(self) -> list[Frame]:
        """The images and keyframes of the videos, whose ``frame_id`` is not known."""
        frames: list[Frame] = []
        for left, video in zip(range(len(self.videos), 0, -1), self.videos, strict=True):
            wanted = -(-(self.count - len(self.images) - len(frames)) // left)
            frames += sample_frames(video.data, wanted)
        return [*self.images, *frames]


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most ``count`` evenly spaced items, from the first to the last."""
    indices = np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)
    return [items[index] for index in indices]


def _reason(error: Exception, path: str) -> str:
    """Why a video cannot be read, in one line without its path."""
    return one_line(error).removeprefix('inputs: ').removesuffix(f': {path}')


def _with_unique_names(videos: Iterable[Frame]) -> Iterator[Frame]:
    videos = list(videos)
    taken, seen = {video.name for video in videos}, set()
    for video in videos:
        (stem, suffix), name = osp.splitext(video.name), video.name
        if name in seen:
            free = (f'{stem}-{number}{suffix}' for number in count(2))
            name = next(each for each in free if each not in taken)
        taken.add(name)
        seen.add(name)
        yield replace(video, name=name)


def _indexed(frames: Iterable[Frame]) -> list[Frame]:
    return [replace(frame, index=index) for index, frame in enumerate(frames)]
