"""AP and AR of a run against COCO annotations, and how many of its images they judge."""

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmengine.config import Config
from mmpose.evaluation.functional import oks_nms, soft_oks_nms

from .annotations import (
    AnnotationError,
    ImageIds,
    PersonBoxes,
    assign_bboxes,
    owners,
    read_annotations,
    read_bboxes,
)
from .models import type_name

__all__ = [
    'METRICS',
    'AnnotationError',
    'Coverage',
    'Evaluation',
    'ImageIds',
    'PersonBoxes',
    'ScoringOptions',
    'Truth',
    'assign_bboxes',
    'check_annotations',
    'check_images',
    'check_sigmas',
    'drop_duplicates',
    'evaluate',
    'not_judged',
    'read_annotations',
    'read_bboxes',
    'read_truth',
]

METRICS = tuple(f'{kind}{part}' for kind in ('AP', 'AR') for part in ('', '50', '75', '(M)', '(L)'))


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
        evaluator = cfg.get('test_evaluator') or {}
        metrics = evaluator if isinstance(evaluator, Sequence) else [evaluator]
        for metric in metrics:
            if type_name(metric.get('type')) == 'CocoMetric':
                return cls(**{key: metric[key] for key in cls.__slots__ if key in metric})
        return cls()


# ---------------------------------------------------------------------- what can be judged


@dataclass(frozen=True, slots=True)
class Truth:
    """The annotations that a model is judged with.

    Attributes:
        images: Ids of all images of the file.
        category: The category judged; None where the file has none with keypoints.
        annotations: Those of this category that have keypoints. Among them are crowds and persons
            without a labelled keypoint: detections there count neither as right nor as wrong.
        skipped: For each reason why annotations judge nothing, their number.
        reason: Why nothing at all can be judged; None if something can.
    """

    images: list[int]
    category: int | None
    annotations: list[dict[str, Any]]
    skipped: dict[str, int]
    reason: str | None = None


def read_truth(path: str, num_keypoints: int) -> Truth:
    """Read annotations and select those that judge a model.

    Raises:
        AnnotationError: The file cannot be used, see :func:`read_annotations` and
            :func:`check_annotations`.
    """
    return check_annotations(read_annotations(path), num_keypoints, path)


def check_annotations(
    content: Mapping[str, Any], num_keypoints: int, path: str = 'annotations'
) -> Truth:
    """Select the annotations that judge a model, as upstream's dataset does.

    Args:
        content: As :func:`read_annotations` returns it.
        num_keypoints: Of the model.
        path: The file, for errors.

    Returns:
        The annotations of the one category whose keypoints are as many as the model's. Of
        several such categories, the one that is called person.

    Raises:
        AnnotationError: Keypoints differ in number, or the category is not clear.
    """
    images = [image['id'] for image in content['images']]
    entries = content['annotations']
    labelled = [entry for entry in entries if entry.get('keypoints')]
    without = len(entries) - len(labelled)
    if not content['categories'] or not labelled:
        reason = 'no annotation has keypoints' if entries else 'the file has no annotations'
        reason = reason if content['categories'] else 'the file has no categories'
        return Truth(images, None, [], _counted(without_keypoints=without), reason)
    category = _judged_category(content, labelled, num_keypoints, path)
    for number, entry in enumerate(entries):
        found = len(entry.get('keypoints') or ()) // 3
        if entry['category_id'] == category and found not in (0, num_keypoints):
            raise AnnotationError(
                f'{path}: annotations[{number}]: keypoints: expected {num_keypoints} as the model '
                f'has, found {found}'
            )
    selected = [_for_evaluation(entry) for entry in labelled if entry['category_id'] == category]
    skipped = _counted(
        without_keypoints=without + sum(not _is_labelled(entry) for entry in selected),
        of_another_category=len(labelled) - len(selected),
    )
    return Truth(images, category, selected, skipped)


def _is_labelled(entry: Mapping[str, Any]) -> bool:
    """Whether a visibility of the annotation says so, as in COCO's evaluation."""
    return any(value > 0 for value in entry['keypoints'][2::3])


def _counted(**counts: int) -> dict[str, int]:
    return {name.replace('_', ' '): count for name, count in counts.items() if count}


