"""Person boxes for every frame of a video, from detections on some of its frames.

The detector runs on every Nth frame of a chunk and on its last one. Where the boxes of two
neighbouring detections match, those of the frames in between are interpolated. Where they do not,
since someone comes, goes or moves too far, or since the scene is cut, the frame in the middle is
detected too, until neighbours match or are adjacent. Only the frames of a chunk decide, so that a
resumed run repeats all detections, in the same batches.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from typing import Any

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from ..batching import BatchRunner, ImageInFlight
from ..progress import DetectionCounts
from ..workers import Marker, WorkerPool

# Two boxes may be the same person if they overlap by this IoU, and if neither their widths nor
# their heights differ by more than this factor: in five frames, a walking person moves by about a
# third of the width of the box (IoU 0.5), which swinging arms and legs change by up to 1.8.
MIN_IOU = 0.4
MAX_RESIZE = 2.0
# They are not certainly the same person if another box overlaps by this fraction of their IoU, as
# when two persons cross.
RIVAL = 0.4
# Mean difference, in levels of 0 to 255, of two thumbnails from which on they are different
# scenes. Ten frames apart, one scene usually differs by less than 15 levels, even if persons fill
# it; different ones usually differ by more than 50.
CUT = 30.0
THUMBNAIL = (16, 16)
# Decoded frames that wait for their neighbours: at most this many bytes, but at least one
# interval, and not more than needed for full batches of this many detections.
WINDOW_BYTES = 2**29
WINDOW_DETECTIONS = 8


@dataclass(frozen=True, slots=True)
class Detected:
    """A frame that the detector ran on.

    Attributes:
        boxes: Its boxes (N, 5): x1, y1, x2, y2 and a score, or (N, 6) with a label.
        thumbnail: Its pixels, reduced to 16x16, float32.
        size: Width and height of the frame.
    """

    boxes: np.ndarray
    thumbnail: np.ndarray
    size: tuple[int, int] | None

    @classmethod
    def of(cls, image: ImageInFlight) -> 'Detected':
        """What remains of a frame for the comparison with its neighbours."""
        return cls(image.detections[0], thumbnail_of(image.pixels), image.result.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class IntervalStage:
    """Detects persons on some frames of videos, and on all images.

    The number of frames that wait is bounded, see ``WINDOW_BYTES``.

    Attributes:
        interval: Frames from one detection to the next; at least 2.
        detections: Batches of the detector.
        prepare: Prepares a decoded image for the detector (worker thread).
        workers: Threads that do so.
        counts: Counts frames by where their boxes come from.
    """

    interval: int
    detections: BatchRunner
    prepare: Callable[[ImageInFlight], ImageInFlight]
    workers: WorkerPool
    counts: DetectionCounts

    @property
    def batch_size(self) -> int:
        """Number of images in a full batch of the detector."""
        return self.detections.batch_size

    def stream(self, images: Iterator[ImageInFlight | Marker]) -> Iterator[ImageInFlight | Marker]:
        """Yield the images in order, each once its boxes are known; markers as they come.

        Images that are not of a video are expected to be prepared for the detector, frames of
        videos are not.
        """
        for kind, group in groupby(images, _kind):
            if kind is Marker:
                yield from group
            elif kind is None:
                yield from self.detections.stream(group)
            else:
                yield from self._chunk(group)

    def _chunk(self, images: Iterator[ImageInFlight]) -> Iterator[ImageInFlight]:
        """Yield the frames of a chunk, window by window."""
        frames = enumerate(pairwise(chain(images, (None,))))
        before = None
        while True:
            window: list[ImageInFlight] = []
            self.counts.detected += self._detect(self._read_window(frames, window))
            if not window:
                return
            before = self._complete(window, before)
            window.reverse()
            while window:  # no reference to a yielded image may stay
                yield window.pop()

    def _read_window(
        self,
        frames: Iterator[tuple[int, tuple[ImageInFlight, ImageInFlight | None]]],
        window: list[ImageInFlight],
    ) -> Iterator[ImageInFlight]:
        """Add the next frames to the window, and yield those to detect.

        A window ends at one of every N frames, or at the end of the chunk.
        """
        count = 0
        for position, (image, following) in frames:
            window.append(image)
            is_nth = position % self.interval == 0
            if _lacks_boxes(image) and (is_nth or following is None):
                yield image
            count += is_nth
            size = image.result.size  # None for a frame without pixels
            if is_nth and size is not None and count >= self._detections_in_window(*size):
                return

    def _detections_in_window(self, width: int, height: int) -> int:
        """Number of detections in a window, as many as fill batches if memory allows."""
        fitting = max(1, WINDOW_BYTES // (3 * width * height * self.interval))
        wanted = -(-WINDOW_DETECTIONS // self.batch_size) * self.batch_size
        whole = fitting - fitting % self.batch_size
        return min(wanted, whole or fitting)

    def _detect(self, images: Iterable[ImageInFlight]) -> int:
        """Detect persons in frames, in batches; returns the number of frames without an error."""
        prepared = self.workers.map(self.prepare, images, 2 * self.workers.num_workers)
        with closing(prepared), closing(self.detections.stream(prepared)) as detected:
            return sum(image.result.error is None for image in detected)

    def _complete(
        self, window: Sequence[ImageInFlight], before: Detected | None
    ) -> Detected | None:
        """Detect where neighbours do not match, and interpolate all other boxes.

        Args:
            window: Frames, of which some are detected.
            before: The frame before them, if it is of the same chunk and was detected.

        Returns:
            The last frame, likewise.
        """
        found = {} if before is None else {-1: before}
        while True:
            for index, image in enumerate(window):
                if image.detections and index not in found:
                    found[index] = Detected.of(image)
            missing = sorted(_missing(window, found))
            if not missing:
                break
            self.counts.added += self._detect(window[index] for index in missing)
        for left, right in _gaps(window, found):
            one, other = found[left], found[right]
            order = match(one.boxes, other.boxes)
            for index in range(left + 1, right):
                share = (index - left) / (right - left)
                window[index].detections = [interpolate(one.boxes, other.boxes[order], share)]
                self.counts.interpolated += 1
        return found.get(len(window) - 1)


def _kind(item: ImageInFlight | Marker) -> Any:
    """Marker, None for an image, or the video of a frame."""
    if isinstance(item, Marker):
        return Marker
    frame = item.result.frame
    return None if frame.frame_id is None else frame.source_id


def _lacks_boxes(image: ImageInFlight) -> bool:
    """Whether the boxes of a frame must be found: it can be read, and none are precomputed."""
    return image.result.error is None and image.persons is None


def _stretches(window: Sequence[ImageInFlight], before: Detected | None) -> Iterator[list[int]]:
    """Indices of consecutive frames whose boxes must be found and that have one size.

    Frames that failed and those with precomputed boxes separate them. -1 is the frame before.
    """
    sizes = {-1: before.size} if before is not None else {}
    for index, image in enumerate(window):
        sizes[index] = image.result.size if _lacks_boxes(image) else None
    for size, indices in groupby(sizes, sizes.get):
        if size is not None:
            yield list(indices)


def _gaps(
    window: Sequence[ImageInFlight], found: Mapping[int, Detected]
) -> Iterator[tuple[int, int]]:
    """Indices of neighbouring detections of one stretch, with frames in between."""
    for stretch in _stretches(window, found.get(-1)):
        detected = (index for index in stretch if index in found)
        yield from ((left, right) for left, right in pairwise(detected) if right - left > 1)


def _missing(window: Sequence[ImageInFlight], found: Mapping[int, Detected]) -> Iterator[int]:
    """Indices of frames to detect: ends of stretches, and middles between unequal neighbours."""
    for stretch in _stretches(window, found.get(-1)):
        yield from {stretch[0], stretch[-1]} - found.keys()
    for left, right in _gaps(window, found):
        one, other = found[left], found[right]
        if is_cut(one.thumbnail, other.thumbnail) or match(one.boxes, other.boxes) is None:
            yield (left + right) // 2


def match(boxes: np.ndarray, others: np.ndarray) -> np.ndarray | None:
    """Match the boxes of two frames one to one.

    Args:
        boxes: Boxes (N, 5): x1, y1, x2, y2 in pixels and a score; or (N, 6) with a label.
        others: Boxes of the other frame, likewise.

    Returns:
        For each box the index of its counterpart, (N,). None unless all boxes of both frames
        match with certainty: each overlaps with its counterpart, has about its size and its
        label, and no other box that does so overlaps nearly as much.
    """
    if len(boxes) != len(others):
        return None
    overlaps = _overlaps(boxes, others)
    similar = (overlaps >= MIN_IOU) & _similar_sizes(boxes, others)
    similar &= (boxes[:, None, 5:] == others[None, :, 5:]).all(axis=2)
    overlaps = np.where(similar, overlaps, 0)
    # Adding 1 prefers many matches to large overlaps.
    rows, columns = linear_sum_assignment(similar + overlaps, maximize=True)
    matched = overlaps[rows, columns]
    rivals = similar & (overlaps >= RIVAL * matched[:, None])
    rivals[rows, columns] = False
    return None if rivals.any() or not similar[rows, columns].all() else columns


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of each pair of boxes, (N, M)."""
    lows = np.maximum(boxes[:, None, :2], others[None, :, :2])
    highs = np.minimum(boxes[:, None, 2:4], others[None, :, 2:4])
    shared = (highs - lows).clip(0).prod(axis=2)
    areas, other_areas = (
        (each[:, 2:4] - each[:, :2]).prod(axis=1).astype(float) for each in (boxes, others)
    )
    return shared / np.maximum(areas[:, None] + other_areas[None] - shared, 1e-9)


