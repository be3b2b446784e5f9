"""The result of an evaluation against COCO annotations, and how many images it covers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..sources.video_names import is_video_name
from .metric import ScoringOptions


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many images of a run have annotations.

    Attributes:
        images: Number of inputs of the run.
        judged: Number of inputs with an entry in the annotation file, which are evaluated.
        entries: Number of images in the annotation file.
        input_without_entry: Path of the first input without an entry; None if all have one.
        entry_without_input: ``file_name`` of the first entry that is not an input, or None.
        noun: What the inputs are called: ``images``, or ``inputs`` if there are videos.
    """

    images: int
    judged: int
    entries: int
    input_without_entry: str | None = None
    entry_without_input: str | None = None
    noun: str = 'images'

    @classmethod
    def of(
        cls, paths: Sequence[str], ids: Sequence[Sequence[int]], names: Mapping[int, str]
    ) -> 'Coverage':
        """Count the inputs that have entries.

        Args:
            paths: Paths of the inputs.
            ids: COCO ids of each input: one of an image, any number of a video.
            names: ``file_name`` of each COCO id in the annotation file.
        """
        found = {image_id for of_input in ids for image_id in of_input}
        judged = sum(bool(of_input) for of_input in ids)
        missed = (path for path, of_input in zip(paths, ids, strict=True) if not of_input)
        unused = (name for image_id, name in names.items() if image_id not in found)
        noun = 'inputs' if any(map(is_video_name, paths)) else 'images'
        return cls(len(paths), judged, len(names), next(missed, None), next(unused, None), noun)

    def line(self) -> str:
        """The count: ``3 of 5 images``."""
        return f'{self.judged} of {self.images} {self.noun}'

    def warning(self) -> str | None:
        """How many images are not evaluated, with examples; None if all are."""
        if self.judged == self.images:
            return None
        unused = self.entry_without_input
        other = '' if unused is None else f'; an entry without an input: {unused!a}'
        return (
            f'{self.images - self.judged} of {self.images} {self.noun} have no entry in the '
            f'annotation file and are not evaluated, such as {self.input_without_entry!a}{other}'
        )


@dataclass(slots=True)
class Evaluation:
    """The result of evaluating a run; ``run.json`` uses some of these names.

    Attributes:
        coverage: How many images are evaluated.
        scoring: The metric.
        categories: Ids of the categories that are evaluated.
        skipped: Number of unused annotations for each reason.
        not_judged: Why there is no AP; None if there is one.
        left_out: Number of persons in images without an entry. They are not in
            ``predictions.coco.json``, since COCO's tools reject results for other images.
        uncategorised: Number of persons without any of several categories, not in it either.
        suppressed: Number of duplicate persons, which upstream's metric omits from its file too.
        entries_evaluated: Number of images and frames of the annotation file that are evaluated.
        lost_frames: Number of these that are of videos which cannot be read there.
        metrics: Result of :func:`mmpose_batch.evaluation.ap.evaluate`.
    """

    coverage: Coverage
    scoring: ScoringOptions = field(default_factory=ScoringOptions)
    categories: tuple[int, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)
    not_judged: str | None = 'the run is not finished'
    left_out: int = 0
    uncategorised: int = 0
    suppressed: int = 0
    entries_evaluated: int = 0
    lost_frames: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Lines of the closing summary about the evaluation."""
        coverage = self.coverage
        of_entries = ''
        if coverage.noun != 'images':  # a video has many entries
            count = f'{self.entries_evaluated} of {coverage.entries}'
            of_entries = f', {count} entries of the annotation file'
        yield f'evaluated {coverage.line()}{of_entries}'
        if self.lost_frames:
            yield f'lost      {self.lost_frames} of these are frames that cannot be read'
        if (warning := self.coverage.warning()) is not None:
            yield f'warning   {warning}'
        for count, reason in (
            (self.left_out, 'in images without an entry'),
            (self.uncategorised, 'without an evaluated category'),
            (self.suppressed, "duplicates that upstream's metric suppresses"),
        ):
            if count:
                yield f'excluded  {count} persons only in predictions.jsonl: {reason}'
        if self.skipped:
            reasons = ', '.join(f'{count} {reason}' for reason, count in self.skipped.items())
            yield f'skipped   annotations: {reasons}'
        if self.not_judged is not None:
            yield f'no AP:    {self.not_judged}'
            return
        yield from self._metric_lines()

    def _metric_lines(self) -> Iterator[str]:
        whole = 'whole body ' if self.scoring.whole_body else ''
        shown = {name if ' ' in name else whole + name: v for name, v in self.metrics.items()}
        width = max(9, *map(len, shown))
        for name, value in shown.items():
            text = f'none: {self._missing(name)}' if value is None else f'{value:.4f}'
            yield f'{name:<{width}} {text}'

    def _missing(self, name: str) -> str:
        """Why one metric has no value although AP has one."""
        if not name.endswith(')'):
            return 'no keypoint of this part is labelled'
        if self.scoring.crowd:
            return 'no image is that crowded'
        return 'no person of this size'

    def to_json(self) -> dict[str, Any]:
        """The entry ``evaluation`` of ``run.json``; the metrics are an entry of their own."""
        coverage = self.coverage
        several = len(self.categories) > 1
        return {
            'images': coverage.images,
            'judged': coverage.judged,
            **(
                {'entries': self.entries_evaluated, 'lost_frames': self.lost_frames}
                if coverage.noun != 'images'
                else {}
            ),
            'input_without_entry': coverage.input_without_entry,
            'entry_without_input': coverage.entry_without_input,
            'metric': asdict(self.scoring),
            'category_id': self.categories[0] if len(self.categories) == 1 else None,
            **({'category_ids': list(self.categories)} if several else {}),
            'skipped_annotations': self.skipped,
            'persons_without_entry': self.left_out,
            **({'persons_without_category': self.uncategorised} if several else {}),
            'persons_suppressed': self.suppressed,
            'not_judged': self.not_judged,
        }
