"""COCO annotations and boxes: which image they belong to, and AP and AR of a run."""

import contextlib
import io
import json
import os.path as osp
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.config import Config
from mmpose.evaluation.functional import oks_nms, soft_oks_nms


class AnnotationError(ValueError):
    """An annotation or box file that cannot be used."""


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How MMPose's ``CocoMetric`` scores instances, with its names and defaults."""

    score_mode: str = 'bbox_keypoint'
    keypoint_score_thr: float = 0.2
    nms_mode: str = 'oks_nms'
    nms_thr: float = 0.9

    @classmethod
    def from_config(cls, cfg: Config) -> 'ScoringOptions':
        """Take what the model's config tests it with, where that is a CocoMetric."""
        evaluator = cfg.get('test_evaluator', {})
        metrics = evaluator if isinstance(evaluator, Sequence) else [evaluator]
        for metric in metrics:
            if metric.get('type') == 'CocoMetric':
                return cls(**{key: metric[key] for key in cls.__slots__ if key in metric})
        return cls()


class ImageIds:
    """COCO's number of an image, found by its path.

    A path belongs to the image of the annotation file whose ``file_name`` it
    ends with; without an annotation file, to the number that its name is
    (``000000000785.jpg``).

    Args:
        images: The ``images`` of an annotation file, or None.
    """

    def __init__(self, images: Sequence[Mapping[str, Any]] | None = None) -> None:
        self._by_name: dict[str, list[tuple[str, int]]] | None = None
        if images is not None:
            self._by_name = defaultdict(list)
            for image in images:
                name = osp.normpath(image['file_name'])
                self._by_name[osp.basename(name)].append((name, image['id']))

    def find(self, path: str) -> int | None:
        """The number of the image at ``path``, None if it has none."""
        if self._by_name is None:
            stem = osp.splitext(osp.basename(path))[0]
            return int(stem) if stem.isdigit() else None
        path = osp.normpath(path)
        candidates = self._by_name.get(osp.basename(path), [])
        if len(candidates) == 1:
            return candidates[0][1]
        fitting = [i for name, i in candidates if f'/{path}'.endswith(f'/{name}')]
        return fitting[0] if len(fitting) == 1 else None


def read_annotations(path: str) -> dict[str, Any]:
    """Read a COCO keypoint annotation file.

    Raises:
        AnnotationError: It is missing, no JSON, or has no keypoint annotations.
    """
    content = _read_json(path)
    if not isinstance(content, dict) or not {'images', 'annotations'} <= content.keys():
        raise AnnotationError(f'{path}: expected COCO annotations with images and annotations')
    if not any('keypoints' in annotation for annotation in content['annotations']):
        raise AnnotationError(f'{path}: expected keypoint annotations, found none')
    return content


def read_bboxes(path: str, bbox_thr: float) -> dict[int | str, np.ndarray]:
    """Read boxes of persons from COCO detection results.

    Args:
        path: JSON list of ``image_id`` or ``file_name``, ``bbox`` ([x, y, w, h]
            in pixels), ``score`` and ``category_id``, of which 1 counts, as in
            MMPose's own reader.
        bbox_thr: Boxes must score above this.

    Returns:
        For each image id, or file name, an array (N, 5): x1, y1, x2, y2, score.

    Raises:
        AnnotationError: The file does not have that form.
    """
    content = _read_json(path)
    if not isinstance(content, list):
        raise AnnotationError(f'{path}: expected a list of detections in COCO results form')
    found: dict[int | str, list[list[float]]] = defaultdict(list)
    for number, entry in enumerate(content):
        try:
            key = entry['image_id'] if 'image_id' in entry else osp.normpath(entry['file_name'])
            x, y, width, height = (float(value) for value in entry['bbox'])
            score = float(entry.get('score', 1.0))
        except (KeyError, TypeError, ValueError) as error:
            raise AnnotationError(
                f'{path}: entry {number} is no detection with image_id and bbox ({error!r})'
            ) from error
        boxes = found[key]  # an image whose boxes all score low has been looked at
        if entry.get('category_id', 1) == 1 and score > bbox_thr:
            boxes.append([x, y, x + width, y + height, score])
    return {key: np.array(boxes, np.float32).reshape(-1, 5) for key, boxes in found.items()}


