"""The way of an image: read, detect, crop, pose, finish; bounded, and in order."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from .batching import BatchRunner, ImageInFlight
from .cores import single_opencv_thread
from .progress import StageClock
from .results import ImageResult
from .sources.base import Frame
from .stages.pose import PoseStage
from .workers import FLUSH, FlushType, WorkerPool


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """Stages from frames to results.

    Attributes:
        read: Reads one frame (worker thread).
        detections: Batches of the detector; None without one.
        pose: Crops, poses, and selection of instances.
        poses: Batches of the pose network.
        num_workers: Threads that read and crop.
    """

    read: Callable[[Frame], ImageInFlight]
    detections: BatchRunner | None
    pose: PoseStage
    poses: BatchRunner
    num_workers: int

    def run(self, frames: Iterable[Frame | FlushType], clock: StageClock) -> Iterator[ImageResult]:
        """Yield the result of every frame, in order.

        At most a fixed number of images is under way at any time, whatever the
        number of frames, and nothing is kept of a result that was yielded.
        """
        ahead = 2 * self.num_workers
        batch = 0 if self.detections is None else self.detections.batch_size
        with WorkerPool(self.num_workers) as pool, ExitStack() as stack:
            if self.num_workers:
                stack.enter_context(single_opencv_thread())
            images = clock.waiting('waiting', pool.map(self.read, frames, ahead + batch))
            if self.detections is not None:
                images = clock.waiting('detection', self.detections.stream(images))
            images = clock.waiting('waiting', pool.map(self.pose.crop, images, ahead))
            images = clock.waiting('network', self.poses.stream(images))
            # Not a loop, whose variable would keep what was yielded until the next one comes.
            yield from map(self.pose.finish, filter(_is_image, images))


def _is_image(item: ImageInFlight | FlushType) -> bool:
    return item is not FLUSH
