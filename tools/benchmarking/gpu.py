"""GPU utilization while a block runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

# NVML averages over up to a second, so that earlier readings would include earlier work.
_LOOKS_BACK = 1.0
_PERIOD = 0.25


@contextmanager
def watch_utilization(
    read: Callable[[], float] | None = None,
    period: float = _PERIOD,
    looks_back: float = _LOOKS_BACK,
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
) -> Iterator[list[float]]:
    """Read the GPU utilization periodically in this block.

    Args:
        read: Returns the utilization in percent. The default is that of NVML for the current
            device, over all processes; there are no readings if this process uses no GPU or
            ``nvidia-ml-py`` is not installed.
        period: Seconds between readings.
        looks_back: Seconds that a reading averages over, and the delay of the first one.
        wait: Waits for an event with a timeout in seconds; returns whether it is set.

    Yields:
        The list of readings, to which one is added after each period; empty for a short block.
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
            except Exception:  # of NVML: the driver does not support it any more
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
    """Function that reads the utilization of the current GPU in percent; None if unavailable."""
    import torch

    if not torch.cuda.is_initialized():  # this process does not use it
        return None
    read = partial(torch.cuda.utilization, torch.cuda.current_device())  # of this thread
    try:
        read()
    except Exception:  # no nvidia-ml-py, or the driver does not support it
        return None
    return read
