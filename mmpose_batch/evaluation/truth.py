"""What an annotation file judges a model with, and why it may judge nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import AnnotationError
from .annotations import ImageIds, examples, owners, read_annotations
from .metric import PARTS, ScoringOptions, coco_classes


@dataclass(frozen=True, slots=True)
class Truth:
    """The annotations that a model is judged with.

    Attributes:
        images: Of the file: ``id``, and ``crowdIndex`` where the metric reads it.
        categories: Name of each category judged, by its id; empty where the file has none with
            keypoints.
        annotations: Those of these categories that have keypoints. Among them are crowds and
            persons without a labelled keypoint: detections there count neither as right nor as
            wrong.
        skipped: For each reason why annotations judge nothing, their number.
        reason: Why nothing at all can be judged; None if something can.
    """

    images: list[dict[str, Any]]
    categories: dict[int, str] = field(default_factory=dict)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    reason: str | None = None


_DEFAULTS = ScoringOptions()


def read_truth(path: str, num_keypoints: int, scoring: ScoringOptions = _DEFAULTS) -> Truth:
    """Read annotations and select those that judge a model.

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
    """Select the annotations that judge a model, as upstream's dataset does.

    Args:
        content: As :func:`read_annotations` returns it.
        num_keypoints: Of the model.
        path: The file, for errors.
        scoring: The metric.

    Returns:
        The annotations of the categories whose keypoints are as many as the model's. Of
        several such categories, the one that is called person, if one is.

    Raises:
        AnnotationError: Keypoints differ in number.
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
    categories = _judged_categories(content, labelled, expected['keypoints'], path)
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
    """See that judged annotations have the model's number of keypoints, in each part.

    Raises:
        AnnotationError: One has not.
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
    """Whether a keypoint of a selected annotation is labelled, as in COCO's evaluation."""
    if 'num_keypoints' in entry:
        return entry['num_keypoints'] > 0
    return any(value > 0 for name in PARTS for value in entry.get(name, ())[2::3])


def _counted(**counts: int) -> dict[str, int]:
    return {name.replace('_', ' '): count for name, count in counts.items() if count}


def _judged_categories(
    content: Mapping[str, Any],
    labelled: Sequence[Mapping[str, Any]],
    num_keypoints: int,
    path: str,
) -> dict[int, str]:
    """The categories whose annotations have the model's number of keypoints.

    Raises:
        AnnotationError: None has.
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
    """What COCO's evaluation reads of an annotation, so that nothing else can disturb it."""
    names = ('id', 'image_id', 'category_id', 'bbox', 'keypoints')
    more = (name for name in scoring.reads if name in entry)
    return {name: entry[name] for name in (*names, *more)} | {
        'iscrowd': int(entry.get('iscrowd', 0))
    }


def keypoint_categories(content: Mapping[str, Any]) -> set[int]:
    """Ids of the categories of annotations with keypoints, whatever their number."""
    return {entry['category_id'] for entry in content['annotations'] if entry.get('keypoints')}


def check_images(paths: Sequence[str], image_ids: ImageIds, file: str = 'annotations') -> None:
    """Check before a run whether any of its images can be judged.

    Args:
        paths: Of the images.
        image_ids: Of the annotation file.
        file: It, for errors.

    Raises:
        AnnotationError: xtcocotools is missing, no image is annotated, or two inputs are
            one image of the file.
    """
    coco_classes()

    def find(path: str) -> Iterator[int]:
        image_id = image_ids.find(path)
        if image_id is not None:
            yield image_id

    if not owners(paths, find, file):
        name = next((f'file_name {name!a}' for name in image_ids.names.values()), None)
        raise AnnotationError(
            f'{file}: the annotations have none of the images, by file_name{examples(name, paths)}'
        )


def check_metric(scoring: ScoringOptions) -> None:
    """Check that a metric judges keypoints as the model has them.

    Raises:
        AnnotationError: It converts them first.
    """
    if scoring.converters:
        raise AnnotationError(
            f'annotations: AP needs a metric without {" and ".join(scoring.converters)}: '
            'keypoints are judged as the model has them'
        )


def check_model(scoring: ScoringOptions, sigmas: Sequence[float], num_keypoints: int) -> None:
    """Check that a metric can judge a model.

    Args:
        scoring: The metric.
        sigmas: Of the model's dataset: how precisely each keypoint can be annotated.
        num_keypoints: Of the model.

    Raises:
        AnnotationError: It cannot.
    """
    if scoring.whole_body and num_keypoints != sum(PARTS.values()):
        raise AnnotationError(
            f'annotations: CocoWholeBodyMetric judges {sum(PARTS.values())} keypoints, the model '
            f'has {num_keypoints}'
        )
    if len(sigmas) != num_keypoints:
        raise AnnotationError(
            f'annotations: AP needs {num_keypoints} sigmas in the dataset_meta of the model, one '
            f'of each keypoint, found {len(sigmas)}'
        )


def not_judged(truth: Truth, image_ids: Iterable[int]) -> str | None:
    """Why the AP over these images says nothing; None if it does say something."""
    images = set(image_ids)
    people = [entry for entry in truth.annotations if entry['image_id'] in images]
    if truth.reason is not None:
        return truth.reason
    if not people:
        return f'no person with keypoints is annotated in the {len(images)} images judged'
    seen = [entry for entry in people if _is_labelled(entry)]
    if not seen:
        return f'no keypoint of the {len(people)} persons is labelled'
    if all(entry['iscrowd'] for entry in seen):
        return f'all {len(seen)} persons with labelled keypoints are crowds'
    return None
