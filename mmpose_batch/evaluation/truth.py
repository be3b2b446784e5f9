"""Selects the annotations that a model is evaluated against, or the reason why there are none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import AnnotationError
from .annotations import ImageIds, examples, owners, read_annotations
from .metric import PARTS, ScoringOptions, coco_classes


@dataclass(frozen=True, slots=True)
class Truth:
    """The annotations that a model is evaluated against.

    Attributes:
        images: All images of the file: ``id``, and ``crowdIndex`` if the metric reads it.
        categories: Name of each category that is evaluated, by its id; empty if no category has
            keypoints.
        annotations: Annotations of these categories with keypoints, crowds and persons without
            a labelled keypoint included: detections there count neither as right nor as wrong.
        skipped: Number of unused annotations for each reason.
        reason: Why nothing can be evaluated; None if something can.
    """

    images: list[dict[str, Any]]
    categories: dict[int, str] = field(default_factory=dict)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    reason: str | None = None


_DEFAULTS = ScoringOptions()


def read_truth(path: str, num_keypoints: int, scoring: ScoringOptions = _DEFAULTS) -> Truth:
    """Read annotations and select those that a model is evaluated against.

    Raises:
        AnnotationError: The file cannot be used, see :func:`read_annotations` and
            :func:`check_annotations`.
    """
    content = read_annotations(path, scoring.reads)
    return check_annotations(content, num_keypoints, path, scoring)


def check_annotations(
    content: Mapping[str, Any],
    num_keypoints: int,
    path: str = 'annotations',
    scoring: ScoringOptions = _DEFAULTS,
) -> Truth:
    """Select the annotations that a model is evaluated against, as upstream's dataset does.

    Args:
        content: Result of :func:`read_annotations`.
        num_keypoints: Number of keypoints of the model.
        path: Path of the file, for errors.
        scoring: The metric.

    Returns:
        The annotations of all categories with the model's number of keypoints; if exactly one
        of these is called person, only of that one.

    Raises:
        AnnotationError: No category has the model's number of keypoints, or an annotation has
            another number than its category.
    """
    images = [
        {name: image[name] for name in ('id', 'crowdIndex') if name in ('id', *scoring.reads)}
        for image in content['images']
    ]
    entries = content['annotations']
    labelled = [entry for entry in entries if entry.get('keypoints')]
    without = len(entries) - len(labelled)
    if not content['categories'] or not labelled:
        reason = 'no annotation has keypoints' if entries else 'the file has no annotations'
        reason = reason if content['categories'] else 'the file has no categories'
        return Truth(images, skipped=_counted(without_keypoints=without), reason=reason)
    expected = PARTS if scoring.whole_body else {'keypoints': num_keypoints}
    categories = _evaluated_categories(content, labelled, expected['keypoints'], path)
    _check_counts(entries, categories, expected, path)
    selected = [
        _for_evaluation(entry, scoring) for entry in labelled if entry['category_id'] in categories
    ]
    skipped = _counted(
        without_keypoints=without + sum(not _is_labelled(entry) for entry in selected),
        of_another_category=len(labelled) - len(selected),
    )
    return Truth(images, categories, selected, skipped)


def _check_counts(
    entries: Sequence[Mapping[str, Any]],
    categories: Mapping[int, str],
    expected: Mapping[str, int],
    path: str,
) -> None:
    """Check that selected annotations have the model's number of keypoints, in each part.

    Raises:
        AnnotationError: One has another number.
    """
    for number, entry in enumerate(entries):
        if entry['category_id'] not in categories or not entry.get('keypoints'):
            continue
        for name, count in expected.items():
            found = len(entry[name]) // 3
            if found != count:
                raise AnnotationError(
                    f'{path}: annotations[{number}]: {name}: expected {count} as the model has, '
                    f'found {found}'
                )


def _is_labelled(entry: Mapping[str, Any]) -> bool:
    """Whether a selected annotation has a labelled keypoint, by the rule of COCO's evaluation."""
    if 'num_keypoints' in entry:
        return entry['num_keypoints'] > 0
    return any(value > 0 for name in PARTS for value in entry.get(name, ())[2::3])


def _counted(**counts: int) -> dict[str, int]:
    return {name.replace('_', ' '): count for name, count in counts.items() if count}


