"""The result of one image, its record, and its conversion to upstream's format."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from mmpose.evaluation.functional import nearby_joints_nms
from mmpose.structures import PoseDataSample, split_instances

from .sources.base import Frame

# Decimals written: a thousandth of a pixel, far below what any model resolves.
COORDINATE_DECIMALS = 3
# Decimals of the time of a frame, in seconds.
TIME_DECIMALS = 6
SCORE_DECIMALS = 5


@dataclass(slots=True)
class ImageResult:
    """The result of one input image.

    Attributes:
        frame: The input.
        size: Width and height in pixels; None if it could not be read.
        data_samples: Predictions in pixels of the image: one sample with all
            instances, or one per instance with ``merge_results=False``.
        image: The decoded image (H, W, 3), uint8, BGR, if requested; else None.
        track_ids: Track of each instance, in the order of the data samples' instances; None for
            an instance of no confirmed track. None without tracking.
        error: Why there is no prediction, in one line; None if there is one.
    """

    frame: Frame
    size: tuple[int, int] | None = None
    data_samples: list[PoseDataSample] = field(default_factory=list)
    image: np.ndarray | None = None
    track_ids: list[int | None] | None = None
    error: str | None = None

    @property
    def predictions(self) -> list[list[dict[str, Any]]]:
        """Instances of each data sample, as plain lists and dicts in upstream's format.

        With ``track_ids``, each instance also has its ``track_id``.
        """
        found = [split_instances(sample.pred_instances) for sample in self.data_samples]
        self.add_track_ids(chain.from_iterable(found))
        return found

    def add_track_ids(self, instances: Iterable[dict[str, Any]]) -> None:
        """Add ``track_id`` to each of the instances of all data samples, if there are any ids."""
        if self.track_ids is not None:
            for instance, track_id in zip(instances, self.track_ids, strict=True):
                instance['track_id'] = track_id

    def in_upstream_form(
        self, visualization: list[np.ndarray] | None, return_datasamples: bool
    ) -> dict[str, Any]:
        """What upstream's inferencer yields for one image; of an image that failed, its failure.

        Args:
            visualization: The drawing in a list, an empty list if it is not returned, or None.
            return_datasamples: Whether predictions are data samples instead of plain instances.
        """
        if self.error is not None:
            return {'visualization': [], 'predictions': [], **self.failure}
        predictions = self.data_samples if return_datasamples else self.predictions
        return {'visualization': visualization, 'predictions': predictions}

    @property
    def failure(self) -> dict[str, Any]:
        """The failure record, for an image or a frame of a video with an error."""
        error = {'error': self.error or ''}
        if self.frame.frame_id is None:
            return {'image': self.frame.path, **error}
        return {'video': self.frame.source_id, 'frame': self.frame.frame_id, **error}


def select_instances(
    sample: PoseDataSample, select_thr: float, pose_based_nms: bool
) -> PoseDataSample:
    """Drop instances, in place, by the rules of ``forward`` of upstream's ``Pose2DInferencer``.

    Args:
        sample: Predictions of one image.
        select_thr: Minimum box score; an instance is kept if its score is above it. 0 or less
            keeps all.
        pose_based_nms: Whether to suppress instances if at least a third of their keypoints
            nearly coincide with those of an instance with a higher score.
    """
    if select_thr > 0 and 'bbox_scores' in sample.pred_instances:
        keep = sample.pred_instances.bbox_scores > select_thr
        if not keep.all():  # one-stage heads have applied the threshold
            sample.pred_instances = sample.pred_instances[keep]
    if pose_based_nms and len(sample.pred_instances) > 0:
        keypoints = sample.pred_instances.keypoints
        poses = [
            {'keypoints': points, 'score': score}
            for points, score in zip(keypoints, sample.pred_instances.bbox_scores, strict=True)
        ]
        keep = nearby_joints_nms(poses, num_nearby_joints_thr=keypoints.shape[-2] // 3)
        sample.pred_instances = sample.pred_instances[keep]
    return sample


def label_of(frame: Frame) -> str:
    """What errors call a frame: the path of an image, or a video and the number of its frame."""
    if frame.frame_id is None:
        return frame.source_id or frame.path
    return f'{frame.source_id} frame {frame.frame_id}'


def _heading(frame: Frame) -> dict[str, Any]:
    """The start of a record: what it is about."""
    if not frame.source_id:
        return {'image': frame.name}
    heading: dict[str, Any] = {'video': frame.name}
    if frame.frame_id is not None:
        heading['frame'] = frame.frame_id
        heading['time'] = None if frame.time is None else round(frame.time, TIME_DECIMALS)
        if frame.time_guessed:
            heading['time_guessed'] = True
    return heading


def to_record(result: 'ImageResult', categories: Mapping[int, int] | None = None) -> dict[str, Any]:
    """The record of one image or frame of a video, or its failure record.

    Args:
        result: The result of the image.
        categories: Category id of each label; None if records have no categories.

    Returns:
        ``image`` (path below the input), or ``video``, ``frame`` and ``time`` (in seconds), and
        ``time_guessed`` if the file has no times; ``width``, ``height`` and
        ``instances``, each with ``keypoints`` (K x [x, y]), ``keypoint_scores``
        (K), ``bbox`` ([x1, y1, x2, y2]) and ``bbox_score``, all in pixels of
        the image; of one that failed, an ``error`` instead. With ``categories``, instances
        also have a ``category_id``: None if their label has none. With tracking they have a
        ``track_id``: None while their track is unconfirmed.
    """
    heading = _heading(result.frame)
    if result.error is not None:
        return {**heading, 'error': as_text(result.error)}
    width, height = result.size
    instances = []
    for sample in result.data_samples:
        found = sample.pred_instances
        columns = {
            'keypoints': _rounded(found.keypoints, COORDINATE_DECIMALS),
            'keypoint_scores': _rounded(found.keypoint_scores, SCORE_DECIMALS),
        }
        if 'bboxes' in found:
            columns['bbox'] = _rounded(found.bboxes, COORDINATE_DECIMALS)
        if 'bbox_scores' in found:
            columns['bbox_score'] = _rounded(found.bbox_scores, SCORE_DECIMALS)
        if categories is not None and 'labels' in found:
            columns['category_id'] = [categories.get(label) for label in found.labels.tolist()]
        rows = zip(*columns.values(), strict=True)
        instances += [dict(zip(columns, row, strict=True)) for row in rows]
    result.add_track_ids(instances)
    return {**heading, 'width': width, 'height': height, 'instances': instances}


def as_text(error: str) -> str:
    """An error message with invalid bytes of file names escaped."""
    return error.encode(errors='backslashreplace').decode()


def _rounded(values: np.ndarray, decimals: int) -> list:
    return np.round(np.asarray(values, dtype=np.float64), decimals).tolist()
