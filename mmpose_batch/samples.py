"""Data samples: one of an image with nobody in it, and copies that cost little."""

from typing import TypeVar

import numpy as np
from mmengine.structures import BaseDataElement, InstanceData
from mmpose.structures import PoseDataSample

Sample = TypeVar('Sample', bound=BaseDataElement)


def empty_sample(path: str, size: tuple[int, int], num_keypoints: int) -> PoseDataSample:
    """The sample of an image in which nobody was found: instances of length 0."""
    width, height = size
    sample = PoseDataSample(
        metainfo={'img_path': path, 'img_shape': (height, width), 'ori_shape': (height, width)}
    )
    sample.pred_instances = InstanceData(
        keypoints=np.zeros((0, num_keypoints, 2), np.float32),
        keypoint_scores=np.zeros((0, num_keypoints), np.float32),
        keypoints_visible=np.zeros((0, num_keypoints), np.float32),
        bboxes=np.zeros((0, 4), np.float32),
        bbox_scores=np.zeros((0,), np.float32),
    )
    return sample


def copy_sample(sample: Sample) -> Sample:
    """A data sample with the same content, whose fields can be set without changing the first.

    MMEngine's ``to``, which comes to the same on a CPU, takes 0.2 ms of a crop's sample.
    """
    found = object.__new__(type(sample))
    for name, value in vars(sample).items():
        if isinstance(value, BaseDataElement):
            value = copy_sample(value)
        elif isinstance(value, set):  # the names of its fields
            value = set(value)
        object.__setattr__(found, name, value)
    return found