def _judged_category(
    content: Mapping[str, Any],
    labelled: Sequence[Mapping[str, Any]],
    num_keypoints: int,
    path: str,
) -> int:
    """The category whose annotations have the model's number of keypoints.

    Raises:
        AnnotationError: None has, or several have and not one of them is called person.
    """
    counts = {(entry['category_id'], len(entry['keypoints']) // 3) for entry in labelled}
    fitting = {category for category, count in counts if count == num_keypoints}
    if not fitting:
        raise AnnotationError(
            f'{path}: expected {num_keypoints} keypoints as the model has, '
            f'found {sorted({count for _, count in counts})}'
        )
    people = {c['id'] for c in content['categories'] if c.get('name', '').lower() == 'person'}
    chosen = fitting if len(fitting) == 1 else fitting & people
    if len(chosen) != 1:
        raise AnnotationError(
            f'{path}: expected one category with keypoints, or one of them called person, '
            f'found {sorted(fitting)}'
        )
    return chosen.pop()


def _for_evaluation(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What COCO's evaluation reads of an annotation, so that nothing else can disturb it."""
    names = ('id', 'image_id', 'category_id', 'bbox', 'area', 'keypoints')
    return {name: entry[name] for name in names} | {'iscrowd': int(entry.get('iscrowd', 0))}


def check_images(paths: Sequence[str], image_ids: ImageIds) -> None:
    """Check before a run whether any of its images can be judged.

    Raises:
        AnnotationError: xtcocotools is missing, no image is annotated, or two inputs are
            one image of the file.
    """
    _xtcocotools()

    def find(path: str) -> Iterator[int]:
        image_id = image_ids.find(path)
        if image_id is not None:
            yield image_id

    if not owners(paths, find):
        raise AnnotationError('annotations: none of the images is in them, by file_name')


def check_sigmas(sigmas: Sequence[float], num_keypoints: int) -> None:
    """Check that the model's dataset says how precisely each keypoint can be annotated.

    Raises:
        AnnotationError: It does not, so similarity is not defined.
    """
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


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of a run's images the annotations judge.

    Attributes:
        images: Inputs of the run.
        judged: Of these, those with an entry in the annotation file.
        entries: Images of the file.
        input_without_entry: Path of the first input that has none.
        entry_without_input: ``file_name`` of the first entry that is no input.
    """

    images: int
    judged: int
    entries: int
    input_without_entry: str | None = None
    entry_without_input: str | None = None

    @classmethod
    def of(
        cls, paths: Sequence[str], ids: Sequence[int | None], names: Mapping[int, str]
    ) -> 'Coverage':
        """Compare inputs with entries.

        Args:
            paths: Of the inputs.
            ids: Their image ids; None for those without an entry.
            names: ``file_name`` of each id of the annotation file.
        """
        found = {image_id for image_id in ids if image_id is not None}
        judged = sum(image_id is not None for image_id in ids)
        missed = (path for path, image_id in zip(paths, ids, strict=True) if image_id is None)
        unused = (name for image_id, name in names.items() if image_id not in found)
        return cls(len(paths), judged, len(names), next(missed, None), next(unused, None))

    def line(self) -> str:
        """The count alone."""
        return f'{self.judged} of {self.images} images'

    def warning(self) -> str | None:
        """What is not judged, with an example of each side; None if all images are."""
        if self.judged == self.images:
            return None
        unused = self.entry_without_input
        other = '' if unused is None else f'; an entry without an input: {unused!a}'
        return (
            f'{self.images - self.judged} of {self.images} images have no entry in the '
            f'annotation file and are not judged, such as {self.input_without_entry!a}{other}'
        )


@dataclass(slots=True)
class Evaluation:
    """The result of judging a run.

    Attributes:
        coverage: Which images are judged.
        category: The category judged, if any.
        skipped: For each reason why annotations judge nothing, their number.
        not_judged: Why there is no AP; None if there is.
        left_out: Persons of images without an entry, which are not in
            ``predictions.coco.json``: COCO's tools reject a file of other images.
        suppressed: Persons that lie on others, which upstream's metric drops from its file too.
        metrics: As :func:`evaluate` returns them.
    """

    coverage: Coverage
    category: int | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    not_judged: str | None = 'the run is not finished'
    left_out: int = 0
    suppressed: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The part of the closing summary that is about annotations."""
        yield f'judged    {self.coverage.line()}'
        if (warning := self.coverage.warning()) is not None:
            yield f'warning   {warning}'
        for count, reason in (
            (self.left_out, 'of images without an entry'),
            (self.suppressed, "suppressed as upstream's metric does"),
        ):
            if count:
                yield f'left out  {count} persons {reason}: in predictions.jsonl only'
        if self.skipped:
            reasons = ', '.join(f'{count} {reason}' for reason, count in self.skipped.items())
            yield f'skipped   annotations: {reasons}'
        if self.not_judged is not None:
            yield f'AP        not judged: {self.not_judged}'
            return
        for name, value in self.metrics.items():
            shown = 'not judged: no person of this size' if value is None else f'{value:.4f}'
            yield f'{name:<9} {shown}'

    def to_json(self) -> dict[str, Any]:
        """What ``run.json`` stores, besides the metrics."""
        coverage = self.coverage
        return {
            'images': coverage.images,
            'judged': coverage.judged,
            'input_without_entry': coverage.input_without_entry,
            'entry_without_input': coverage.entry_without_input,
            'category_id': self.category,
            'skipped_annotations': self.skipped,
            'persons_without_entry': self.left_out,
            'persons_suppressed': self.suppressed,
            'not_judged': self.not_judged,
        }


# ------------------------------------------------------------------------------- AP and AR


def evaluate(
    annotations: str | Truth,
    results: Iterable[Mapping[str, Any]],
    image_ids: Sequence[int],
    sigmas: Sequence[float],
    scoring: ScoringOptions,
) -> dict[str, float | None]:
    """Average precision and recall by object keypoint similarity.

    Args:
        annotations: What :func:`read_truth` returns, or the path of the file.
        results: COCO keypoint results; instances are all of the category judged.
        image_ids: Images that were run; others of the file do not count.
        sigmas: Per-keypoint constants, (K,), of the model's dataset.
        scoring: Suppression of instances before the evaluation.

    Returns:
        :data:`METRICS` and their values; None where no person could be judged.

    Raises:
        AnnotationError: xtcocotools is missing, or the file cannot be used.
    """
    truth = annotations
    if isinstance(truth, str):
        truth = read_truth(truth, len(sigmas))
    if not_judged(truth, image_ids) is not None:
        return dict.fromkeys(METRICS)
    kept = drop_duplicates(results, sigmas, scoring)
    stats = _coco_stats(truth, kept, sorted(image_ids), np.asarray(sigmas))
    # COCO's mark of a size that no person has.
    return {
        name: None if value == -1 else float(value)
        for name, value in zip(METRICS, stats, strict=True)
    }


def _coco_stats(
    truth: Truth, results: Sequence[Mapping[str, Any]], images: list[int], sigmas: np.ndarray
) -> np.ndarray:
    """COCO's ten numbers, in the order of :data:`METRICS`."""
    COCO, COCOeval = _xtcocotools()
    dataset = {
        'images': [{'id': image_id} for image_id in truth.images],
        # COCO's tools take an id of -1, and pycocotools 0, for one that is not matched.
        'annotations': [{**entry, 'id': n} for n, entry in enumerate(truth.annotations, 1)],
        'categories': [{'id': truth.category}],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        expected = _index(COCO(), dataset)
        if results:
            detected = expected.loadRes([{**r, 'category_id': truth.category} for r in results])
        else:  # which loadRes cannot do
            detected = _index(COCO(), {**dataset, 'annotations': []})
        evaluator = COCOeval(expected, detected, 'keypoints', sigmas, use_area=True)
        evaluator.params.imgIds = images
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


def _index(coco: Any, dataset: dict[str, Any]) -> Any:
    coco.dataset = dataset
    coco.createIndex()
    return coco


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


def drop_duplicates(
    results: Iterable[Mapping[str, Any]], sigmas: Sequence[float], scoring: ScoringOptions
) -> list[Mapping[str, Any]]:
    """Drop instances that lie on others of their image, as upstream's metric does first.

    Args:
        results: COCO keypoint results.
        sigmas: Per-keypoint constants, (K,).
        scoring: Which suppression.

    Returns:
        Results that remain, image by image.
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
    instances = []
    for result in group:
        points = np.asarray(result['keypoints']).reshape(-1, 3)
        width, height = np.ptp(points[:, :2], axis=0)
        instances.append({'keypoints': points, 'score': result['score'], 'area': width * height})
    suppress = oks_nms if scoring.nms_mode == 'oks_nms' else soft_oks_nms
    return [group[i] for i in suppress(instances, scoring.nms_thr, sigmas=np.asarray(sigmas))]