def _similar_sizes(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether neither widths nor heights of each pair of boxes differ by too much, (N, M)."""
    sizes = (boxes[:, 2:4] - boxes[:, :2])[:, None]
    other_sizes = (others[:, 2:4] - others[:, :2])[None]
    smaller, larger = np.minimum(sizes, other_sizes), np.maximum(sizes, other_sizes)
    return (larger <= MAX_RESIZE * smaller).all(axis=2)


def interpolate(boxes: np.ndarray, others: np.ndarray, share: float) -> np.ndarray:
    """Interpolate corners and scores of matched boxes linearly.

    Args:
        boxes: Boxes (N, 5) or (N, 6) of the earlier frame.
        others: Their counterparts in the later frame, in the same order.
        share: Position between the frames: 0 is the earlier, 1 the later one.

    Returns:
        Boxes as float32, with the highest score first, as the detector's.
    """
    between = boxes.astype(np.float32)
    between[:, :5] += share * (others - boxes)[:, :5]
    return between[np.argsort(-between[:, 4], kind='stable')]


def thumbnail_of(pixels: np.ndarray) -> np.ndarray:
    """Reduce an image (H, W, 3) to a thumbnail of 16x16, float32."""
    step = max(1, min(pixels.shape[:2]) // 64)  # 16 pixels per side suffice for an average
    some = np.ascontiguousarray(pixels[::step, ::step])
    return cv2.resize(some, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)


def is_cut(thumbnail: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two thumbnails are of different scenes."""
    return float(np.abs(thumbnail - other).mean()) > CUT
