"""The processor's cores: which ones a run uses, and how its threads share them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import cv2
import loky


def available_cores() -> int:
    """Cores that this process may really use, by its affinity and its container's quota."""
    return loky.cpu_count()


def parse_cores(text: str) -> frozenset[int]:
    """Read a list of cores, such as ``2``, ``0-3`` or ``0,2-3``.

    Raises:
        ValueError: It is none, or names a core that this process may not use.
    """
    cores: set[int] = set()
    for part in str(text).split(','):
        match = re.fullmatch(r'\s*(\d+)(?:-(\d+))?\s*', part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(
                f'cpu_affinity: expected cores such as 2, 0-3 or 0,2-3, found {text!r}'
            )
        cores.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    if not hasattr(os, 'sched_getaffinity'):
        raise ValueError('cpu_affinity: this system does not bind a process to cores')
    there = os.sched_getaffinity(0)
    if not cores <= there:
        raise ValueError(
            f'cpu_affinity: this process may use {_text(there)}, found {_text(cores - there)}'
        )
    return frozenset(cores)


def bind_to_cores(cores: frozenset[int]) -> None:
    """Bind this process to some cores: the threads that it has, and those that it starts."""
    for thread in os.listdir('/proc/self/task'):
        try:
            os.sched_setaffinity(int(thread), cores)
        except ProcessLookupError:  # it has ended meanwhile
            continue
    cv2.setNumThreads(min(cv2.getNumThreads(), len(cores)))  # it counted before


def default_threads() -> int:
    """Threads for the network: PyTorch's own number, but not more than there are cores."""
    import torch  # here, since drawing scenes needs cores and no PyTorch

    return min(torch.get_num_threads(), available_cores())


class _OpenCVThreads:
    """Keeps OpenCV to the thread that calls it, while anybody wants that.

    Workers that decode and warp side by side fill the cores; threads of OpenCV's
    own, beside each of them and the network's, only take turns.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._before = 0

    @contextmanager
    def single(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._before = cv2.getNumThreads()
                cv2.setNumThreads(1)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    cv2.setNumThreads(self._before)


single_opencv_thread = _OpenCVThreads().single


def _text(cores: set[int] | frozenset[int]) -> str:
    return ', '.join(map(str, sorted(cores)))
