"""Reading images: decoded once, for the detector and for the pose model."""

from collections.abc import Callable
from dataclasses import dataclass

from mmcv.transforms import LoadImageFromFile
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
        loader: A default one that reads from where the config's does.
        detector: If there is one.
        det_loader: What the detector's pipeline loads files by, if it does.
        decoded: Images that a warm-up has decoded.
        keep: Whether to keep decoded images there.
        check_loader: Sees that files can be read at all, with the first one.
    """

    loader: LoadImage
    detector: PersonDetector | None
    det_loader: LoadImageFromFile | None
    decoded: DecodedFrames
    keep: bool
    check_loader: Callable[[], None]

    def __call__(self, frame: Frame) -> ImageInFlight:
        """Read and decode one image and prepare it for the detector (worker thread)."""
        image = ImageInFlight(ImageResult(frame))
        if isinstance(frame.data, str):
            self.check_loader()  # no fault of one image
        try:
            pixels = self.decoded.take(frame)
            image.pixels = read_image(frame, self.loader) if pixels is None else pixels
            if self.keep:
                self.decoded.put(frame, image.pixels)
            height, width = image.pixels.shape[:2]
            image.result.size = (width, height)
            if frame.bboxes is not None:
                image.bboxes = checked_bboxes(frame.bboxes, width, height)
                image.labels = frame.labels
            elif self.detector is not None:
                seen = load_image(frame, self.det_loader, image.pixels)
                image.inputs = [self.detector.prepare(seen)]
        except Exception as error:  # whatever a file does to a library is that file's failure
            image.fail(one_line(error))
        return image
