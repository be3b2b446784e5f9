"""The metric of a model's config: MMPose's ``CocoMetric`` and its settings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np
from mmengine.config import Config

from ..errors import AnnotationError
from ..models.checks.fields import type_name

METRICS = ('CocoMetric', 'CocoWholeBodyMetric')
#: Parts of COCO-WholeBody: field of an annotation, and the number of keypoints in it.
PARTS = {
    'keypoints': 17,
    'foot_kpts': 6,
    'face_kpts': 68,
    'lefthand_kpts': 21,
    'righthand_kpts': 21,
}
_CHOICES = {
    'score_mode': ('bbox', 'keypoint', 'bbox_keypoint', 'bbox_rle'),
    'nms_mode': ('oks_nms', 'soft_oks_nms', 'none'),
    'iou_type': ('keypoints', 'keypoints_crowd'),
    'use_area': (True, False),
}


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How MMPose's ``CocoMetric`` scores and evaluates instances, with its names and defaults.

    Attributes:
        score_mode, keypoint_score_thr, nms_mode, nms_thr, use_area, iou_type: Arguments of the
            metric.
        whole_body: Whether it is a ``CocoWholeBodyMetric``, which evaluates each part separately.
        converters: Arguments of the metric that rearrange keypoints.
        crop: Padding and aspect ratio (width by height, or None for any) of the crops of a
            top-down model; None without crops. Upstream's suppression relates distances to the
            area of the crop, or to that of the keypoints if there are no crops.
    """

    score_mode: str = 'bbox_keypoint'
    keypoint_score_thr: float = 0.2
    nms_mode: str = 'oks_nms'
    nms_thr: float = 0.9
    use_area: bool = True
    iou_type: str = 'keypoints'
    whole_body: bool = False
    converters: tuple[str, ...] = ()
    crop: tuple[float, float | None] | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(
                    f'test_evaluator: {name}: expected one of {", ".join(map(str, choices))}, '
                    f'found {value!r}'
                )
        for name in ('keypoint_score_thr', 'nms_thr'):
            value = getattr(self, name)
            if type(value) not in (int, float):
                raise ValueError(f'test_evaluator: {name}: expected a number, found {value!r}')

    @classmethod
    def from_config(cls, cfg: Config) -> 'ScoringOptions':
        """Read the ``CocoMetric`` of a config's ``test_evaluator``; defaults if it has none.

        Raises:
            ValueError: An evaluator names no metric, or a setting of the metric is invalid.
        """
        names = (*_CHOICES, 'keypoint_score_thr', 'nms_thr')
        for metric in list(
            _metrics(cfg.get('test_evaluator'))
        ):  # a list, so that every metric is checked
            kind = type_name(metric.get('type'))
            if kind in METRICS:
                return cls(
                    **{name: metric[name] for name in names if name in metric},
                    whole_body=kind == 'CocoWholeBodyMetric',
                    converters=tuple(
                        name for name in ('gt_converter', 'pred_converter') if metric.get(name)
                    ),
                    crop=_crop(cfg),
                )
        return cls(crop=_crop(cfg))

    @property
    def crowd(self) -> bool:
        """Whether AP is reported by how crowded images are; never for whole bodies."""
        return self.iou_type == 'keypoints_crowd' and not self.whole_body

    @property
    def reads(self) -> tuple[str, ...]:
        """Further fields that this metric reads of an annotation file."""
        return (
            *(('area',) if self.use_area else ()),
            *(('crowdIndex', 'num_keypoints') if self.crowd else ()),
            *(tuple(PARTS)[1:] if self.whole_body else ()),
        )

    def parts(self, num_keypoints: int) -> dict[str, int] | None:
        """:data:`PARTS` if results are split into them; None if all keypoints are in one list."""
        whole = self.whole_body and num_keypoints == sum(PARTS.values())
        return PARTS if whole else None

    def areas(self, bboxes: np.ndarray) -> np.ndarray | None:
        """Areas of the crops, (N,), of boxes (N, 4) as x, y, width, height; None without crops."""
        if self.crop is None:
            return None
        padding, aspect = self.crop
        width, height = (np.asarray(bboxes, np.float64)[:, 2:] * padding).T
        if aspect is not None:
            width, height = np.maximum(width, height * aspect), np.maximum(height, width / aspect)
        return width * height


def other_metrics(cfg: Config) -> list[str]:
    """Names of a config's metrics if ``CocoMetric`` is not among them, else an empty list."""
    names = [str(type_name(metric.get('type'))) for metric in _metrics(cfg.get('test_evaluator'))]
    return [] if set(names) & set(METRICS) else names


def _metrics(evaluator: Any) -> Iterator[Mapping[str, Any]]:
    """Yield all metrics of a ``test_evaluator``: one metric, a list, or an evaluator of several.

    Raises:
        ValueError: It is, or contains, something other than a dict with a type.
    """
    if evaluator is None or evaluator == {}:
        return
    if isinstance(evaluator, Sequence) and not isinstance(evaluator, str):
        for each in evaluator:
            yield from _metrics(each)
    elif isinstance(evaluator, Mapping) and 'metrics' in evaluator:
        yield from _metrics(evaluator['metrics'])
    elif isinstance(evaluator, Mapping) and type_name(evaluator.get('type')) is not None:
        yield evaluator
    else:
        raise ValueError(
            'test_evaluator: expected dict(type=...), such as dict(type="CocoMetric"), or a list '
            f'of such, found {shorten(repr(evaluator), 100)}'
        )


def _crop(cfg: Config) -> tuple[float, float | None] | None:
    """Padding and aspect ratio of a test pipeline's crops of persons; None if it has none."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    steps = {type_name(step.get('type')): step for step in dataset.get('pipeline') or ()}
    if 'GetBBoxCenterScale' not in steps:
        return None
    size = steps.get('TopdownAffine', {}).get('input_size')
    padding = steps['GetBBoxCenterScale'].get('padding', 1.25)
    return padding, None if size is None else size[0] / size[1]


def coco_classes() -> tuple[type, type]:
    """``COCO`` and ``COCOeval`` of xtcocotools, which only an evaluation needs.

    Raises:
        AnnotationError: The package is not installed or does not work.
    """
    try:
        from xtcocotools.coco import COCO
        from xtcocotools.cocoeval import COCOeval
    except (ImportError, ValueError) as error:  # ValueError: compiled for another numpy
        raise AnnotationError(
            f"evaluation needs xtcocotools ({error}): pip install 'mmpose-batch[coco]'"
        ) from error
    return COCO, COCOeval
