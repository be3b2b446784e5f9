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
from .workers import Marker, WorkerPool


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

    def run(self, frames: Iterable[Frame | Marker], clock: StageClock) -> Iterator[ImageResult]:
        """Yield the result of every frame, in order.

        The number of images between reading and their results is bounded, whatever the
        number of frames, and a result that was yielded is not kept.
        """
        ahead = 2 * self.workers.num_workers
        # One batch more, so that the threads work on while one is computed, and the next one is
        # complete when the network is free.
        crops_ahead = ahead + self.poses.batch_size
        with ExitStack() as stack:
            if self.workers.num_workers:
                stack.enter_context(single_opencv_thread())

            def stage(
                name: str, items: Iterator[ImageInFlight | Marker]
            ) -> Iterator[ImageInFlight | Marker]:
                stack.callback(items.close)  # the last stage first
                return clock.waiting(name, items)

            if self.detections is None:
                # In one go: a decoded image takes much more memory than its crops.
                images = self.workers.map(self._read_and_crop, frames, crops_ahead)
            else:
                reading = self.workers.map(self.read, frames, ahead + self.detections.batch_size)
                images = self.detections.stream(stage('waiting', reading))
                images = stage('detection', images)
                images = self.workers.map(self.pose.crop, images, crops_ahead)
            images = stage('waiting', images)
            images = stage('network', self.poses.stream(images))
            # Not a loop, whose variable would keep what was yielded until the next one comes.
            yield from map(self.pose.finish, filter(_is_image, images))

    def _read_and_crop(self, frame: Frame) -> ImageInFlight:
        return self.pose.crop(self.read(frame))


def _is_image(item: ImageInFlight | Marker) -> bool:
    return not isinstance(item, Marker)
