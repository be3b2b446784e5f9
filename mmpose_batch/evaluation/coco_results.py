"""COCO results of records, with the scores that MMPose's ``CocoMetric`` gives them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import RunError


def to_coco(
    record: Mapping[str, Any],
    image_id: int,
    score_mode: str,
    kpt_thr: float,
    category_id: int | None = 1,
    parts: Mapping[str, int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield one COCO result per instance of a record.

    Args:
        record: Record of the image, from ``predictions.jsonl``.
        image_id: COCO id of the image.
        score_mode: How MMPose's ``CocoMetric`` scores an instance: ``bbox``,
            ``keypoint``, ``bbox_keypoint`` (box score times the mean score of
            the keypoints above ``kpt_thr``) or ``bbox_rle``.
        kpt_thr: ``CocoMetric``'s ``keypoint_score_thr``.
        category_id: Category of all instances, as upstream writes it; None uses the category of
            each instance and omits instances without one.
        parts: Fields for the keypoints, with the number of keypoints in each, in the model's
            order, as ``CocoWholeBodyMetric`` writes them; None for ``keypoints`` alone.

    Raises:
        RunError: The record has null instead of a number, as earlier versions wrote for NaN.
    """
    name = record.get('image') or record.get('video')
    for instance in record.get('instances', ()):
        category = instance.get('category_id') if category_id is None else category_id
        if category is None:
            continue
        _check_numbers(name, instance)
        scores = np.asarray(instance['keypoint_scores'])
        points = np.column_stack((np.asarray(instance['keypoints'])[:, :2], scores))
        result = {
            'image_id': image_id,
            'category_id': category,
            **_fields(points, parts or {'keypoints': len(points)}),
            'score': _instance_score(instance.get('bbox_score', 1.0), scores, score_mode, kpt_thr),
            'file_name': name,
            **({'frame': record['frame']} if 'video' in record else {}),
        }
        if 'bbox' in instance:
            x1, y1, x2, y2 = instance['bbox']
            result['bbox'] = [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]
        yield result


def _check_numbers(image: str, instance: Mapping[str, Any]) -> None:
    for name in ('keypoints', 'keypoint_scores', 'bbox', 'bbox_score'):
        values = np.asarray(instance.get(name, 0), dtype=np.float64)  # null becomes NaN
        if not np.isfinite(values).all():
            raise RunError(
                f'predictions.jsonl: {image}: expected numbers as {name}, found null, which a '
                'network with broken weights may have left there; start a new run, not --resume'
            )


def _fields(points: np.ndarray, parts: Mapping[str, int]) -> dict[str, list[float]]:
    """Keypoints (K, 3) as flat lists, one for each field."""
    ends = np.cumsum(list(parts.values()))
    pieces = np.split(points, ends[:-1])
    return {name: piece.ravel().tolist() for name, piece in zip(parts, pieces, strict=True)}


def _instance_score(bbox_score: float, scores: np.ndarray, mode: str, kpt_thr: float) -> float:
    if mode == 'bbox':
        return float(bbox_score)
    if mode == 'keypoint':
        return float(scores.mean())
    if mode == 'bbox_rle':
        return float(bbox_score + scores.mean() + scores.max())
    valid = scores[scores > kpt_thr]
    return float((valid.mean() if len(valid) else 0.0) * bbox_score)
