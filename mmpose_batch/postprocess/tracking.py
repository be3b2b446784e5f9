"""Track ids of persons in videos, by ByteTrack of the package ``trackers``.

The tracker only gets what is written to a record: the time and the boxes, rounded in the same way.
So a resumed run that replays the records of the earlier run continues with the same state, and
gives the same ids.
"""

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..errors import TrackingError, one_line
from ..results import COORDINATE_DECIMALS, SCORE_DECIMALS, TIME_DECIMALS, ImageResult

# ByteTrack's noise is tuned for steps of one frame at 30 frames per second. Every step is measured
# in such frames by its time, so slower, faster and variable rates, strides and lost frames are
# steps of another length. In simulations this had fewer identity switches at 6 and 10 frames per
# second than the rate of the video, and as many at 15 to 60.
NOMINAL_RATE = 30.0
# Seconds without a match after which a track ends; a person who reappears later has a new id.
MAX_LOST = 1.0
# Minimum step in seconds, since the library ignores frames whose time is before the last one.
_MIN_STEP = 0.001
# Minimum score of the keypoints that a box is derived from; that of keypoints that are drawn.
_KEYPOINT_THR = 0.3

_INSTALL = 'pip install supervision==0.31.2 && pip install --no-deps trackers==2.6.1'


class _Observation(NamedTuple):
    """What the tracker gets of one frame.

    Attributes:
        video: Identifies the video or camera; None for separate images.
        frame: Index of the frame in its video; None for cameras.
        time: Seconds; None if unknown.
        boxes: (N, 4) float64, x1, y1, x2, y2 in pixels; None if the frame failed.
    """

    video: str | None
    frame: int | None
    time: float | None
    boxes: np.ndarray | None


class PersonTracker:
    """Gives the persons of one frame after another their track ids.

    Frames must come in order, those of a video without frames of another in between. Each video
    has a new tracker, and ids that start at 0. An id is given from the second consecutive frame in
    which a person is found: until then the track is unconfirmed. Every instance in the results can
    be tracked, whatever its score, since the results only contain those above ``bbox_thr``.

    A frame that failed only lets time pass. Instances of models without boxes are tracked by the
    box around their keypoints.

    Raises:
        TrackingError: The package ``trackers`` is not installed, or cannot be used.
    """

    def __init__(self) -> None:
        self._trackers, self._supervision = import_trackers()
        self._video: str | None = None
        self._tracker: Any = None
        self._time: float | None = None

    def assign(self, result: ImageResult) -> None:
        """Set ``track_ids`` of a result; it stays None for separate images and for failures."""
        result.track_ids = self._update(_of_result(result))

    def replay(self, record: Mapping[str, Any]) -> None:
        """Track the instances of a record that an earlier run has written.

        Records of earlier videos may be left out, since each video has a new tracker.

        Args:
            record: A line of ``predictions.jsonl``.
        """
        self._update(_of_record(record))

    def _update(self, seen: _Observation) -> list[int | None] | None:
        if seen.video is None:
            return None
        if seen.video != self._video:
            self._start(seen.video)
        if seen.boxes is None:
            return None
        # The library returns rows in another order.
        rows = np.flatnonzero(_is_valid(seen.boxes))
        detections = self._supervision.Detections(xyxy=seen.boxes[rows], data={'row': rows})
        tracked = self._tracker.update(detections, timestamp=self._advance(seen))
        ids: list[int | None] = [None] * len(seen.boxes)
        if len(tracked):
            for row, track in zip(tracked.data['row'], tracked.tracker_id, strict=True):
                ids[row] = int(track) if track >= 0 else None
        return ids

    def _start(self, video: str) -> None:
        """Start a new video."""
        self._video, self._time = video, None
        self._tracker = self._trackers.ByteTrackTracker(
            lost_track_buffer=round(MAX_LOST * NOMINAL_RATE), frame_rate=NOMINAL_RATE
        )

    def _advance(self, seen: _Observation) -> float:
        """Advance to the time of a frame, in seconds, later than that of the frame before."""
        time, last = seen.time, self._time
        if time is None and seen.frame is not None:
            time = seen.frame / NOMINAL_RATE
        elif time is None:
            time = 0.0 if last is None else last + 1 / NOMINAL_RATE
        time = round(time, TIME_DECIMALS)
        self._time = time if last is None else max(time, last + _MIN_STEP)
        return self._time