def assign_bboxes(
    paths: Sequence[str], found: Mapping[int | str, np.ndarray], image_ids: ImageIds
) -> list[np.ndarray]:
    """Give every path its boxes; one that the file does not name has none.

    Raises:
        AnnotationError: The file names none of the paths.
    """
    by_name = ImageIds([{'file_name': key, 'id': key} for key in found if isinstance(key, str)])
    assigned, known = [], 0
    for path in paths:
        key = by_name.find(path)
        key = image_ids.find(path) if key is None else key
        known += key in found
        assigned.append(found.get(key, np.zeros((0, 5), np.float32)))
    if not known:
        raise AnnotationError(
            'the box file names none of the images; it does so by file_name, or by the image_id '
            'that the annotation file gives or that a file name is'
        )
    return assigned


def evaluate(
    annotations: str,
    results: Iterable[Mapping[str, Any]],
    image_ids: Sequence[int],
    sigmas: Sequence[float],
    scoring: ScoringOptions,
) -> dict[str, float]:
    """Average precision and recall by object keypoint similarity.

    Args:
        annotations: Path of a COCO keypoint annotation file.
        results: COCO keypoint results.
        image_ids: Images that were run; others of the file do not count.
        sigmas: Per-keypoint constants, (K,), of the model's dataset.
        scoring: Suppression of instances before the evaluation.

    Returns:
        ``AP``, ``AP50``, ``AP75``, ``AP(M)``, ``AP(L)`` and the same of ``AR``.

    Raises:
        AnnotationError: xtcocotools is missing, or keypoints differ in number.
    """
    try:
        from xtcocotools.coco import COCO
        from xtcocotools.cocoeval import COCOeval
    except ImportError as error:
        raise AnnotationError(
            "evaluation needs xtcocotools: pip install 'mmpose-batch[coco]'"
        ) from error
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result['image_id']].append(dict(result))
    kept = [r for group in by_image.values() for r in _suppress(group, sigmas, scoring)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        truth = COCO(annotations)
        counts = {len(a['keypoints']) // 3 for a in truth.anns.values() if 'keypoints' in a}
        if counts != {len(sigmas)}:
            raise AnnotationError(
                f'{annotations}: expected {len(sigmas)} keypoints as the model has, found '
                f'{sorted(counts)}'
            )
        detected = truth.loadRes(kept) if kept else COCO()
        evaluator = COCOeval(truth, detected, 'keypoints', np.asarray(sigmas), use_area=True)
        evaluator.params.imgIds = sorted(image_ids)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    names = [
        f'{metric}{kind}' for metric in ('AP', 'AR') for kind in ('', '50', '75', '(M)', '(L)')
    ]
    return {name: float(value) for name, value in zip(names, evaluator.stats, strict=True)}


def _suppress(
    group: list[dict[str, Any]], sigmas: Sequence[float], scoring: ScoringOptions
) -> list[dict[str, Any]]:
    if scoring.nms_mode == 'none':
        return group
    instances = []
    for result in group:
        points = np.asarray(result['keypoints']).reshape(-1, 3)
        width, height = np.ptp(points[:, :2], axis=0)
        instances.append({'keypoints': points, 'score': result['score'], 'area': width * height})
    suppress = oks_nms if scoring.nms_mode == 'oks_nms' else soft_oks_nms
    return [group[i] for i in suppress(instances, scoring.nms_thr, sigmas=np.asarray(sigmas))]


def _read_json(path: str) -> Any:
    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except OSError as error:
        raise AnnotationError(f'{path}: cannot be read: {error.strerror}') from error
    except ValueError as error:
        raise AnnotationError(f'{path}: expected JSON, found {error}') from error
