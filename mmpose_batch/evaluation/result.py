"""What came of judging a run by COCO annotations, and how many of its images they judge."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .metric import ScoringOptions


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
        scoring: The metric.
        categories: Ids of the categories judged.
        skipped: For each reason why annotations judge nothing, their number.
        not_judged: Why there is no AP; None if there is.
        left_out: Persons of images without an entry, which are not in
            ``predictions.coco.json``: COCO's tools reject a file of other images.
        uncategorised: Persons of none of several judged categories, which are not in it either.
        suppressed: Persons that lie on others, which upstream's metric drops from its file too.
        metrics: As :func:`mmpose_batch.evaluation.ap.evaluate` returns them.
    """

    coverage: Coverage
    scoring: ScoringOptions = field(default_factory=ScoringOptions)
    categories: tuple[int, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)
    not_judged: str | None = 'the run is not finished'
    left_out: int = 0
    uncategorised: int = 0
    suppressed: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The part of the closing summary that is about annotations."""
        yield f'judged    {self.coverage.line()}'
        if (warning := self.coverage.warning()) is not None:
            yield f'warning   {warning}'
        for count, reason in (
            (self.left_out, 'of images without an entry'),
            (self.uncategorised, 'of no judged category'),
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
        yield from self._metric_lines()

    def _metric_lines(self) -> Iterator[str]:
        whole = 'whole body ' if self.scoring.whole_body else ''
        shown = {name if ' ' in name else whole + name: v for name, v in self.metrics.items()}
        width = max(9, *map(len, shown))
        for name, value in shown.items():
            text = f'not judged: {self._missing(name)}' if value is None else f'{value:.4f}'
            yield f'{name:<{width}} {text}'

    def _missing(self, name: str) -> str:
        """Why one of the numbers is missing while AP is there."""
        if not name.endswith(')'):
            return 'no keypoint of this part is labelled'
        if self.scoring.crowd:
            return 'no image is as crowded as that'
        return 'no person of this size'

    def to_json(self) -> dict[str, Any]:
        """What ``run.json`` stores, besides the metrics."""
        coverage = self.coverage
        several = len(self.categories) > 1
        return {
            'images': coverage.images,
            'judged': coverage.judged,
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