def track(
    results: Iterable[ImageResult], tracker: PersonTracker | None = None
) -> Iterator[ImageResult]:
    """Yield results of videos with the track ids of their instances.

    Args:
        results: In order.
        tracker: Continues this one, for example after it has replayed records; None starts one.

    Raises:
        TrackingError: The package ``trackers`` is not installed, or cannot be used.
    """
    return _assign_all(results, tracker or PersonTracker())  # the error is raised here


def _assign_all(results: Iterable[ImageResult], tracker: PersonTracker) -> Iterator[ImageResult]:
    for result in results:
        tracker.assign(result)
        yield result


def _of_result(result: ImageResult) -> _Observation:
    frame = result.frame
    video = (frame.source_id or None) if frame.frame_id is None else frame.name
    time = None if frame.time is None else round(frame.time, TIME_DECIMALS)
    if result.error is not None:
        return _Observation(video, frame.frame_id, time, None)
    boxes = [np.empty((0, 4))]
    for sample in result.data_samples:
        found = sample.pred_instances
        if 'bboxes' in found:
            boxes.append(_round(found.bboxes, COORDINATE_DECIMALS).reshape(-1, 4))
        else:
            keypoints = _round(found.keypoints, COORDINATE_DECIMALS)
            scores = _round(found.keypoint_scores, SCORE_DECIMALS)
            boxes += [_box_around(*row) for row in zip(keypoints, scores, strict=True)]
    return _Observation(video, frame.frame_id, time, np.concatenate(boxes))


def _of_record(record: Mapping[str, Any]) -> _Observation:
    boxes = None
    if 'instances' in record:  # also in a record with an error, if only its drawing failed
        boxes = np.concatenate([np.empty((0, 4)), *map(_box_of, record['instances'])])
    return _Observation(record.get('video'), record.get('frame'), record.get('time'), boxes)


def _box_of(instance: Mapping[str, Any]) -> np.ndarray:
    """The box of an instance in a record, (1, 4)."""
    if 'bbox' in instance:
        return np.array(instance['bbox'], dtype=np.float64).reshape(1, 4)
    columns = (instance[name] for name in ('keypoints', 'keypoint_scores'))
    return _box_around(*(np.array(column, dtype=np.float64) for column in columns))


def _box_around(keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The box (1, 4) around the keypoints (K, 2) that score enough, or around all if none is."""
    good = keypoints[scores > _KEYPOINT_THR]
    if len(good) == 0 or np.any(np.ptp(good, axis=0) <= 0):
        good = keypoints
    return np.concatenate((good.min(axis=0), good.max(axis=0)))[None]


def _is_valid(boxes: np.ndarray) -> np.ndarray:
    """Which boxes (N, 4) are finite and have an area; others cannot be matched."""
    return np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)


def _round(values: np.ndarray, decimals: int) -> np.ndarray:
    """Round as records are."""
    return np.round(np.asarray(values, dtype=np.float64), decimals)


def import_trackers() -> tuple[ModuleType, ModuleType]:
    """Import ``trackers`` and ``supervision``, which takes about half a second.

    Raises:
        TrackingError: They are not installed, or cannot be used.
    """
    try:
        trackers, supervision = import_module('trackers'), import_module('supervision')
        if 'timestamp' not in signature(trackers.ByteTrackTracker.update).parameters:
            raise ImportError('this version of trackers takes no timestamps')
    except (ImportError, AttributeError) as error:
        raise TrackingError(
            'track: needs the packages trackers and supervision, which cannot be imported '
            f'({one_line(error)}): {_INSTALL}'
        ) from error
    return trackers, supervision
