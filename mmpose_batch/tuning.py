"""The batch size that is fastest here, found by trying."""

import time
from collections.abc import Callable

from .batching import DEVICE_LOST
from .runtime import is_out_of_memory

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# A larger batch must be faster by this to be worth its memory and the wait for it.
_GAIN = 1.03
# Sizes beyond one that is slower than the best by this are not tried.
_LOSS = 0.9


def measure_rates(run: Callable[[int], object], times: int = 3) -> dict[int, float]:
    """Instances a second for batches of growing size, as far as it pays.

    Args:
        run: Runs a batch of this many instances.
        times: Of which the shortest counts.

    Returns:
        Size to rate; sizes that the memory does not hold are left out.
    """
    rates: dict[int, float] = {}
    for size in SIZES:
        try:
            run(size)  # builds, warms up
            rates[size] = size / min(_seconds(run, size) for _ in range(times))
        except DEVICE_LOST:
            raise
        except Exception as error:
            if rates and is_out_of_memory(error):
                break
            raise
        if rates[size] < _LOSS * max(rates.values()):
            break
    return rates


def choose_size(rates: dict[int, float]) -> int:
    """The smallest size that none beats by more than little."""
    return min(size for size, rate in rates.items() if rate * _GAIN >= max(rates.values()))


def _seconds(run: Callable[[int], object], size: int) -> float:
    start = time.perf_counter()
    run(size)
    return time.perf_counter() - start
