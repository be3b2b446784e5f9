"""A process of its own for each contender: its memory, threads and start are its alone."""

import logging
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from statistics import fmean, median
from typing import Any

import cv2
import numpy as np

from mmpose_batch.memory import peak_resident

from .contenders import Contender, check_settings
from .gpu import watch_utilization
from .latency import keep_pace, measure_each
from .work import Image

# Images that are run alone, for the latency.
_SINGLE = 10


class ContenderError(RuntimeError):
    """A contender that cannot run. Its message is one line."""


class ContenderProcess:
    """Starts a contender and has it run rounds.

    Args:
        contender: Who.
        images: What one round infers.
        warm_up: Whether it runs a round that does not count: for what is compiled for a
            size of batches.

    Attributes:
        start: Seconds from the start of its process until PyTorch and MMPose were
            imported (``imports``), its weights in place (``load``) and its first result
            there (``first_result``), and those from ``load`` to ``first_result``
            (``first_run``), in which engines are imported, built and checked.

    Raises:
        ContenderError: It cannot be built, or not run. Of settings that do not go together this
            is found out before the process starts.
    """

    def __init__(self, contender: Contender, images: Sequence[Image], warm_up: bool = True) -> None:
        try:
            check_settings(contender)
        except ValueError as error:
            raise ContenderError(_one_line(error)) from error
        context = multiprocessing.get_context('spawn')
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=_serve_alone,
            args=(contender, list(images), warm_up, time.monotonic(), other),
            daemon=True,
        )
        self._process.start()
        other.close()
        try:
            self.start: dict[str, float] = self._answer()
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def ask(self, command: str, *arguments: Any) -> Any:
        """What one of the commands returns, see :func:`serve`.

        Raises:
            ContenderError: It failed.
        """
        try:
            self._connection.send((command, *arguments))
        except OSError as error:
            raise self._ended() from error
        return self._answer()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._connection.close()
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            good, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if not good:
            raise ContenderError(answer)
        return answer

    def _ended(self) -> ContenderError:
        self._process.join()
        return ContenderError(f'its process ended with status {self._process.exitcode}')

    def __enter__(self) -> 'ContenderProcess':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    contender: Contender,
    images: list[Image],
    warm_up: bool,
    started: float,
    connection: Connection,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Build a contender, warm it up, and do what comes down the connection, until it closes.

    Commands are methods of a :class:`.systems.System`, and

    - ``run``: the system's, with ``gpu_utilization`` in percent where that can be read;
    - ``latency``: seconds from one image alone to its result;
    - ``latencies`` and ``pace``: see :mod:`.latency`, with indices, or rate and
      number, of frames, and whether these are decoded beforehand, and kept;
    - ``report``: the system's, with the peak memory.
    """
    with suppress(OSError):  # the tool is gone
        try:
            build = _set_up(contender)
            imported = now()
            system = build(contender)
            loaded = now()
            system.prepare(images)
            system.run(images[:1])
            first = now()
            if warm_up:
                system.run(images)
        except Exception as error:  # of whatever library it is made of
            connection.send((False, _one_line(error)))
            return
        start = {
            'imports': imported - started,
            'load': loaded - started,
            'first_result': first - started,
            'first_run': first - loaded,
        }
        connection.send((True, start))
        with suppress(EOFError):
            while True:
                command, *arguments = connection.recv()
                try:
                    answer = True, _COMMANDS.get(command, _ask)(system, images, command, *arguments)
                except Exception as error:
                    answer = False, _one_line(error)
                connection.send(answer)


def _serve_alone(*arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the tool is the end of this process
    serve(*arguments)


def _one_line(error: Exception) -> str:
    logging.getLogger('mmpose_batch').debug(traceback.format_exc())
    return ' '.join(str(error).split()) or type(error).__name__


def _ask(system: Any, images: list[Image], command: str, *arguments: Any) -> Any:
    """A method of the system itself."""
    return getattr(system, command)(images, *arguments)


def _run(system: Any, images: list[Image], command: str) -> dict[str, Any]:
    with watch_utilization() as readings:
        sample = system.run(images)
    return {**sample, 'gpu_utilization': fmean(readings)} if readings else sample


def _latency(system: Any, images: list[Image], command: str) -> float:
    some = images[:_SINGLE]
    for image in some:
        system.run([image])  # what is compiled for its size is, now
    return median(system.run([image])['seconds'] for image in some)


def _one_by_one(system: Any, images: list[Image], command: str, *arguments: Any) -> Any:
    *arguments, decoded = arguments
    measure = {'latencies': measure_each, 'pace': keep_pace}[command]
    return measure(_frames(system, images, decoded), *arguments)


def _report(system: Any, images: list[Image], command: str) -> dict[str, Any]:
    return {**system.report(), 'peak_memory': peak_memory()}


_COMMANDS: dict[str, Callable] = {
    'run': _run,
    'latency': _latency,
    'latencies': _one_by_one,
    'pace': _one_by_one,
    'report': _report,
}


@cache
def _decoded(path: str) -> np.ndarray:
    return cv2.imread(path)


def _frames(system: Any, images: Sequence[Image], decoded: bool) -> Callable[[int], object]:
    """What infers the frame of an index: the images over and over."""
    sources: list[Any] = [image.path for image in images]
    if decoded:
        sources = list(map(_decoded, sources))
    return lambda index: system.infer(sources[index % len(sources)])


def peak_memory() -> dict[str, int]:
    """The most memory that this process held, in bytes: ``resident``, and ``gpu`` by PyTorch."""
    import torch

    peak = {'resident': peak_resident()}
    if torch.cuda.is_available():
        peak['gpu'] = torch.cuda.max_memory_reserved()
    return peak


def _set_up(contender: Contender) -> Callable[[Contender], Any]:
    """Prepare this process for a contender; returns what builds it."""
    import torch
    from mmengine.logging import MMLogger

    from mmpose_batch.cores import bind_to_cores, default_threads, parse_cores

    sys.stdout = sys.stderr  # what libraries print is no part of the tables
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    if contender.cpu_affinity is not None:
        bind_to_cores(parse_cores(contender.cpu_affinity))
    torch.set_num_threads(default_threads())  # PyTorch counted before it was bound
    if (contender.models.device or '').startswith('cuda:'):
        torch.cuda.set_device(contender.models.device)  # whose memory and utilisation are told
    from .systems import build_system

    return build_system
