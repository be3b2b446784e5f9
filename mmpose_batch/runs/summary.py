"""Counts and times of a run, and its closing summary."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.result import Evaluation
from ..progress import format_duration


@dataclass(slots=True)
class RunSummary:
    """What came of a run.

    Attributes:
        images: Inputs in all, those of resumed runs too.
        resumed: Of these, done by earlier runs.
        persons: Instances found.
        failures: Inputs with a failure record.
        seconds: From the first image to the last.
        stages: Seconds in each stage.
        evaluation: What was judged, if there were annotations.
    """

    images: int = 0
    resumed: int = 0
    persons: int = 0
    failures: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    evaluation: Evaluation | None = None

    @property
    def metrics(self) -> dict[str, float | None]:
        """AP and AR, if there were annotations; None where they judge nothing."""
        return {} if self.evaluation is None else self.evaluation.metrics

    def count(self, record: Mapping[str, Any]) -> None:
        """Count one record."""
        self.images += 1
        self.persons += len(record.get('instances', ()))
        self.failures += 'error' in record

    @property
    def images_per_second(self) -> float:
        """Rate of this run alone."""
        return (self.images - self.resumed) / self.seconds if self.seconds else 0.0

    def lines(self) -> Iterator[str]:
        """The closing summary, for a person."""
        resumed = f' ({self.resumed} of them by an earlier run)' if self.resumed else ''
        yield f'images    {self.images}{resumed}'
        yield f'persons   {self.persons}'
        yield f'failures  {self.failures}' + (', see failures.jsonl' if self.failures else '')
        if self.images > self.resumed:
            rate, time = self.images_per_second, format_duration(self.seconds)
            yield f'speed     {rate:.2f} images/s in {time}'
            shares = ', '.join(
                f'{name} {100 * spent / self.seconds:.0f} %' for name, spent in self.stages.items()
            )
            yield f'time      {shares}'
        if self.evaluation is not None:
            yield from self.evaluation.lines()


def counted(count: int, noun: str) -> str:
    """A number of things: ``1 image``, ``2 images``."""
    return f'{count} {noun}{"" if count == 1 else "s"}'
