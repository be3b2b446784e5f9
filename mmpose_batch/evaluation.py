"""COCO annotations and boxes: which image they belong to, and AP and AR of a run."""

import contextlib
import io
import json
import os.path as osp
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.config import Config
from mmpose.evaluation.functional import oks_nms, soft_oks_nms

from .models import type_name

# What COCO's evaluation reads of every entry, and its types in JSON.
_NUMBER = (int, float)
_NEEDED = {
    'images': {'id': int, 'file_name': str},
    'annotations': {
        'id': int,
        'image_id': int,
        'category_id': int,
        'bbox': list,
        'area': _NUMBER,
        'keypoints': list,
    },
    'categories': {'id': int},
}
# JSON writers and COCO's tools take image numbers of 64 bits.
_MAX_ID = 2**63


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
            if type_name(metric.get('type')) == 'CocoMetric':
                return cls(**{key: metric[key] for key in cls.__slots__ if key in metric})
        return cls()


class ImageIds:
    """COCO's number of an image, found by its path.

    A path belongs to the image of the annotation file whose ``file_name`` its
    absolute form ends with; without an annotation file, to the number that its name is
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
            number = int(stem) if stem.isdecimal() else None
            return number if number is not None and number < _MAX_ID else None
        path = osp.abspath(path)
        candidates = self._by_name.get(osp.basename(path), [])
        fitting = [i for name, i in candidates if path.endswith(f'/{name}') or path == name]
        return fitting[0] if len(fitting) == 1 else None


def read_annotations(path: str) -> dict[str, Any]:
    """Read a COCO keypoint annotation file.

    Raises:
        AnnotationError: It is missing, no JSON, or lacks what the evaluation needs.
    """
    content = _read_json(path)
    if not isinstance(content, dict) or not _NEEDED.keys() <= content.keys():
        raise AnnotationError(f'{path}: expected COCO annotations with {", ".join(_NEEDED)}')
    for kind, fields in _NEEDED.items():
        if not isinstance(content[kind], list):
            raise AnnotationError(f'{path}: expected a list of {kind}')
        for number, entry in enumerate(content[kind]):
            wrong = [
                name
                for name, types in fields.items()
                if not isinstance(entry, dict) or not isinstance(entry.get(name), types)
            ]
            if wrong:
                raise AnnotationError(f'{path}: {kind}[{number}] has no valid {", ".join(wrong)}')
    for number, entry in enumerate(content['annotations']):
        bbox, keypoints = entry['bbox'], entry['keypoints']
        if len(bbox) != 4 or len(keypoints) % 3 or not _are_numbers(bbox + keypoints):
            raise AnnotationError(
                f'{path}: annotations[{number}]: expected a bbox of 4 numbers and keypoints of '
                '3 numbers each'
            )
    return content


def _are_numbers(values: list) -> bool:
    return all(isinstance(value, _NUMBER) for value in values)


def check_annotations(
    content: Mapping[str, Any], paths: Sequence[str], image_ids: ImageIds, num_keypoints: int
) -> None:
    """Find out before a run whether annotations can judge it.

    Args:
        content: As :func:`read_annotations` returns it.
        paths: Of the images.
        image_ids: Made from the annotations.
        num_keypoints: Of the model.

    Raises:
        AnnotationError: xtcocotools is missing, keypoints differ in number, persons
            are of several categories, or images are not annotated or annotated twice.
    """
    _xtcocotools()
    counts = {len(entry['keypoints']) // 3 for entry in content['annotations']}
    if counts != {num_keypoints}:
        raise AnnotationError(
            f'annotations: expected {num_keypoints} keypoints as the model has, '
            f'found {sorted(counts)}'
        )
    categories = {entry['category_id'] for entry in content['annotations']}
    if len(categories) > 1:
        raise AnnotationError(f'annotations: expected one category, found {sorted(categories)}')
    if not _owners(paths, image_ids.find):
        raise AnnotationError('annotations: none of the images is in them, by file_name')


def _owners(paths: Sequence[str], find: Callable[[str], int | str | None]) -> dict[int | str, str]:
    """The path that each number or name belongs to, of those that belong to any.

    Raises:
        AnnotationError: Two paths share one, so one of them would get what is another's.
    """
    owners: dict[int | str, str] = {}
    for path in paths:
        key = find(path)
        if key is None:
            continue
        if key in owners:
            raise AnnotationError(
                f'expected one input for image {key} of the file, found {owners[key]} and {path}'
            )
        owners[key] = path
    return owners


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
            boxes = found[key]  # an image whose boxes all score low has been looked at
            x, y, width, height = (float(value) for value in entry['bbox'])
            score = float(entry.get('score', 1.0))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise AnnotationError(
                f'{path}: expected image_id or file_name, bbox (x, y, width, height) and score '
                f'in entry {number}, found {entry!s:.200}'
            ) from error
        # A score of NaN stays, for the record that says so.
        if entry.get('category_id', 1) == 1 and not score <= bbox_thr:
            boxes.append([x, y, x + width, y + height, score])
    return {key: np.array(boxes, np.float32).reshape(-1, 5) for key, boxes in found.items()}


def assign_bboxes(
    paths: Sequence[str], found: Mapping[int | str, np.ndarray], image_ids: ImageIds
) -> list[np.ndarray]:
    """Give every path its boxes; one that the file does not name has none.

    Raises:
        AnnotationError: The file names none of the paths, or one name fits two.
    """
    by_name = ImageIds([{'file_name': key, 'id': key} for key in found if isinstance(key, str)])

    def find(path: str) -> int | str | None:
        key = by_name.find(path)
        key = image_ids.find(path) if key is None else key
        return key if key in found else None

    owners = _owners(paths, find)
    if not owners:
        raise AnnotationError(
            'the box file names none of the images; it does so by file_name, or by the image_id '
            'that the annotation file gives or that a file name is'
        )
    by_path = {path: found[key] for key, path in owners.items()}
    return [by_path.get(path, np.zeros((0, 5), np.float32)) for path in paths]


def evaluate(
    annotations: str,
    results: Iterable[Mapping[str, Any]],
    image_ids: Sequence[int],
    sigmas: Sequence[float],
    scoring: ScoringOptions,
) -> dict[str, float]:
    """Average precision and recall by object keypoint similarity.

    Args:
        annotations: Path of a file that :func:`check_annotations` passed.
        results: COCO keypoint results.
        image_ids: Images that were run; others of the file do not count.
        sigmas: Per-keypoint constants, (K,), of the model's dataset.
        scoring: Suppression of instances before the evaluation.

    Returns:
        ``AP``, ``AP50``, ``AP75``, ``AP(M)``, ``AP(L)`` and the same of ``AR``.

    Raises:
        AnnotationError: xtcocotools is missing, or the file is gone.
    """
    COCO, COCOeval = _xtcocotools()
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result['image_id']].append(result)
    kept = [r for group in by_image.values() for r in _suppress(group, sigmas, scoring)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        try:
            truth = COCO(annotations)
        except OSError as error:
            raise AnnotationError(f'{annotations}: cannot be read: {error.strerror}') from error
        category = truth.dataset['annotations'][0]['category_id']
        if kept:
            detected = truth.loadRes([{**result, 'category_id': category} for result in kept])
        else:  # which loadRes cannot do
            detected = COCO()
            detected.dataset = {**truth.dataset, 'annotations': []}
            detected.createIndex()
        evaluator = COCOeval(truth, detected, 'keypoints', np.asarray(sigmas), use_area=True)
        evaluator.params.imgIds = sorted(image_ids)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    names = [
        f'{metric}{kind}' for metric in ('AP', 'AR') for kind in ('', '50', '75', '(M)', '(L)')
    ]
    return {name: float(value) for name, value in zip(names, evaluator.stats, strict=True)}


def _xtcocotools() -> tuple[type, type]:
    """COCO's classes, from a package that an inference without annotations does not need."""
    try:
        from xtcocotools.coco import COCO
        from xtcocotools.cocoeval import COCOeval
    except (ImportError, ValueError) as error:  # ValueError: compiled for another numpy
        raise AnnotationError(
            f"evaluation needs xtcocotools ({error}): pip install 'mmpose-batch[coco]'"
        ) from error
    return COCO, COCOeval


def _suppress(
    group: list[Mapping[str, Any]], sigmas: Sequence[float], scoring: ScoringOptions
) -> list[Mapping[str, Any]]:
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
