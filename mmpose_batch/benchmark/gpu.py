"""How busy the GPU is while something runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

# NVML looks back over up to a second; more readings than that say nothing new.
_PERIOD = 0.25


@contextmanager
def watch_utilization(
    read: Callable[[], float] | None = None, period: float = _PERIOD
) -> Iterator[list[float]]:
    """Read in this block how busy the GPU is.

    Args:
        read: Percent of the time in which the GPU computed anything; by default NVML's
            for the current device, nothing where there is no GPU or no ``nvidia-ml-py``.
        period: Seconds between readings.

    Yields:
        The readings, one more after each period.
    """
    read = read or nvml_reader()
    readings: list[float] = []
    if read is None:
        yield readings
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(period):
            readings.append(read())

    thread = threading.Thread(target=watch, name='mmpose_batch-gpu', daemon=True)
    thread.start()
    try:
        yield readings
    finally:
        over.set()
        thread.join()


def nvml_reader() -> Callable[[], float] | None:
    """What reads the current GPU's utilisation in percent; None where nothing can."""
    import torch

    if not torch.cuda.is_available():
        return None
    read = partial(torch.cuda.utilization, torch.cuda.current_device())  # this thread's
    try:
        read()
    except (ImportError, RuntimeError):  # no nvidia-ml-py, or no driver that answers
        return None
    return read
