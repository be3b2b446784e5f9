"""The batch size that is fastest: typically, or here, found by measuring."""

import time
from collections.abc import Callable
from functools import partial

import torch

from ..errors import DEVICE_LOST, is_out_of_memory
from ..progress import Clock
from ..workers import WorkerPool

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# A larger batch must be faster by this to be worth its memory and the wait for it.
_GAIN = 1.03
# Sizes beyond one that is slower than the best by this are not tried.
_LOSS = 0.9
# Pixels of the largest input of which a CPU takes many per forward pass.
_SMALL_INPUT = 416 * 416


def default_batch_size(
    device: str | torch.device, inputs: object, *, crops: bool = False, split: bool = False
) -> int:
    """Inputs per forward pass that are typically fastest.

    On a CPU every layer costs a fixed time besides its work, and a batch that leaves
    the cache costs more: measured, 320x320 images are fastest by 16 and 640x640 by
    2; in OpenVINO, two batches concurrently on two cores, 320x320 are as fast by 4, for
    which fewer images wait. A GPU holds many persons' crops.

    Args:
        device: Of the network.
        inputs: One of its inputs, (3, h, w); anything else is taken for large, unless
            it is a crop.
        crops: Whether it is a person's crop and not a whole image.
        split: Whether the engine gives cores of its own to each of several batches.
    """
    if torch.device(device).type == 'cpu':
        known = isinstance(inputs, torch.Tensor)
        small = inputs.shape[-2] * inputs.shape[-1] <= _SMALL_INPUT if known else crops
        if not small:
            return 2
        return 4 if split and not crops else 16
    return 64 if crops else 16


def measure_rates(
    run: Callable[[int], object], parallel: int = 1, clock: Clock = time.perf_counter
) -> dict[int, float]:
    """Instances a second for batches of growing size, as far as it pays.

    Args:
        run: Runs a batch of this many instances.
        parallel: Batches that share the machine, as they do in a run.
        clock: Seconds that have passed.

    Returns:
        Size to rate; sizes that the memory does not hold are left out.
    """
    rates: dict[int, float] = {}
    for size in SIZES:
        try:
            rates[size] = size / shortest(partial(run, size), parallel, clock=clock)
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
    """The smallest size that is as fast as any, within little."""
    return min(size for size, rate in rates.items() if rate * _GAIN >= max(rates.values()))


def shortest(
    run: Callable[[], object],
    parallel: int = 1,
    times: int = 3,
    clock: Clock = time.perf_counter,
) -> float:
    """Seconds that a call takes at its best, when everything is built.

    Args:
        run: What is called.
        parallel: Calls that share the machine, as they do in a run: an engine that
            takes several gives each a share of the cores.
        times: Of which the shortest counts.
        clock: Seconds that have passed.
    """
    seconds = []
    with WorkerPool(parallel if parallel > 1 else 0) as pool:
        for _ in range(times + 1):  # threads start in the first
            start = clock()
            for _ in pool.map(lambda _: run(), iter(range(parallel)), ahead=parallel):
                pass
            seconds.append((clock() - start) / parallel)
    return min(seconds[1:])
