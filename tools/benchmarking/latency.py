"""Latencies of single images, and the pace of frames that arrive at a fixed rate."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

QUANTILES = {'p50': 0.5, 'p90': 0.9, 'p99': 0.99, 'p99.9': 0.999}


def summarise(seconds: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation, extremes and quantiles of latencies, in the same unit."""
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
    """Result of inferring frames that arrive at a fixed rate.

    Attributes:
        rate: Frames per second.
        ages: Seconds from a frame's arrival to its result, frame by frame.
        waited: Maximum number of waiting frames, excluding the one being inferred.
    """

    rate: float
    ages: list[float]
    waited: int

    @property
    def missed(self) -> int:
        """Number of frames whose result came after the arrival of the next frame."""
        return sum(age > 1 / self.rate for age in self.ages)

    @property
    def oldest(self) -> float:
        """Maximum age of a frame when its result came, in seconds."""
        return max(self.ages)


def keep_pace(
    infer: Callable[[int], object],
    rate: float,
    count: int,
    now: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Pace:
    """Infer frames that arrive at a fixed rate, in order, without dropping any.

    Args:
        infer: Infers the frame with an index.
        rate: Frames per second.
        count: Number of frames.
        now: Clock in seconds.
        sleep: Waits for a number of seconds.
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
    """Seconds to infer each of the frames."""
    seconds = []
    for index in indices:
        start = time.perf_counter()
        infer(index)
        seconds.append(time.perf_counter() - start)
    return seconds


def milliseconds(summary: dict[str, float]) -> dict[str, Any]:
    """A summary as text in milliseconds."""
    return {name: f'{value * 1e3:.2f}' for name, value in summary.items()}
