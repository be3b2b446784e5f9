"""Rounds in which all contenders run in turn, until the medians have converged."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import quantile_test

# With five rounds or more, the extremes contain the median in nine of ten cases.
MIN_ROUNDS = 5
CONFIDENCE = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopping:
    """Rule that ends the rounds.

    Attributes:
        rounds: Minimum number of rounds.
        max_rounds: Maximum number of rounds.
        width: A median has converged when its confidence interval is narrower than this
            fraction of it.
        seconds: No round starts later than this; 0 for no time limit.

    Raises:
        ValueError: A value is out of range.
    """

    rounds: int = MIN_ROUNDS
    max_rounds: int = 25
    width: float = 0.1
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= self.max_rounds:
            raise ValueError(
                f'rounds: expected 1 to max_rounds ({self.max_rounds}), found {self.rounds}'
            )
        if not self.width > 0 or not self.seconds >= 0:
            raise ValueError('width, seconds: expected positive numbers')


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median with its confidence interval.

    Attributes:
        median: Median of the samples.
        low, high: Confidence interval without an assumption about the distribution. It is
            somewhat too narrow if the rounds ended because of it; NaN if there are too few
            samples.
    """

    median: float
    low: float
    high: float

    def within(self, width: float) -> bool:
        """Whether the interval is narrower than this fraction of the median."""
        return bool(self.high - self.low <= width * abs(self.median))


def estimate(samples: Sequence[float]) -> Estimate:
    """Median of samples, with the confidence interval from order statistics."""
    values = np.asarray(samples, dtype=float)
    interval = quantile_test(values, q=np.median(values), p=0.5).confidence_interval(CONFIDENCE)
    return Estimate(float(np.median(values)), float(interval.low), float(interval.high))


@dataclass(slots=True)
class Rounds:
    """Rates of all contenders, round by round.

    Attributes:
        rates: Name to one rate per round.
        references: Name to the name of the reference for its ratios. Ratios are computed round
            by round, so that a drift of the machine's speed affects both sides alike.
    """

    rates: dict[str, list[float]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    def ratios(self, name: str) -> list[float]:
        """Ratio to the reference in each round; empty without a reference."""
        reference = self.rates.get(self.references.get(name, ''), [])
        return [ours / other for ours, other in zip(self.rates[name], reference, strict=False)]

    def has_converged(self, name: str, width: float) -> bool:
        """Whether the median of the ratios, or of the rates without a reference, has converged."""
        return estimate(self.ratios(name) or self.rates[name]).within(width)

    def all_converged(self, width: float) -> bool:
        """Whether all ratios, or all rates if there are no ratios, have converged."""
        compared = [name for name in self.rates if self.ratios(name)]
        return all(self.has_converged(name, width) for name in compared or self.rates)


def run_rounds(
    runs: Mapping[str, Callable[[], float | None]],
    rounds: Rounds,
    stopping: Stopping,
    done: Callable[[int, str, float], None] = lambda number, name, rate: None,
) -> None:
    """Run all contenders in turn, round by round, until the rule ends the rounds.

    Args:
        runs: Name to the function that runs one round and returns its rate; None if it
            failed, which excludes it from later rounds.
        rounds: Filled during the rounds, so that an interruption does not lose them.
        stopping: Rule that ends the rounds.
        done: Called with the number of the round, the name and the rate.
    """
    rounds.rates = {name: [] for name in runs}
    start = time.monotonic()
    for number in range(1, stopping.max_rounds + 1):
        for name in list(rounds.rates):
            rate = runs[name]()
            if rate is None:
                del rounds.rates[name]
                continue
            rounds.rates[name].append(rate)
            done(number, name, rate)
        if stopping.seconds and time.monotonic() - start > stopping.seconds:
            break
        if number >= stopping.rounds and rounds.all_converged(stopping.width):
            break
