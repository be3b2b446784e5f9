"""The standard top-down pipeline for all persons of an image at once, to the bit."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose
from mmpose.datasets.transforms import GetBBoxCenterScale, LoadImage, PackPoseInputs, TopdownAffine
from mmpose.structures import PoseDataSample
from mmpose.structures.bbox import bbox_xyxy2cs, get_udp_warp_matrix

from .samples import copy_sample

# The test pipeline of nearly every top-down config.
_STANDARD = (LoadImage, GetBBoxCenterScale, TopdownAffine, PackPoseInputs)

# OpenCV warps four channels in half of the time of three (208 and 376 us for 192x256), with the
# same values. The fourth costs a copy of the image: worth it up to so many pixels of it for each
# pixel of the crops (0.1 ms for 640x480, 0.9 ms for 1920x1080).
_PIXELS_PER_CROP_PIXEL = 4


class StandardCrops:
    """Does what ``[LoadImage, GetBBoxCenterScale, TopdownAffine, PackPoseInputs]`` does.

    The pipeline itself says what goes with the first person; the others differ from
    that one in a few numbers, which are computed for all at once. One person alone
    costs more than by the pipeline.

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
    def fits(pipeline: Compose, img: np.ndarray) -> bool:
        """Whether a pipeline is the standard one, nothing in it changed, and an image is BGR."""
        steps = pipeline.transforms
        return (
            img.dtype == np.uint8
            and img.shape[2:] == (3,)
            and tuple(map(type, steps)) == _STANDARD
            and not steps[0].to_float32
            and not steps[3].pack_transformed
        )

    def __call__(self, info: dict[str, Any], bboxes: np.ndarray) -> list[dict[str, Any]]:
        """Prepare all persons of one image.

        Args:
            info: What the pipeline is given beside the person: ``img``, uint8
                (H, W, 3), ``img_path`` and the dataset's meta information.
            bboxes: float32 (N, 5), N from 1: x1, y1, x2, y2 in pixels and a score.

        Returns:
            For each person ``inputs``, uint8 (3, h, w), and ``data_samples``.
        """
        first = self._first(info, bboxes[0])
        centers, scales = bbox_xyxy2cs(bboxes[:, :4], padding=self._padding)
        scales = TopdownAffine._fix_aspect_ratio(scales, self._aspect_ratio)
        crops = self._crops(info['img'], self._matrices(centers, scales))
        packed = [{'inputs': next(crops), 'data_samples': first}]
        for i, crop in enumerate(crops, start=1):
            sample = copy_sample(first)
            sample.set_metainfo({'input_center': centers[i], 'input_scale': scales[i]})
            instances = sample.gt_instances
            instances.bboxes, instances.bbox_scores = bboxes[i : i + 1, :4], bboxes[i, 4:5]
            instances.bbox_scales = scales[i : i + 1]
            packed.append({'inputs': crop, 'data_samples': sample})
        return packed

    def _first(self, info: dict[str, Any], bbox: np.ndarray) -> PoseDataSample:
        load, boxes, affine, pack = self._pipeline.transforms
        results = boxes(load({**info, 'bbox': bbox[None, :4], 'bbox_score': bbox[4:5]}))
        results['img'] = np.zeros((1, 1, 3), np.uint8)  # a crop of this costs next to nothing
        return pack(affine(results))['data_samples']

    def _crops(self, img: np.ndarray, matrices: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Cut crops, uint8 (3, h, w)."""
        width, height = self._size
        four = img.shape[0] * img.shape[1] <= (
            len(matrices) * width * height * _PIXELS_PER_CROP_PIXEL
        )
        if four:
            img = cv2.cvtColor(img, cv2.COLOR_BGR2BGRA)
        for matrix in matrices:
            crop = cv2.warpAffine(img, matrix, self._size, flags=cv2.INTER_LINEAR)
            if four:
                crop = cv2.cvtColor(crop, cv2.COLOR_BGRA2BGR)
            planes = np.empty((3, height, width), np.uint8)
            cv2.split(crop, list(planes))
            yield torch.from_numpy(planes)

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
