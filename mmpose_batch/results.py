"""What comes out for one image, and its stock form."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmpose.evaluation.functional import nearby_joints_nms
from mmpose.structures import PoseDataSample, split_instances

from .sources.base import Frame


@dataclass(slots=True)
class ImageResult:
    """Everything known about one input image after inference.

    Attributes:
        frame: The input.
        size: Width and height in pixels; None if it could not be read.
        data_samples: Predictions in pixels of the image: one sample with all
            instances, or one per instance with ``merge_results=False``.
        image: The decoded image (H, W, 3), uint8, BGR, if it was asked for.
        error: Why there is no prediction, in one line; None if there is one.
    """

    frame: Frame
    size: tuple[int, int] | None = None
    data_samples: list[PoseDataSample] = field(default_factory=list)
    image: np.ndarray | None = None
    error: str | None = None

    @property
    def predictions(self) -> list[list[dict[str, Any]]]:
        """For each data sample its instances, in stock's plain form."""
        return [split_instances(sample.pred_instances) for sample in self.data_samples]

    @property
    def failure(self) -> dict[str, str]:
        """The failure record of an image that has an error."""
        return {'image': self.frame.path, 'error': self.error or ''}


def select_instances(
    sample: PoseDataSample, select_thr: float, pose_based_nms: bool
) -> PoseDataSample:
    """Drop instances after the network, in place, by the rules of stock's ``forward``.

    Args:
        sample: Predictions of one image.
        select_thr: Box scores must be above this; 0 and less keep all.
        pose_based_nms: Suppress instances of which a third of the keypoints
            nearly coincides with those of a higher scored one.
    """
    if select_thr > 0 and 'bbox_scores' in sample.pred_instances:
        keep = sample.pred_instances.bbox_scores > select_thr
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