def _evaluated_categories(
    content: Mapping[str, Any],
    labelled: Sequence[Mapping[str, Any]],
    num_keypoints: int,
    path: str,
) -> dict[int, str]:
    """The categories whose annotations have the model's number of keypoints.

    Raises:
        AnnotationError: There is none.
    """
    counts = {(entry['category_id'], len(entry['keypoints']) // 3) for entry in labelled}
    fitting = {category for category, count in counts if count == num_keypoints}
    if not fitting:
        raise AnnotationError(
            f'{path}: expected {num_keypoints} keypoints as the model has, '
            f'found {sorted({count for _, count in counts})}'
        )
    names = {c['id']: c.get('name', '') for c in content['categories'] if c['id'] in fitting}
    people = {number: name for number, name in names.items() if name.lower() == 'person'}
    return people if len(people) == 1 else dict(sorted(names.items()))


def _for_evaluation(entry: Mapping[str, Any], scoring: ScoringOptions) -> dict[str, Any]:
    """Only the fields that COCO's evaluation reads, so that no other field can break it."""
    names = ('id', 'image_id', 'category_id', 'bbox', 'keypoints')
    more = (name for name in scoring.reads if name in entry)
    return {name: entry[name] for name in (*names, *more)} | {
        'iscrowd': int(entry.get('iscrowd', 0))
    }


def keypoint_categories(content: Mapping[str, Any]) -> set[int]:
    """Ids of all categories that have an annotation with keypoints, any number of them."""
    return {entry['category_id'] for entry in content['annotations'] if entry.get('keypoints')}


def check_images(paths: Sequence[str], image_ids: ImageIds, file: str = 'annotations') -> None:
    """Check before a run that at least one of its images can be evaluated.

    Args:
        paths: Paths of the images.
        image_ids: Finds ids in the annotation file.
        file: Path of that file, for errors.

    Raises:
        AnnotationError: xtcocotools is missing, no image is annotated, or two inputs match
            one image of the file.
    """
    coco_classes()
    if not owners(paths, image_ids.all_of, file):
        name = next((f'file_name {name!a}' for name in image_ids.names.values()), None)
        raise AnnotationError(
            f'{file}: no annotation entry matches an input, by file_name{examples(name, paths)}'
        )


def check_metric(scoring: ScoringOptions) -> None:
    """Check that a metric evaluates keypoints in the model's order, without converting them.

    Raises:
        AnnotationError: It converts them.
    """
    if scoring.converters:
        raise AnnotationError(
            f'annotations: AP needs a metric without {" and ".join(scoring.converters)}: '
            'keypoints are evaluated as the model outputs them'
        )


def check_model(scoring: ScoringOptions, sigmas: Sequence[float], num_keypoints: int) -> None:
    """Check that a metric can evaluate a model.

    Args:
        scoring: The metric.
        sigmas: COCO's constants of the keypoints of the model's dataset, (K,).
        num_keypoints: Number of keypoints of the model.

    Raises:
        AnnotationError: It cannot, since the numbers of keypoints differ.
    """
    if scoring.whole_body and num_keypoints != sum(PARTS.values()):
        raise AnnotationError(
            f'annotations: CocoWholeBodyMetric evaluates {sum(PARTS.values())} keypoints, the '
            f'model has {num_keypoints}'
        )
    if len(sigmas) != num_keypoints:
        raise AnnotationError(
            f'annotations: AP needs {num_keypoints} sigmas in the dataset_meta of the model, one '
            f'for each keypoint, found {len(sigmas)}'
        )


def why_no_ap(truth: Truth, image_ids: Iterable[int]) -> str | None:
    """Why AP over these images is undefined; None if it is defined."""
    images = set(image_ids)
    people = [entry for entry in truth.annotations if entry['image_id'] in images]
    if truth.reason is not None:
        return truth.reason
    if not people:
        return f'no person with keypoints is annotated in the {len(images)} evaluated images'
    seen = [entry for entry in people if _is_labelled(entry)]
    if not seen:
        return f'no keypoint of the {len(people)} persons is labelled'
    if all(entry['iscrowd'] for entry in seen):
        return f'all {len(seen)} persons with labelled keypoints are crowds'
    return None
