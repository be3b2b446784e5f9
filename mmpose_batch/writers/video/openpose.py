"""Drawings of poses with the keypoints, links and colours of OpenPose, by OpenCV."""

from math import atan2, degrees, hypot

import cv2
import numpy as np

from ...config import DrawOptions
from ...models.keypoints import Keypoints
from .canvas import Colour, Target
from .poses import Instance, PoseDrawer, clipped

# Configs of MMPose with the keypoints and colours, by dataset.
_CONFIGS = {
    'coco': 'configs/_base_/datasets/coco_openpose.py',
    'coco_wholebody': 'configs/_base_/datasets/coco_wholebody_openpose.py',
}
# Index of COCO, with a neck at 17, for each of the first 18 keypoints of OpenPose.
_BODY = (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_SHOULDERS = [5, 6]
# Links of the body are ellipses, others (of hands) are lines.
_BODY_LINKS = 17


class OpenPoseDrawer(PoseDrawer):
    """Draws poses in the style of OpenPose, as MMPose does for images, but opaque.

    Each link and each keypoint has its own colour, the same for all persons.

    Args:
        keypoints: Keypoints of a model of COCO or COCO-WholeBody.
        options: Radius, thickness, minimum score, boxes and background.
    """

    def __init__(self, keypoints: Keypoints, options: DrawOptions) -> None:
        # Not at the top: it imports PyTorch.
        from mmpose.datasets.datasets.utils import parse_pose_metainfo

        super().__init__(keypoints, options)
        own = keypoints.dataset_meta
        meta = parse_pose_metainfo({'from_file': _CONFIGS[own['dataset_name']]})
        self._count = own['num_keypoints']
        indices = keypoints.indices
        self._indices = list(range(self._count) if indices is None else indices)
        self._own_links = [
            (a, b, _bgr(colour))
            for (a, b), colour in zip(
                meta['skeleton_links'], meta['skeleton_link_colors'], strict=True
            )
        ]
        self._colours = [_bgr(colour) for colour in meta['keypoint_colors']]

    def _draw_pose(
        self, image: Target, instance: Instance, colour: Colour, radius: int, thickness: int
    ) -> None:
        points, visible = self._converted(instance)
        for number, (a, b, shade) in enumerate(self._own_links):
            if not (visible[a] and visible[b]):
                continue
            if number < _BODY_LINKS:
                _draw_limb(image, points[a], points[b], shade, thickness)
            else:
                line = np.array([[points[a], points[b]]], np.int32)
                image.polylines(line, shade, thickness, cv2.LINE_AA, 0)
        for index in np.flatnonzero(visible).tolist():
            if any(shade := self._colours[index]):  # MMPose draws no black ones
                size = radius if index < len(_BODY) else max(1, radius // 2)
                image.circles(np.array([points[index]]), size, shade, cv2.LINE_AA, 0)

    def _converted(self, instance: Instance) -> tuple[list[list[int]], np.ndarray]:
        """Integer coordinates of OpenPose's keypoints, and whether each is drawn, (K,)."""
        points, scores = np.zeros((self._count, 2)), np.full(self._count, -np.inf)
        points[self._indices] = instance['keypoints']
        scores[self._indices] = instance['keypoint_scores']
        visible = scores >= self._options.kpt_thr
        points = np.insert(points, 17, points[_SHOULDERS].mean(axis=0), axis=0)
        visible = np.insert(visible, 17, (scores[_SHOULDERS] > self._options.kpt_thr).all())
        points[: len(_BODY)], visible[: len(_BODY)] = points[[*_BODY]], visible[[*_BODY]]
        return clipped(points).astype(int).tolist(), visible


def _draw_limb(
    image: Target, start: list[int], end: list[int], colour: Colour, thickness: int
) -> None:
    """Draw an ellipse from one point to another."""
    x, y = start[0] - end[0], start[1] - end[1]
    middle = (start[0] + end[0]) // 2, (start[1] + end[1]) // 2
    axes = int(hypot(x, y) / 2), thickness
    polygon = cv2.ellipse2Poly(middle, axes, int(degrees(atan2(y, x))), 0, 360, 5)
    image.polygon(polygon, colour)


def _bgr(colour: np.ndarray) -> Colour:
    red, green, blue = (int(each) for each in colour)
    return blue, green, red
