"""A separate process for each contender, so that memory, threads and start are its own."""

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

# Images that are run separately, for the latency.
_SINGLE = 10


class ContenderError(RuntimeError):
    """A contender cannot run. The message is one line."""


class ContenderProcess:
    """Process of a contender, which runs rounds on request.

    Args:
        contender: The contender.
        images: Images of one round.
        warm_up: Whether to run an uncounted round first, so that everything is compiled for
            its batch sizes.

    Attributes:
        start: Seconds from the start of its process until PyTorch and MMPose are imported
            (``imports``), the weights are loaded (``load``) and the first result is there
            (``first_result``), and the seconds from ``load`` to ``first_result``
            (``first_run``), in which engines are imported, built and verified.

    Raises:
        ContenderError: The contender cannot be built or run. Settings that cannot be combined
            are rejected before the process starts.
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
            self.start: dict[str, float] = self._receive()
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def ask(self, command: str, *arguments: Any) -> Any:
        """Run one of the commands of :func:`serve` and return its result.

        Raises:
            ContenderError: The command failed.
        """
        try:
            self._connection.send((command, *arguments))
        except OSError as error:
            raise self._ended() from error
        return self._receive()

    def close(self) -> None:
        """Kill the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()

    def _receive(self) -> Any:
        try:
            succeeded, result = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if not succeeded:
            raise ContenderError(result)
        return result

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
    """Build a contender, warm it up, and run the commands from the connection until it closes.

    Commands are the methods of a :class:`.systems.System`, and

    - ``run``: its result also has ``gpu_utilization`` in percent, if that can be read;
    - ``latency``: seconds from a single image to its result;
    - ``latencies`` and ``pace``: see :mod:`.latency`; their arguments are the indices, or the
      rate and number, of frames, and whether these are decoded beforehand and held in memory;
    - ``report``: its result also has the peak memory.
    """
    with suppress(OSError):  # the tool has ended
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
        except Exception as error:  # of any library
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
                    reply = True, _COMMANDS.get(command, _ask)(system, images, command, *arguments)
                except Exception as error:
                    reply = False, _one_line(error)
                connection.send(reply)


def _serve_alone(*arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # this process ends with the tool
    serve(*arguments)


def _one_line(error: Exception) -> str:
    logging.getLogger('mmpose_batch').debug(traceback.format_exc())
    return ' '.join(str(error).split()) or type(error).__name__


def _ask(system: Any, images: list[Image], command: str, *arguments: Any) -> Any:
    """Call a method of the system."""
    return getattr(system, command)(images, *arguments)


def _run(system: Any, images: list[Image], command: str) -> dict[str, Any]:
    with watch_utilization() as readings:
        sample = system.run(images)
    return {**sample, 'gpu_utilization': fmean(readings)} if readings else sample


def _latency(system: Any, images: list[Image], command: str) -> float:
    some = images[:_SINGLE]
    for image in some:
        system.run([image])  # so that everything is compiled for its size
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
    """Function that infers the frame with an index; the images repeat."""
    sources: list[Any] = [image.path for image in images]
    if decoded:
        sources = list(map(_decoded, sources))
    return lambda index: system.infer(sources[index % len(sources)])


def peak_memory() -> dict[str, int | None]:
    """Peak memory of this process in bytes: ``resident``, and ``gpu`` as PyTorch reports it.

    None if the system does not report it.
    """
    import torch

    peak: dict[str, int | None] = {'resident': peak_resident()}
    if torch.cuda.is_initialized():
        peak['gpu'] = torch.cuda.max_memory_reserved()
    return peak


def _set_up(contender: Contender) -> Callable[[Contender], Any]:
    """Prepare this process for a contender; returns the function that builds it."""
    import torch
    from mmengine.logging import MMLogger

    from mmpose_batch.cores import bind_to_cores, default_threads, parse_cores

    sys.stdout = sys.stderr  # keeps the output of libraries out of the tables
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    if contender.cpu_affinity is not None:
        bind_to_cores(parse_cores(contender.cpu_affinity))
    torch.set_num_threads(
        default_threads()
    )  # PyTorch counted the cores before the process was bound
    if (contender.models.device or '').startswith('cuda:'):
        torch.cuda.set_device(contender.models.device)  # whose memory and utilization are read
    from .systems import build_system

    return build_system
