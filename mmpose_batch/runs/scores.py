"""Scores of a finished run: COCO results of its records, and AP if there are annotations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import AnnotationError
from ..evaluation.annotations import ImageIds
from ..evaluation.categories import Categories
from ..evaluation.evaluator import Evaluator, coco_ids
from ..evaluation.result import Coverage, Evaluation
from ..inferencer import BatchPose2DInferencer


class Scores:
    """Scores the instances of a run, and evaluates them against annotations if there are any.

    Args:
        inferencer: The inferencer of the run; its config names the metric.
        paths: Paths of the images.
        ann_file: COCO keypoint annotations; None to score without evaluation.
        image_ids: COCO ids of the paths.
        categories: How instances get a category, if several are evaluated.

    Attributes:
        evaluation: Result of the evaluation, filled in at the end; None without annotations.

    Raises:
        ValueError: The config's metric has settings that are not supported.
    """

    def __init__(
        self,
        inferencer: BatchPose2DInferencer,
        paths: Sequence[str],
        ann_file: str | None,
        image_ids: ImageIds,
        categories: Categories | None,
    ) -> None:
        self._evaluator = Evaluator(
            inferencer.cfg, inferencer.predictor.pose.keypoints, ann_file, categories
        )
        self._paths = paths
        self._image_ids = image_ids
        self.evaluation: Evaluation | None = None
        if ann_file is not None:
            coverage = Coverage.of(paths, list(map(image_ids.find, paths)), image_ids.names)
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
        ids = coco_ids(self._paths, self._image_ids, annotated=evaluation is not None)
        failed = None
        if evaluation is not None:
            try:
                evaluated = evaluator.evaluate(records, ids, evaluation)
                return lambda: evaluated, None
            except AnnotationError as error:
                failed = error
        return lambda: evaluator.results(records, ids), failed
