"""The fastest batch size: a default, or one that is measured on this machine."""

import time
from collections.abc import Callable
from functools import partial

import torch

from ..errors import is_out_of_memory
from ..progress import Clock
from ..workers import WorkerPool

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# For engines that compile for each size, which takes half a minute or more. The first one is the
# number of images of a warm-up, for which they have been compiled already, to be verified.
COMPILED_SIZES = (8, 32, 128)
# A larger batch must be faster by this factor to be worth its memory and its latency.
_GAIN = 1.03
# Larger sizes are not tried once a size runs at less than this fraction of the best rate.
_LOSS = 0.9
# Pixels of the largest input for which a CPU is fastest with large batches.
_SMALL_INPUT = 416 * 416


def default_batch_size(
    device: str | torch.device, inputs: object, *, crops: bool = False, split: bool = False
) -> int:
    """Return the number of inputs per forward pass that is typically fastest.

    On a CPU every layer has a fixed cost per call, and a batch that exceeds the processor
    cache costs more per input. In measurements, 320x320 images were fastest in batches of 16
    and 640x640 images in batches of 2. OpenVINO with two concurrent batches on two cores ran
    320x320 images as fast in batches of 4, which reduces latency. A GPU has room for the
    crops of many persons.

    Args:
        device: Device of the network.
        inputs: One input of the network, (3, h, w). If it is not a tensor, it is assumed to
            be large, unless it is a crop.
        crops: Whether the input is the crop of a person and not a complete image.
        split: Whether the engine runs several batches concurrently, each on its own cores.
    """
    if torch.device(device).type == 'cpu':
        known = isinstance(inputs, torch.Tensor)
        small = inputs.shape[-2] * inputs.shape[-1] <= _SMALL_INPUT if known else crops
        if not small:
            return 2
        return 4 if split and not crops else 16
    return 64 if crops else 16


def measure_rates(
    run: Callable[[int], object],
    parallel: int = 1,
    clock: Clock = time.perf_counter,
    compiled: bool = False,
) -> dict[int, float]:
    """Measure the throughput for increasing batch sizes until it declines.

    Args:
        run: Runs a batch of the given number of instances.
        parallel: Number of batches that run concurrently, as in a run.
        clock: Returns a time in seconds.
        compiled: Whether each size is compiled. Then few sizes are measured, until the throughput
            no longer rises.

    Returns:
        Batch size to instances per second, without the sizes that do not fit into memory.

    Raises:
        Exception: Any error of ``run``, except out of memory for a size after the first.
    """
    rates: dict[int, float] = {}
    for size in COMPILED_SIZES if compiled else SIZES:
        best = max(rates.values(), default=0.0)
        try:
            rates[size] = size / shortest(partial(run, size), parallel, clock=clock)
        except Exception as error:
            if rates and is_out_of_memory(error):
                break
            raise
        if rates[size] < (_GAIN if compiled else _LOSS) * best:
            break
    return rates


def choose_size(rates: dict[int, float]) -> int:
    """Return the smallest batch size whose rate is within 3 % of the highest rate."""
    return min(size for size, rate in rates.items() if rate * _GAIN >= max(rates.values()))


def shortest(
    run: Callable[[], object],
    parallel: int = 1,
    times: int = 3,
    clock: Clock = time.perf_counter,
) -> float:
    """Return the shortest time of a call in seconds, after one call that is not timed.

    Args:
        run: Function to call.
        parallel: Number of calls that run concurrently, as in a run: an engine that runs
            several batches gives each of them a share of the cores.
        times: Number of timed repetitions, of which the shortest counts.
        clock: Returns a time in seconds.
    """
    seconds = []
    with WorkerPool(parallel if parallel > 1 else 0) as pool:
        for _ in range(times + 1):  # the first repetition starts the threads
            start = clock()
            for _ in pool.map(lambda _: run(), iter(range(parallel)), ahead=parallel):
                pass
            seconds.append((clock() - start) / parallel)
    return min(seconds[1:])
