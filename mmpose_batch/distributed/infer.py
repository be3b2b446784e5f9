"""Inference of one chunk after another in a worker process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice

from ..config import CallOptions, VideoOptions
from ..inferencer import BatchPose2DInferencer
from ..postprocess.tracking import PersonTracker
from ..progress import StageClock
from ..results import ImageResult
from ..sources.base import READ_AHEAD, Frame, Source
from ..sources.decoding import NoPixels
from ..sources.items import Items
from ..workers import FLUSH, Marker
from ..writers.base import Record
from .chunks import Chunk

# Returns the records of a video before a chunk, in order.
EarlierRecords = Callable[[Chunk], Iterator[Record]]


class ChunkInferer:
    """Infers chunks, each with the results that it has in a run of one process.

    A video stays open, so that its next chunk continues where the last one ended. Any other chunk
    of a video makes it read the video from the beginning.

    Args:
        inferencer: The inferencer, whose engines are selected.
        call: Options of the call.
        options: Which frames of videos are used, and whether persons are tracked.
        earlier: With tracking, returns the records of the video before a chunk, which the
            tracker of a new process has not seen.

    Attributes:
        frames: Number of results of the current video that have been read.
    """

    def __init__(
        self,
        inferencer: BatchPose2DInferencer,
        call: CallOptions,
        options: VideoOptions,
        earlier: EarlierRecords = lambda _: iter(()),
    ) -> None:
        self._inferencer = inferencer
        self._call = call
        self._items = Items([], options)
        self._earlier = earlier
        self._video: _OpenVideo | None = None
        self._tracker = PersonTracker() if options.track else None
        self._tracked: tuple[int | None, int] | None = None

    @property
    def frames(self) -> int:
        """Number of results of the current video that have been read."""
        return 0 if self._video is None else self._video.count

    def watch_reading(self, watch: Callable[[Frame], AbstractContextManager[None]]) -> None:
        """Read and decode each image file in a context manager, which a function returns."""
        self._inferencer.predictor.watch_reading = watch

    def results(
        self,
        chunk: Chunk,
        clock: StageClock | None = None,
        on_frame: Callable[[], None] = lambda: None,
    ) -> Iterator[ImageResult]:
        """Yield the results of a chunk, in order.

        Args:
            chunk: The chunk.
            clock: Collects the seconds of each stage.
            on_frame: Called after each frame of a video has been read, maybe on another thread.

        Yields:
            Results, whose frames have an ``index`` from 0 in the chunk. The last one of the
            chunk has ``ends_chunk``.

        Raises:
            InputError: A bad input, with ``on_error='raise'``.
        """
        if chunk.video is None:
            self._video = None
            source = Source(_stream_of(_images_of(chunk)))
            yield from self._inferencer.stream(source, self._call, clock)
            return
        frames = self._frames_of(chunk, on_frame)
        self._follow(chunk)
        source = Source(_stream_of(frames), sequential=True, ahead=READ_AHEAD)
        for result in self._inferencer.stream(source, self._call, clock):
            if self._tracker is not None:
                self._tracker.assign(result)
            yield result

    def ends_video(self, chunk: Chunk) -> bool:
        """Whether no frames of a video follow a chunk, once its results have been yielded."""
        return chunk.video is not None and self._video.is_at_end

    def _frames_of(self, chunk: Chunk, on_frame: Callable[[], None]) -> list | Iterator[Frame]:
        """Frames of a chunk of a video, which is opened again unless it is at this place."""
        place = (chunk.video_number, chunk.start, chunk.stop)
        if self._video is None or self._video.place != place:
            self._video = _OpenVideo(chunk, self._items.frames_of(chunk.video))
        return self._video.read(chunk, on_frame)

    def _follow(self, chunk: Chunk) -> None:
        """Let the tracker see the records before a chunk, unless it has just seen them."""
        if self._tracker is None:
            return
        if self._tracked != (chunk.video_number, chunk.number):
            self._tracker = PersonTracker()
            for record in self._earlier(chunk) if chunk.number else ():
                self._tracker.replay(record)
        self._tracked = (chunk.video_number, chunk.number + 1)


class _OpenVideo:
    """The frames of a video that is being read, up to where it is to be stopped.

    Args:
        chunk: The first chunk to read.
        frames: All frames of the video.
    """

    def __init__(self, chunk: Chunk, frames: Iterator[Frame]) -> None:
        self._number, self._stop = chunk.video_number, chunk.stop
        self._frames = _stopped(frames, chunk)
        self.count = 0
        self._next: Frame | None = None
        self._started = False

    @property
    def place(self) -> tuple[int | None, int, int | None]:
        """Where the next chunk begins that can be read."""
        taken = self.count - (self._next is not None)
        return self._number, taken, self._stop

    @property
    def is_at_end(self) -> bool:
        """Whether all frames have been yielded."""
        return self._next is None

    def read(self, chunk: Chunk, on_frame: Callable[[], None]) -> Iterator[Frame]:
        """Yield the frames of a chunk; one more is read, which shows whether the video ends."""
        if not self._started:
            self._started = True
            self._take(on_frame)
            while self._next is not None and self.count <= chunk.start:
                self._take(on_frame)
        for _ in range(chunk.size):
            if (frame := self._next) is None:
                return
            self._take(on_frame)
            yield frame

    def _take(self, on_frame: Callable[[], None]) -> None:
        self._next = next(self._frames, None)
        self.count += self._next is not None
        on_frame()


def _stopped(frames: Iterator[Frame], chunk: Chunk) -> Iterator[Frame]:
    """The frames of a video up to where it is to be stopped, and a failure for its rest."""
    if chunk.stop is None:
        yield from frames
        return
    frame = None
    for frame in islice(frames, chunk.stop):
        yield frame
    pixels = NoPixels(chunk.stop_reason)
    if frame is None:
        yield Frame(0, pixels, chunk.video.name, source_id=chunk.video.data)
    else:
        yield replace(frame, frame_id=frame.frame_id + 1, data=pixels)


def _images_of(chunk: Chunk) -> Iterator[Frame]:
    """The images of a chunk; those that are not to be read have no pixels."""
    for place, frame in enumerate(chunk.images):
        reason = chunk.broken.get(place)
        yield frame if reason is None else replace(frame, data=NoPixels(reason))


def _stream_of(frames: Sequence[Frame] | Iterator[Frame]) -> Iterator[Frame | Marker]:
    """Frames of one chunk as a stream, with FLUSH at the end, and indices from 0."""
    waiting: Frame | None = None
    for index, frame in enumerate(frames):
        if waiting is not None:
            yield waiting
        waiting = replace(frame, index=index)
    if waiting is not None:
        yield replace(waiting, ends_chunk=True)
        yield FLUSH
