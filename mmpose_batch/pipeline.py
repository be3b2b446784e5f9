"""The path of an image: read, detect, crop, pose, finish; bounded, and in input order."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from .batching import BatchRunner, ImageInFlight
from .cores import single_opencv_thread
from .progress import StageClock
from .results import ImageResult
from .sources.base import Frame
from .stages.interval import IntervalStage
from .stages.pose import PoseStage
from .workers import FLUSH, FlushType, WorkerPool


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """Stages from frames to results.

    Attributes:
        read: Reads one frame (worker thread).
        detections: Batches of the detector, on all images or on some frames of a video; None
            without one.
        pose: Crops, poses, and selection of instances.
        poses: Batches of the pose network.
        workers: Threads that read and crop.
    """

    read: Callable[[Frame], ImageInFlight]
    detections: BatchRunner | IntervalStage | None
    pose: PoseStage
    poses: BatchRunner
    workers: WorkerPool

    def run(self, frames: Iterable[Frame | FlushType], clock: StageClock) -> Iterator[ImageResult]:
        """Yield the result of every frame, in order.

        The number of images between reading and their results is bounded, whatever the
        number of frames, and a result that was yielded is not kept.
        """
        ahead = 2 * self.workers.num_workers
        batch = 0 if self.detections is None else self.detections.batch_size
        with ExitStack() as stack:
            if self.workers.num_workers:
                stack.enter_context(single_opencv_thread())

            def stage(
                name: str, items: Iterator[ImageInFlight | FlushType]
            ) -> Iterator[ImageInFlight | FlushType]:
                stack.callback(items.close)  # the last stage first
                return clock.waiting(name, items)

            images = stage('waiting', self.workers.map(self.read, frames, ahead + batch))
            if self.detections is not None:
                images = stage('detection', self.detections.stream(images))
            images = stage('waiting', self.workers.map(self.pose.crop, images, ahead))
            images = stage('network', self.poses.stream(images))
            # Not a loop, whose variable would keep what was yielded until the next one comes.
            yield from map(self.pose.finish, filter(_is_image, images))


def _is_image(item: ImageInFlight | FlushType) -> bool:
    return item is not FLUSH
