"""Rounds in which everybody runs in turn, until the figures stand."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import quantile_test

# Five rounds are the fewest whose extremes hold the median in nine of ten cases.
LEAST_ROUNDS = 5
CONFIDENCE = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopping:
    """When there were rounds enough.

    Attributes:
        rounds: At least so many.
        most_rounds: And not more than these.
        width: The confidence interval of the median is to be narrower than this part
            of it.
        seconds: No round starts later; 0 for no such limit.
    """

    rounds: int = LEAST_ROUNDS
    most_rounds: int = 25
    width: float = 0.1
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= self.most_rounds:
            raise ValueError(
                f'rounds: expected 1 to most_rounds ({self.most_rounds}), found {self.rounds}'
            )
        if not self.width > 0 or not self.seconds >= 0:
            raise ValueError('width, seconds: expected positive numbers')


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median and how sure it is.

    Attributes:
        median: Of the samples.
        low, high: A confidence interval that assumes nothing about the distribution,
            somewhat narrow where rounds stopped because of it; NaN where there are too
            few samples for one.
    """

    median: float
    low: float
    high: float

    def within(self, width: float) -> bool:
        """Whether the interval is narrower than this part of the median."""
        return bool(self.high - self.low <= width * abs(self.median))


def estimate(samples: Sequence[float]) -> Estimate:
    """The median of some samples, with the confidence interval of order statistics."""
    values = np.asarray(samples, dtype=float)
    interval = quantile_test(values, q=np.median(values), p=0.5).confidence_interval(CONFIDENCE)
    return Estimate(float(np.median(values)), float(interval.low), float(interval.high))


@dataclass(slots=True)
class Rounds:
    """What was measured, round by round.

    Attributes:
        rates: Name to one rate for each round.
        references: Name to the one that its ratios are taken to, round by round, so
            that a machine whose speed drifts slows both sides alike.
    """

    rates: dict[str, list[float]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    def ratios(self, name: str) -> list[float]:
        """Of each round to the reference of the same round; empty without one."""
        reference = self.rates.get(self.references.get(name, ''), [])
        return [ours / other for ours, other in zip(self.rates[name], reference, strict=False)]

    def settled(self, name: str, width: float) -> bool:
        """Whether the median of the ratios, or else of the rates, stands."""
        return estimate(self.ratios(name) or self.rates[name]).within(width)

    def all_settled(self, width: float) -> bool:
        """Whether all stand; plain rates, which drift, only where there are no ratios."""
        compared = [name for name in self.rates if self.ratios(name)]
        return all(self.settled(name, width) for name in compared or self.rates)


def run_rounds(
    runs: Mapping[str, Callable[[], float | None]],
    rounds: Rounds,
    stopping: Stopping,
    done: Callable[[int, str, float], None] = lambda number, name, rate: None,
) -> None:
    """Run everybody in turn, again and again, until all settled or it is time to stop.

    Args:
        runs: Name to what runs one round and returns its rate; None where it failed,
            and is out.
        rounds: To be filled as they run, so that what is cut off is not lost.
        stopping: When to stop.
        done: Is told round, name and rate.
    """
    rounds.rates = {name: [] for name in runs}
    start = time.monotonic()
    for number in range(1, stopping.most_rounds + 1):
        for name in list(rounds.rates):
            rate = runs[name]()
            if rate is None:
                del rounds.rates[name]
                continue
            rounds.rates[name].append(rate)
            done(number, name, rate)
        if stopping.seconds and time.monotonic() - start > stopping.seconds:
            break
        if number >= stopping.rounds and rounds.all_settled(stopping.width):
            break
