"""One image at a time, as in live use: how long each takes, and whether a rate can be kept."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

QUANTILES = {'p50': 0.5, 'p90': 0.9, 'p99': 0.99, 'p99.9': 0.999}


def summarise(seconds: Sequence[float]) -> dict[str, float]:
    """Mean, extremes, standard deviation and quantiles of some latencies, in their unit."""
    values = np.asarray(seconds, dtype=float)
    found = {
        'mean': values.mean(),
        'std': values.std(ddof=1) if len(values) > 1 else 0.0,
        'min': values.min(),
        **{name: np.quantile(values, q) for name, q in QUANTILES.items()},
        'max': values.max(),
    }
    return {name: float(value) for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class Pace:
    """What came of frames at a fixed rate.

    Attributes:
        rate: Frames per second.
        ages: Seconds from a frame's arrival to its result, frame by frame.
        waited: Frames that waited at most at a time, beside the one that ran.
    """

    rate: float
    ages: list[float]
    waited: int

    @property
    def missed(self) -> int:
        """Frames whose result came after the next frame."""
        return sum(age > 1 / self.rate for age in self.ages)

    @property
    def oldest(self) -> float:
        """Age of the oldest frame, in seconds, when its result came."""
        return max(self.ages)


def keep_pace(
    infer: Callable[[int], object],
    rate: float,
    count: int,
    now: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Pace:
    """Infer frames that arrive at a fixed rate, in order, none left out.

    Args:
        infer: Infers the frame of an index.
        rate: Frames per second.
        count: Number of frames.
        now: A clock, in seconds.
        sleep: Waits so many seconds.
    """
    start, ages, waited = now(), [], 0
    for index in range(count):
        arrival = start + index / rate
        while (early := arrival - now()) > 0:
            sleep(early)
        arrived = min(count, int((now() - start) * rate) + 1)
        waited = max(waited, arrived - index - 1)
        infer(index)
        ages.append(now() - arrival)
    return Pace(rate, ages, waited)


def measure_each(infer: Callable[[int], object], indices: Sequence[int]) -> list[float]:
    """Seconds that each of some frames takes."""
    seconds = []
    for index in indices:
        start = time.perf_counter()
        infer(index)
        seconds.append(time.perf_counter() - start)
    return seconds


def milliseconds(summary: dict[str, float]) -> dict[str, Any]:
    """A summary as it is printed."""
    return {name: f'{value * 1e3:.2f}' for name, value in summary.items()}
