"""Evaluation of a run against COCO annotations: checks at its start, and AP at its end."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmengine.config import Config

from ..config import VideoOptions
from ..models.keypoints import Keypoints
from ..writers.jsonl import read_records
from .annotations import ImageIds, read_annotations
from .ap import drop_duplicates, evaluate, metric_names
from .categories import Categories
from .coco_results import to_coco
from .metric import ScoringOptions, other_metrics
from .result import Coverage, Evaluation
from .truth import (
    Truth,
    check_annotations,
    check_images,
    check_metric,
    check_model,
    keypoint_categories,
    read_truth,
    why_no_ap,
)


class Annotations:
    """Annotations for the evaluation of a run, checked as far as possible without its model.

    Args:
        path: Path of the annotation file.
        cfg: Config of the pose model, which names the metric.
        inputs: Paths of the run's images.

    Attributes:
        image_ids: COCO ids of images.
        several: Whether more than one category has keypoints. The model decides which of them
            are evaluated.

    Raises:
        AnnotationError: The file cannot be used, or none of its entries matches an input.
        ValueError: The config's metric has settings that are not supported.
    """

    def __init__(self, path: str, cfg: Config, inputs: Sequence[str]) -> None:
        self._path = path
        self._inputs = inputs
        self._scoring = ScoringOptions.from_config(cfg)
        self._others = other_metrics(cfg)
        check_metric(self._scoring)
        self._content = read_annotations(path, self._scoring.reads)
        self.image_ids = ImageIds(self._content['images'])
        check_images(inputs, self.image_ids, path)
        self.several = len(keypoint_categories(self._content)) > 1

    def select(self, keypoints: Keypoints) -> Truth:
        """Select the annotations that fit a model.

        Raises:
            AnnotationError: There are none, or the metric cannot evaluate the model.
        """
        num_keypoints = keypoints.num_keypoints
        truth = check_annotations(self._content, num_keypoints, self._path, self._scoring)
        check_model(self._scoring, keypoints.sigmas, num_keypoints)
        return truth

    def coverage_note(self) -> str:
        """How many of the inputs are evaluated, in one line."""
        return f'annotations: {self._coverage()[0].line()} are evaluated'

    def _coverage(self) -> tuple[Coverage, list[list[int]]]:
        ids = [self.image_ids.all_of(path) for path in self._inputs]
        return Coverage.of(self._inputs, ids, self.image_ids.names), ids

    def notes(self, truth: Truth, categories: Categories | None) -> Iterator[str]:
        """Lines about what will be evaluated and how, with warnings about missing entries or AP."""
        coverage, ids = self._coverage()
        yield self.coverage_note()
        if self._others:
            yield (
                f'annotations: AP is computed by CocoMetric with its defaults, because the config '
                f'uses {", ".join(self._others)}'
            )
        if categories is not None and categories.note:
            yield f'categories: {categories.note}'
        reason = why_no_ap(truth, {image_id for of_input in ids for image_id in of_input})
        reason = reason or (categories and categories.reason)
        for text in (coverage.warning(), reason and f'there will be no AP: {reason}'):
            if text is not None:
                yield f'warning: {text}'


def coco_ids(
    records: Iterable[Mapping[str, Any]],
    paths: Mapping[str, str],
    image_ids: ImageIds,
    annotated: bool,
) -> list[int | None]:
    """COCO id of every record of a run; None for records without one.

    Args:
        records: Records of the run.
        paths: Path of each image and video, by its name in the records.
        image_ids: Finds ids in annotations or in numeric names.
        annotated: Whether there are annotations. Without them, and if the names are not all
            different numbers, the id is the position of the record; so it is with videos.
    """
    ids: list[int | None] = []
    for record in records:
        if 'image' in record:
            ids.append(image_ids.find(paths[record['image']]))
        else:
            frame = record.get('frame')
            ids.append(None if frame is None else image_ids.find(paths[record['video']], frame))
    if not annotated and (None in ids or len(set(ids)) < len(ids)):
        return list(range(len(ids)))
    return ids


def lost_frames(
    records: Iterable[Mapping[str, Any]],
    paths: Mapping[str, str],
    image_ids: ImageIds,
    options: VideoOptions,
) -> list[int]:
    """COCO ids of the annotated frames that a run should have, and that have no record.

    They are all frames of a video that cannot be used, and those after the end of a truncated
    one. They are evaluated like frames without detections, as failed images are.

    Args:
        records: Records of the run.
        paths: Path of each video, by its name in the records.
        image_ids: Finds ids in the annotations.
        options: Which frames of videos are used. With a start or an end, the frames without a
            record are not known to be selected, and none are returned.
    """
    if options.start is not None or options.end is not None:
        return []
    last = {record['video']: record for record in records if 'video' in record}
    lost: list[int] = []
    for name, record in last.items():
        if 'error' not in record:
            continue
        after = record.get('frame', -1)
        lost += [
            image_id
            for frame, image_id in image_ids.frames(paths[name]).items()
            if frame is not None and frame > after and frame % options.vid_stride == 0
        ]
    return lost


class Evaluator:
    """Converts the records of a run to COCO results, and evaluates them against annotations.

    Args:
        cfg: Config of the pose model, which names the metric.
        keypoints: The keypoints that the model outputs.
        ann_file: Path of the annotations, if there are any.
        categories: How instances get a category, if several are evaluated.

    Raises:
        ValueError: The config's metric has settings that are not supported.
    """

    def __init__(
        self,
        cfg: Config,
        keypoints: Keypoints,
        ann_file: str | None = None,
        categories: Categories | None = None,
    ) -> None:
        self.scoring = ScoringOptions.from_config(cfg)
        self._sigmas = keypoints.sigmas
        self._num_keypoints = keypoints.num_keypoints
        self._ann_file = ann_file
        self._categories = categories

    def results(self, records: str, ids: Sequence[int | None]) -> Iterator[dict[str, Any]]:
        """Yield the COCO results of all persons of images with an id, without evaluation.

        Args:
            records: Path of ``predictions.jsonl``.
            ids: COCO id of each image; images with None are skipped.
        """
        for image_id, (record, _) in zip(ids, read_records(records), strict=True):
            if image_id is not None:
                yield from map(self._for_file, self._to_coco(record, image_id, 1))

    def evaluate(
        self,
        records: str,
        ids: Sequence[int | None],
        evaluation: Evaluation,
        lost: Sequence[int] = (),
    ) -> list[Mapping[str, Any]]:
        """Evaluate a run against its annotations.

        Args:
            records: Path of ``predictions.jsonl``.
            ids: COCO id of each image; None for images that are not evaluated.
            evaluation: Evaluation whose result this call fills in.
            lost: Further ids, of frames that have no record, see :func:`lost_frames`.

        Returns:
            The COCO results that were evaluated.

        Raises:
            AnnotationError: The file is gone, or no longer fits the model.
        """
        check_model(self.scoring, self._sigmas, self._num_keypoints)
        truth = read_truth(self._ann_file, self._num_keypoints, self.scoring)
        evaluation.categories, evaluation.skipped = tuple(truth.categories), truth.skipped
        found = self._evaluated_results(records, ids, evaluation)
        results = drop_duplicates(found, self._sigmas, self.scoring)
        evaluation.suppressed = len(found) - len(results)
        known = [*(image_id for image_id in ids if image_id is not None), *lost]
        evaluation.entries_evaluated, evaluation.lost_frames = len(known), len(lost)
        evaluation.not_judged = why_no_ap(truth, known) or self._uncategorised(evaluation)
        if evaluation.not_judged is None:
            unsuppressed = replace(self.scoring, nms_mode='none')
            evaluation.metrics = evaluate(truth, results, known, self._sigmas, unsuppressed)
        else:
            evaluation.metrics = dict.fromkeys(metric_names(self.scoring))
        return list(map(self._for_file, results))

    def _evaluated_results(
        self, records: str, ids: Sequence[int | None], evaluation: Evaluation
    ) -> list[dict[str, Any]]:
        """COCO results of the persons that are evaluated; the other persons are counted."""
        categories = evaluation.categories or (1,)
        category = categories[0] if len(categories) == 1 else None
        found: list[dict[str, Any]] = []
        evaluation.left_out = evaluation.uncategorised = 0
        for image_id, (record, _) in zip(ids, read_records(records), strict=True):
            persons = len(record.get('instances', ()))
            if image_id is None:
                evaluation.left_out += persons
                continue
            results = list(self._to_coco(record, image_id, category))
            evaluation.uncategorised += persons - len(results)
            found += results
        return found

    def _uncategorised(self, evaluation: Evaluation) -> str | None:
        """Why instances have no category although several are evaluated; None if they have one."""
        if len(evaluation.categories) < 2:
            return None
        if self._categories is None:
            return f'{len(evaluation.categories)} categories are evaluated, and instances have none'
        return self._categories.reason

    def _to_coco(
        self, record: Mapping[str, Any], image_id: int, category: int | None
    ) -> Iterator[dict[str, Any]]:
        scoring = self.scoring
        mode, kpt_thr = scoring.score_mode, scoring.keypoint_score_thr
        parts = scoring.parts(self._num_keypoints)
        return to_coco(record, image_id, mode, kpt_thr, category, parts)

    def _for_file(self, result: dict[str, Any]) -> dict[str, Any]:
        """A result as upstream writes it: without a box if keypoints are split into parts."""
        if self.scoring.parts(self._num_keypoints) is not None:
            result.pop('bbox', None)
        return result
