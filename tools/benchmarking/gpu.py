"""How busy the GPU is while something runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

# NVML looks back over up to a second: what it says before is of whatever ran earlier.
_LOOKS_BACK = 1.0
_PERIOD = 0.25


@contextmanager
def watch_utilization(
    read: Callable[[], float] | None = None,
    period: float = _PERIOD,
    looks_back: float = _LOOKS_BACK,
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
) -> Iterator[list[float]]:
    """Read in this block how busy the GPU is.

    Args:
        read: Percent of the time in which the GPU computed anything; by default NVML's
            for the current device and all its processes, nothing where this process
            uses no GPU or ``nvidia-ml-py`` is not installed.
        period: Seconds between readings.
        looks_back: Seconds that a reading is about; the first comes after as many.
        wait: Waits for an event, at most so many seconds; returns whether it is set.

    Yields:
        The readings, one more after each period; none of a block that is shorter.
    """
    read = read or nvml_reader()
    readings: list[float] = []
    if read is None:
        yield readings
        return
    over = threading.Event()

    def watch() -> None:
        seconds = looks_back
        while not wait(over, seconds):
            try:
                readings.append(read())
            except Exception:  # NVML's own, of a driver that does not tell any more
                return
            seconds = period

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

    if not torch.cuda.is_initialized():  # nothing here computes on it
        return None
    read = partial(torch.cuda.utilization, torch.cuda.current_device())  # this thread's
    try:
        read()
    except Exception:  # no nvidia-ml-py, or NVML's own: a driver that does not tell
        return None
    return read
