"""AP and AR of COCO keypoint results, as upstream's ``CocoMetric`` computes them."""

import contextlib
import io
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmpose.evaluation.functional import oks_nms, soft_oks_nms

from .metric import PARTS, ScoringOptions, coco_classes
from .truth import Truth, read_truth, why_no_ap

#: COCO's ten metrics, in its order.
BY_SIZE = tuple(f'{kind}{part}' for kind in ('AP', 'AR') for part in ('', '50', '75', '(M)', '(L)'))
#: CrowdPose's nine metrics: easy, medium and hard images have few, some and many people close by.
BY_CROWDING = ('AP', 'AP50', 'AP75', 'AR', 'AR50', 'AR75', 'AP(E)', 'AP(M)', 'AP(H)')
# Parts of a whole body, the whole body last: xtcocotools' iouType, and prefix of the metric.
_BODY = {
    'keypoints_body': 'body ',
    'keypoints_foot': 'foot ',
    'keypoints_face': 'face ',
    'keypoints_lefthand': 'left hand ',
    'keypoints_righthand': 'right hand ',
    'keypoints_wholebody': '',
}


def metric_names(scoring: ScoringOptions) -> tuple[str, ...]:
    """Names of the metrics of :func:`evaluate`; those of a whole body have no prefix."""
    if scoring.whole_body:
        return tuple(part + name for part in _BODY.values() for name in BY_SIZE)
    return BY_CROWDING if scoring.crowd else BY_SIZE


def evaluate(
    annotations: str | Truth,
    results: Iterable[Mapping[str, Any]],
    image_ids: Sequence[int],
    sigmas: Sequence[float],
    scoring: ScoringOptions,
) -> dict[str, float | None]:
    """Average precision and recall by object keypoint similarity.

    Args:
        annotations: The result of :func:`read_truth`, or the path of the file.
        results: COCO keypoint results; if one category is evaluated, all are taken as of it.
        image_ids: COCO ids of the images that were run; other images of the file are ignored.
        sigmas: Per-keypoint constants of the model's dataset, (K,).
        scoring: The metric, and its suppression of instances before the evaluation.

    Returns:
        Value of each of :func:`metric_names`; None where no person could be evaluated.

    Raises:
        AnnotationError: xtcocotools is missing, or the file cannot be used.
    """
    truth = annotations
    if isinstance(truth, str):
        truth = read_truth(truth, len(sigmas), scoring)
    names = metric_names(scoring)
    if why_no_ap(truth, image_ids) is not None:
        return dict.fromkeys(names)
    kept = [dict(result) for result in drop_duplicates(results, sigmas, scoring)]
    for result in kept:
        if len(truth.categories) == 1:
            result['category_id'] = next(iter(truth.categories))
        if scoring.whole_body:  # upstream's results have no box here, which would set their size
            result.pop('bbox', None)
    stats = _coco_stats(truth, kept, image_ids, np.asarray(sigmas), scoring)
    # COCO returns -1 where no person is of that size.
    return {n: None if value == -1 else value for n, value in zip(names, stats, strict=True)}


def _coco_stats(
    truth: Truth,
    results: list[dict[str, Any]],
    image_ids: Sequence[int],
    sigmas: np.ndarray,
    scoring: ScoringOptions,
) -> list[float]:
    """The metrics that xtcocotools computes, in the order of :func:`metric_names`."""
    COCO, COCOeval = coco_classes()
    dataset = {
        'images': truth.images,
        # COCO's tools use an id of -1, and pycocotools 0, for `not matched`.
        'annotations': [{**entry, 'id': n} for n, entry in enumerate(truth.annotations, 1)],
        'categories': [{'id': category} for category in truth.categories],
    }
    evaluated = set(image_ids)
    stats: list[float] = []
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about parts of a body, which have no score of their own
        expected = _index(COCO(), dataset)
        if results:
            detected = expected.loadRes(results)
        else:  # loadRes fails on an empty list
            detected = _index(COCO(), {**dataset, 'annotations': []})
        for kind, part in _parts(scoring, sigmas):
            evaluator = COCOeval(expected, detected, kind, part, use_area=scoring.use_area)
            evaluator.params.imgIds = sorted(evaluated)
            # It would read the annotation file again here, and evaluate all its images.
            evaluator.anno_file = (
                [image for image in truth.images if image['id'] in evaluated],
                None,
            )
            evaluator.split = _split
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
            stats += map(float, evaluator.stats)
    return stats


def _parts(scoring: ScoringOptions, sigmas: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Groups of keypoints that are evaluated separately: xtcocotools' name and their sigmas."""
    if not scoring.whole_body:
        yield scoring.iou_type, sigmas
        return
    ends = np.cumsum([0, *PARTS.values()])
    slices = [*map(slice, ends[:-1], ends[1:]), slice(None)]
    yield from ((kind, sigmas[part]) for kind, part in zip(_BODY, slices, strict=True))


def _split(images: Iterable[Mapping[str, Any]], first: float, second: float) -> tuple[list, ...]:
    """Ids of easy, medium and hard images, by the rule of xtcocotools' ``COCOeval.split``."""
    groups: tuple[list, ...] = ([], [], [])
    for image in images:
        crowding = image['crowdIndex']
        groups[(crowding >= first) + (crowding >= second)].append(image['id'])
    return groups


def _index(coco: Any, dataset: dict[str, Any]) -> Any:
    coco.dataset = dataset
    coco.createIndex()
    return coco


# ------------------------------------------------------------------------------ duplicates


def drop_duplicates(
    results: Iterable[Mapping[str, Any]], sigmas: Sequence[float], scoring: ScoringOptions
) -> list[Mapping[str, Any]]:
    """Suppress duplicate instances of each image, as upstream's metric does first.

    Args:
        results: COCO keypoint results.
        sigmas: Per-keypoint constants, (K,).
        scoring: The kind of suppression.

    Returns:
        The remaining results, grouped by image.
    """
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result['image_id']].append(result)
    return [r for group in by_image.values() for r in _suppress(group, sigmas, scoring)]


def _suppress(
    group: list[Mapping[str, Any]], sigmas: Sequence[float], scoring: ScoringOptions
) -> list[Mapping[str, Any]]:
    if scoring.nms_mode == 'none':
        return group
    poses = [
        np.concatenate([result[name] for name in PARTS if name in result]).reshape(-1, 3)
        for result in group
    ]
    instances = [
        {'keypoints': pose, 'score': result['score'], 'area': area}
        for result, pose, area in zip(group, poses, _areas(group, poses, scoring), strict=True)
    ]
    suppress = oks_nms if scoring.nms_mode == 'oks_nms' else soft_oks_nms
    return [group[i] for i in suppress(instances, scoring.nms_thr, sigmas=np.asarray(sigmas))]


def _areas(
    group: Sequence[Mapping[str, Any]], poses: Sequence[np.ndarray], scoring: ScoringOptions
) -> Iterable[float]:
    """Area of the crop of each instance; without crops, the area of its keypoints' extent."""
    if all('bbox' in result for result in group):
        areas = scoring.areas(np.array([result['bbox'] for result in group]))
        if areas is not None:
            return areas
    return [np.prod(np.ptp(pose[:, :2], axis=0)) for pose in poses]
