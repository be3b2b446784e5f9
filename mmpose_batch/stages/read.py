"""Reading of images, which are decoded once for both the detector and the pose model."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from mmpose.datasets.transforms import LoadImage

from ..batching import ImageInFlight
from ..errors import one_line
from ..images.read import DecodedFrames, load_image, read_image
from ..results import ImageResult
from ..sources.base import Frame
from ..sources.boxes import checked_bboxes
from .detect import PersonDetector


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadStage:
    """Reads frames, and prepares them for a detector.

    Attributes:
        loader: A default loader with the file backend of the config.
        detector: The person detector, if there is one.
        decoded: Cache of the images that a warm-up has decoded.
        keep: Whether to add decoded images to that cache.
        check_loader: Checks that files can be read at all; called for each file.
        prepare_videos: Whether frames of videos are prepared for the detector too.
        watch: Returns a context manager in which a frame is read.
    """

    loader: LoadImage
    detector: PersonDetector | None
    decoded: DecodedFrames
    keep: bool
    check_loader: Callable[[], None]
    prepare_videos: bool = True
    watch: Callable[[Frame], AbstractContextManager[None]] = nullcontext

    def __call__(self, frame: Frame) -> ImageInFlight:
        """Read and decode one image and prepare it for the detector (worker thread)."""
        image = ImageInFlight(ImageResult(frame))
        if isinstance(frame.data, str):
            self.check_loader()  # an error of the config, not of one image
        try:
            pixels = self.decoded.take(frame)
            if pixels is None:
                with self.watch(frame):
                    pixels = read_image(frame, self.loader)
            image.pixels = pixels
            if self.keep:
                self.decoded.put(frame, image.pixels)
            height, width = image.pixels.shape[:2]
            image.result.size = (width, height)
            if frame.bboxes is not None:
                image.persons = checked_bboxes(frame.bboxes, width, height)
                image.labels = frame.labels
            elif self.detector is not None and (self.prepare_videos or frame.frame_id is None):
                self.prepare(image)
        except Exception as error:  # errors of libraries are failures of this image only
            image.fail(one_line(error))
        return image

    def prepare(self, image: ImageInFlight) -> ImageInFlight:
        """Prepare a decoded image for the detector (worker thread)."""
        try:
            loaded = load_image(image.result.frame, self.detector.loader, image.pixels)
            image.detector_inputs = [self.detector.prepare(loaded)]
        except Exception as error:
            image.fail(one_line(error))
        return image
