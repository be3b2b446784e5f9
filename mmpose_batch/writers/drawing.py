"""Drawing a result on its image, by MMPose's own visualizer."""

import os.path as osp
from typing import Any

import mmcv
import numpy as np
from mmengine.visualization import Visualizer

from ..config import DrawOptions
from ..results import ImageResult

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
