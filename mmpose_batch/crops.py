"""The standard top-down pipeline for all persons of an image at once, to the bit."""

import copy
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose
from mmpose.datasets.transforms import GetBBoxCenterScale, LoadImage, PackPoseInputs, TopdownAffine
from mmpose.structures import PoseDataSample
from mmpose.structures.bbox import bbox_xyxy2cs, get_udp_warp_matrix

# The test pipeline of nearly every top-down config.
_STANDARD = (LoadImage, GetBBoxCenterScale, TopdownAffine, PackPoseInputs)


class StandardCrops:
    """Does what ``[LoadImage, GetBBoxCenterScale, TopdownAffine, PackPoseInputs]`` does.

    The pipeline itself prepares the first person of an image; the others differ from
    that one in their crop and in a few numbers, which are computed for all at once.

    Args:
        pipeline: See :meth:`fits`.
    """

    def __init__(self, pipeline: Compose) -> None:
        self._pipeline = pipeline
        _, boxes, affine, _ = pipeline.transforms
        self._padding = boxes.padding
        self._use_udp = affine.use_udp
        self._size = tuple(map(int, affine.input_size))
        width, height = affine.input_size
        self._aspect_ratio = width / height
        self._corners = _corners(np.array([[width * 0.5, height * 0.5]]), np.array([width]))[0]

    @staticmethod
    def fits(pipeline: Compose) -> bool:
        """Whether a pipeline is the standard one, with nothing in it changed."""
        steps = pipeline.transforms
        return (
            tuple(map(type, steps)) == _STANDARD
            and not steps[0].to_float32
            and not steps[3].pack_transformed
        )

    def __call__(self, info: dict[str, Any], bboxes: np.ndarray) -> list[dict[str, Any]]:
        """Prepare all persons of one image.

        Args:
            info: What the pipeline is given beside the person: ``img``, uint8
                (H, W, 3), ``img_path`` and the dataset's meta information.
            bboxes: float32 (N, 5): x1, y1, x2, y2 in pixels and a score.

        Returns:
            For each person ``inputs``, uint8 (3, h, w), and ``data_samples``.
        """
        if not len(bboxes):
            return []
        first = self._pipeline({**info, 'bbox': bboxes[:1, :4], 'bbox_score': bboxes[0, 4:5]})
        centers, scales = bbox_xyxy2cs(bboxes[:, :4], padding=self._padding)
        scales = TopdownAffine._fix_aspect_ratio(scales, self._aspect_ratio)
        matrices = self._matrices(centers, scales)
        packed = [first]
        for i in range(1, len(bboxes)):
            crop = cv2.warpAffine(info['img'], matrices[i], self._size, flags=cv2.INTER_LINEAR)
            sample = _another(first['data_samples'])
            sample.set_metainfo({'input_center': centers[i], 'input_scale': scales[i]})
            instances = sample.gt_instances
            instances.bboxes, instances.bbox_scores = bboxes[i : i + 1, :4], bboxes[i, 4:5]
            instances.bbox_scales = scales[i : i + 1]
            inputs = torch.from_numpy(np.stack(cv2.split(crop)))
            packed.append({'inputs': inputs, 'data_samples': sample})
        return packed

    def _matrices(self, centers: np.ndarray, scales: np.ndarray) -> list[np.ndarray]:
        if self._use_udp:
            pairs = zip(centers, scales, strict=True)
            return [get_udp_warp_matrix(*pair, 0.0, output_size=self._size) for pair in pairs]
        sources = _corners(centers, scales[:, 0])
        return [cv2.getAffineTransform(source, self._corners) for source in sources]


def _corners(centers: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Three points of each box, float32 (N, 3, 2), rounded as ``get_warp_matrix`` rounds them.

    The center, the middle of the left side, and the corner that a quarter turn of
    the way between them leads to.
    """
    corners = np.zeros((len(centers), 3, 2), np.float32)
    corners[:, 0] = centers
    corners[:, 1] = centers
    corners[:, 1, 0] = centers[:, 0].astype(np.float64) + (widths * -0.5).astype(np.float64)
    way = corners[:, 0] - corners[:, 1]
    corners[:, 2] = corners[:, 1] + np.stack((-way[:, 1], way[:, 0]), axis=1)
    return corners


def _another(sample: PoseDataSample) -> PoseDataSample:
    """A sample with the same content, whose fields can be set without changing the first."""
    found = copy.copy(sample)
    for name, value in vars(sample).items():
        if isinstance(value, set):  # the names of its fields
            object.__setattr__(found, name, set(value))
    for name in ('_gt_instances', '_gt_instance_labels'):
        part = copy.copy(getattr(sample, name))
        for key, value in vars(part).items():
            if isinstance(value, set):
                object.__setattr__(part, key, set(value))
        object.__setattr__(found, name, part)
    return found
