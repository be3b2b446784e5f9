"""Drawing a result on its image, by MMPose's own visualizer."""

import os.path as osp
from dataclasses import dataclass
from math import isnan
from numbers import Integral, Real
from typing import Any

import mmcv
import numpy as np
from mmengine.visualization import Visualizer

from ..results import ImageResult

# OpenCV's limit.
_MOST_PIXELS = 32767


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawOptions:
    """What to draw and what becomes of it, with stock's names and defaults.

    Attributes:
        return_vis: Return drawings with the results.
        show: Open a window.
        wait_time: Seconds that the window waits for a key; 0 for ever.
        draw_bbox: Draw boxes too.
        radius: Of a keypoint, in pixels, 0 to 32767.
        thickness: Of a link, in pixels, a whole number from 1 to 32767.
        kpt_thr: Keypoints must score above this.
        vis_out_dir: Folder for drawings; empty for none.
        skeleton_style: ``mmpose`` or ``openpose``.
        draw_heatmap: Draw the heatmaps over the image.
        black_background: Draw on black instead of the image.
        video: The images are frames of a video or camera.
    """

    return_vis: bool = False
    show: bool = False
    wait_time: float = 0
    draw_bbox: bool = False
    radius: int = 3
    thickness: int = 1
    kpt_thr: float = 0.3
    vis_out_dir: str = ''
    skeleton_style: str = 'mmpose'
    draw_heatmap: bool = False
    black_background: bool = False
    video: bool = False

    def __post_init__(self) -> None:
        if self.skeleton_style not in ('mmpose', 'openpose'):
            raise ValueError(
                f'skeleton_style: expected mmpose or openpose, found {self.skeleton_style!r}'
            )
        if self.vis_out_dir and not self.video and osp.splitext(self.vis_out_dir)[1]:
            raise ValueError(f'vis_out_dir: expected a folder, found {self.vis_out_dir!r}')
        for name in ('kpt_thr', 'wait_time'):
            if not _is_number(getattr(self, name)):
                raise ValueError(f'{name}: expected a number, found {getattr(self, name)!r}')
        if not (_is_number(self.radius) and 0 <= self.radius <= _MOST_PIXELS):
            raise ValueError(
                f'radius: expected a number from 0 to {_MOST_PIXELS}, found {self.radius!r}'
            )
        whole = _is_number(self.thickness) and isinstance(self.thickness, Integral)
        if not (whole and 1 <= self.thickness <= _MOST_PIXELS):
            raise ValueError(
                f'thickness: expected a whole number from 1 to {_MOST_PIXELS}, '
                f'found {self.thickness!r}'
            )

    @property
    def wanted(self) -> bool:
        """Whether anything is drawn at all."""
        return bool(self.return_vis or self.show or self.vis_out_dir)

    def returned(self, drawn: np.ndarray | None) -> list[np.ndarray] | None:
        """What stock puts under ``visualization`` for one image."""
        if drawn is None:
            return None
        return [drawn] if self.return_vis else []


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not isnan(value)


# Datasets that MMPose draws in OpenPose's style.
_OPENPOSE = ('coco', 'coco_wholebody')


def check_skeleton_style(style: str, dataset_meta: dict[str, Any]) -> None:
    """See that MMPose draws a dataset's keypoints in a style, before a run and not after it.

    Raises:
        ValueError: It does not.
    """
    name = dataset_meta.get('dataset_name')
    if style == 'openpose' and name not in _OPENPOSE:
        raise ValueError(
            f'skeleton_style: expected mmpose for dataset {name}; MMPose draws '
            f'{" and ".join(_OPENPOSE)} in the style of openpose'
        )


def draw_result(
    visualizer: Visualizer, dataset_meta: dict[str, Any], result: ImageResult, options: DrawOptions
) -> np.ndarray:
    """Draw the first data sample of a result; returns uint8 (H, W, 3), RGB.

    Args:
        visualizer: The inferencer's, whose settings this call changes.
        dataset_meta: Skeleton and colours of the model's keypoints.
        result: Holds its image.
        options: How to draw.
    """
    visualizer.radius = options.radius
    visualizer.line_width = options.thickness
    visualizer.set_dataset_meta(dataset_meta, options.skeleton_style)
    image = mmcv.bgr2rgb(result.image)
    if options.black_background:
        image = image * 0
    return visualizer.add_datasample(
        osp.basename(result.frame.path),
        image,
        result.data_samples[0],
        draw_gt=False,
        draw_bbox=options.draw_bbox,
        draw_heatmap=options.draw_heatmap,
        show=options.show,
        wait_time=1e-5 if options.video else options.wait_time,
        kpt_thr=options.kpt_thr,
        skeleton_style=options.skeleton_style,
    )
