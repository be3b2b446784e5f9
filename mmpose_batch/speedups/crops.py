"""The standard top-down pipeline for all persons of an image at once, with identical outputs.

No pipeline is changed in place. Pipelines and images to which this does not apply are processed
by the pipeline itself.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose
from mmpose.datasets.transforms import GetBBoxCenterScale, LoadImage, PackPoseInputs, TopdownAffine
from mmpose.structures import PoseDataSample
from mmpose.structures.bbox import bbox_xyxy2cs, get_udp_warp_matrix

from .samples import copy_sample, replace_fields

# The test pipeline of nearly every top-down config.
_STANDARD = (LoadImage, GetBBoxCenterScale, TopdownAffine, PackPoseInputs)

# Meta keys with a value for each person, other than the standard ones.
_OF_A_PERSON = {'img', 'bbox', 'bbox_score', 'bbox_center', 'bbox_scale'}

# OpenCV warps four channels in about half the time of three (208 and 376 us for a crop of 192x256),
# with the same values. The fourth channel requires a copy of the image (0.1 ms for 640x480, 0.9 ms
# for 1920x1080), which pays up to this many pixels of the image per pixel of the crops.
_PIXELS_PER_CROP_PIXEL = 8


class StandardCrops:
    """Equivalent of ``[LoadImage, GetBBoxCenterScale, TopdownAffine, PackPoseInputs]``.

    The pipeline itself packs one person as a template. Other persons differ from the template in
    a few values, which are computed for all persons of an image at once.

    Args:
        pipeline: Pipeline that :meth:`applies` accepts.
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
        self._template: PoseDataSample | None = None

    @staticmethod
    def applies(pipeline: Compose, img: np.ndarray) -> bool:
        """Return whether a pipeline is the unchanged standard one and an image is uint8 BGR."""
        steps = pipeline.transforms
        return (
            img.dtype == np.uint8
            and img.shape[2:] == (3,)
            and tuple(map(type, steps)) == _STANDARD
            and not steps[0].to_float32
            and not steps[3].pack_transformed
            and _OF_A_PERSON.isdisjoint(steps[3].meta_keys)
        )

    @staticmethod
    def settings(pipeline: Compose) -> tuple:
        """Return all settings that an instance depends on; after a change, a new one is needed."""
        load, boxes, affine, pack = pipeline.transforms
        ids = map(id, (load, boxes, affine, pack))
        return (
            *ids,
            boxes.padding,
            affine.use_udp,
            tuple(affine.input_size),
            tuple(pack.meta_keys),
        )

    def __call__(self, info: dict[str, Any], bboxes: np.ndarray) -> list[dict[str, Any]]:
        """Prepare all persons of one image.

        Args:
            info: Input of the pipeline without the person: ``img``, uint8 (H, W, 3),
                ``img_path``, and the dataset's meta information, which must be the same for
                every image.
            bboxes: float32 (N, 5): x1, y1, x2, y2 in pixels and a score.

        Returns:
            For each person ``inputs``, uint8 (3, h, w), and ``data_samples``.
        """
        if self._template is None:
            self._template = self._packed(info)
        centers, scales = bbox_xyxy2cs(bboxes[:, :4], padding=self._padding)
        scales = TopdownAffine._fix_aspect_ratio(scales, self._aspect_ratio)
        shape = info['img'].shape[:2]
        meta = {'img_path': info['img_path'], 'img_shape': shape, 'ori_shape': shape}
        packed = []
        for i, crop in enumerate(self._crops(info['img'], self._matrices(centers, scales))):
            sample = copy_sample(self._template)
            own = {**meta, 'input_center': centers[i].copy(), 'input_scale': scales[i].copy()}
            replace_fields(sample, **{key: value for key, value in own.items() if key in sample})
            instances = sample.gt_instances
            replace_fields(
                instances,
                bboxes=bboxes[i : i + 1, :4],
                bbox_scores=bboxes[i, 4:5],
                bbox_scales=scales[i : i + 1],
                keypoints_visible=instances.keypoints_visible.copy(),
            )
            packed.append({'inputs': crop, 'data_samples': sample})
        return packed

    def _packed(self, info: dict[str, Any]) -> PoseDataSample:
        """The data sample that the pipeline packs, for an arbitrary person."""
        load, boxes, affine, pack = self._pipeline.transforms
        person = {'bbox': np.float32([[0, 0, 1, 1]]), 'bbox_score': np.ones(1, np.float32)}
        results = boxes(load({**info, **person}))
        results['img'] = np.zeros((1, 1, 3), np.uint8)  # cheap to crop
        return pack(affine(results))['data_samples']

    def _crops(self, img: np.ndarray, matrices: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Warp the crop of each person, uint8 (3, h, w)."""
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

    They are the center of the box, the middle of its left side, and the center after a quarter
    turn around that middle.
    """
    corners = np.zeros((len(centers), 3, 2), np.float32)
    corners[:, 0] = centers
    corners[:, 1] = centers
    corners[:, 1, 0] = centers[:, 0].astype(np.float64) + (widths * -0.5).astype(np.float64)
    inward = corners[:, 0] - corners[:, 1]
    corners[:, 2] = corners[:, 1] + np.stack((-inward[:, 1], inward[:, 0]), axis=1)
    return corners


class CropCache:
    """Caches the :class:`StandardCrops` of a pipeline until the pipeline or its settings change."""

    def __init__(self) -> None:
        self._crops: tuple[tuple, StandardCrops] | None = None

    def of(
        self, pipeline: Compose, dataset_meta: dict[str, Any], img: np.ndarray | None
    ) -> StandardCrops | None:
        """Return the equivalent of a pipeline; None if :class:`StandardCrops` does not apply.

        Args:
            pipeline: Test pipeline of a top-down model.
            dataset_meta: The dataset's meta information, which is part of the pipeline's input.
            img: Image (H, W, 3); None if it is not decoded yet.
        """
        if img is None or not StandardCrops.applies(pipeline, img):
            return None
        made_of = (*StandardCrops.settings(pipeline), id(dataset_meta))
        crops = self._crops
        if crops is None or crops[0] != made_of:
            crops = self._crops = made_of, StandardCrops(pipeline)
        return crops[1]
