"""Processor cores: which of them a run uses, and how its threads share them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import cv2
import loky


def available_cores() -> int:
    """Number of cores that this process may use, by its affinity and its container's quota."""
    return loky.cpu_count()


def parse_cores(text: str) -> frozenset[int]:
    """Parse a list of cores, such as ``2``, ``0-3`` or ``0,2-3``.

    Raises:
        ValueError: It is not such a list, or names a core that this process may not use.
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
    allowed = os.sched_getaffinity(0)
    if not cores <= allowed:
        raise ValueError(
            f'cpu_affinity: this process may use {_text(allowed)}, found {_text(cores - allowed)}'
        )
    return frozenset(cores)


def bind_to_cores(cores: frozenset[int]) -> None:
    """Bind this process to some cores: its current threads, and those that they start."""
    for thread in os.listdir('/proc/self/task'):
        try:
            os.sched_setaffinity(int(thread), cores)
        except ProcessLookupError:  # it has ended in the meantime
            continue
    cv2.setNumThreads(min(cv2.getNumThreads(), len(cores)))  # it counted cores at import


def default_threads() -> int:
    """Number of threads for the network: PyTorch's, limited to the number of cores."""
    import torch  # not at the top: synthetic scenes need this module, but not PyTorch

    return min(torch.get_num_threads(), available_cores())


class _OpenCVThreads:
    """Limits OpenCV to one thread per call, while at least one user requests that.

    Workers that decode and warp concurrently fill the cores; OpenCV's own threads would only
    compete with them and with the threads of the network.
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
