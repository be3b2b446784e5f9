"""Scores of a finished run: COCO results of its records, and AP if there are annotations."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import AnnotationError
from ..evaluation.annotations import ImageIds
from ..evaluation.categories import Categories
from ..evaluation.evaluator import Evaluator, coco_ids, lost_frames
from ..evaluation.result import Coverage, Evaluation
from ..inferencer import BatchPose2DInferencer
from ..sources.items import Items
from ..writers.jsonl import read_records


class Scores:
    """Scores the instances of a run, and evaluates them against annotations if there are any.

    Args:
        inferencer: The inferencer of the run; its config names the metric.
        items: The images and videos.
        ann_file: COCO keypoint annotations; None to score without evaluation.
        image_ids: COCO ids of the images and frames.
        categories: How instances get a category, if several are evaluated.

    Attributes:
        evaluation: Result of the evaluation, filled in at the end; None without annotations.

    Raises:
        ValueError: The config's metric has settings that are not supported.
    """

    def __init__(
        self,
        inferencer: BatchPose2DInferencer,
        items: Items,
        ann_file: str | None,
        image_ids: ImageIds,
        categories: Categories | None,
    ) -> None:
        self._evaluator = Evaluator(
            inferencer.cfg, inferencer.predictor.pose.keypoints, ann_file, categories
        )
        self._paths = {frame.name: frame.path for frame in items.all}
        self._video_options = items.options
        self._image_ids = image_ids
        self.evaluation: Evaluation | None = None
        if ann_file is not None:
            paths = list(self._paths.values())
            coverage = Coverage.of(paths, list(map(image_ids.all_of, paths)), image_ids.names)
            self.evaluation = Evaluation(coverage, self._evaluator.scoring)

    def __call__(
        self, records: str
    ) -> tuple[Callable[[], Iterable[Mapping[str, Any]]], AnnotationError | None]:
        """Score all records of a run.

        Args:
            records: Path of the run's records.

        Returns:
            A function that returns the COCO results (only the evaluated ones if there are
            annotations), and the error to raise once these results are written: that the
            annotations are gone or no longer fit; None without an error.
        """
        evaluator, evaluation = self._evaluator, self.evaluation
        annotated = evaluation is not None
        found = (record for record, _ in read_records(records))
        ids = coco_ids(found, self._paths, self._image_ids, annotated)
        failed = None
        if evaluation is not None:
            try:
                found = (record for record, _ in read_records(records))
                lost = lost_frames(found, self._paths, self._image_ids, self._video_options)
                evaluated = evaluator.evaluate(records, ids, evaluation, lost)
                return lambda: evaluated, None
            except AnnotationError as error:
                failed = error
        return lambda: evaluator.results(records, ids), failed
