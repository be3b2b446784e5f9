"""A process of its own for each contender: its memory, threads and start are its alone."""

import logging
import multiprocessing
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import cv2

from .contenders import Contender
from .latency import keep_pace, measure_each
from .work import Image

# Images that are run before any that count.
_WARM_UP = 4
# Images that are run alone, for the latency.
_SINGLE = 10


class ContenderError(RuntimeError):
    """A contender that cannot run. Its message is one line."""


class ContenderProcess:
    """Starts a contender and has it run rounds.

    Args:
        contender: Who.
        images: What one round infers.

    Attributes:
        start: Seconds until it was loaded (``load``) and until its first result
            (``first_result``), from the start of its process, and of the first run.

    Raises:
        ContenderError: It cannot be built, or not run.
    """

    def __init__(self, contender: Contender, images: Sequence[Image]) -> None:
        context = multiprocessing.get_context('spawn')
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=serve, args=(contender, list(images), time.monotonic(), other), daemon=True
        )
        self._process.start()
        other.close()
        try:
            self.start: dict[str, float] = self._answer()
        except ContenderError:
            self.close()
            raise

    def ask(self, command: str, *arguments: Any) -> Any:
        """What one of the commands returns, see :func:`serve`.

        Raises:
            ContenderError: It failed.
        """
        self._connection.send((command, *arguments))
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _answer(self) -> Any:
        try:
            good, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise ContenderError(
                f'its process ended with status {self._process.exitcode}'
            ) from error
        if not good:
            raise ContenderError(answer)
        return answer

    def __enter__(self) -> 'ContenderProcess':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    contender: Contender, images: list[Image], started: float, connection: Connection
) -> None:
    """Build a contender, warm it up, and do what comes down the connection, until it closes.

    Commands are methods of a :class:`.systems.System`, and

    - ``latency``: seconds from one image alone to its result;
    - ``latencies`` and ``pace``: see :mod:`.latency`, with indices, or rate and
      number, of frames, and whether these are decoded beforehand;
    - ``report``: the system's, with the peak memory.
    """
    try:
        system = _build(contender, images)
        loaded = time.monotonic() - started
        first_run = system.run(images[:1])['seconds']
        start = {'load': loaded, 'first_result': time.monotonic() - started, 'first_run': first_run}
        system.run(images[:_WARM_UP])
        connection.send((True, start))
        while True:
            try:
                command, *arguments = connection.recv()
            except EOFError:
                return
            if command == 'latency':
                answer = median(system.run([image])['seconds'] for image in images[:_SINGLE])
            elif command in ('latencies', 'pace'):
                *rest, decoded = arguments
                answer = _ONE_BY_ONE[command](_frames(system, images, decoded), *rest)
            elif command == 'report':
                answer = {**system.report(), 'peak_memory': peak_memory()}
            else:
                answer = getattr(system, command)(images, *arguments)
            connection.send((True, answer))
    except Exception as error:  # of whatever library it is made of
        logging.getLogger('mmpose_batch').debug(traceback.format_exc())
        text = ' '.join(str(error).split()) or type(error).__name__
        connection.send((False, text))


_ONE_BY_ONE = {'latencies': measure_each, 'pace': keep_pace}


def _frames(system: Any, images: Sequence[Image], decoded: bool) -> Callable[[int], object]:
    """What infers the frame of an index: the images over and over."""
    sources: list[Any] = [image.path for image in images]
    if decoded:
        sources = [cv2.imread(path) for path in sources]
    return lambda index: system.infer(sources[index % len(sources)])


def peak_memory() -> dict[str, int]:
    """The most memory that this process held, in bytes: ``resident``, and ``gpu`` by PyTorch."""
    import torch

    peak = {'resident': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if torch.cuda.is_available():
        peak['gpu'] = torch.cuda.max_memory_reserved()
    return peak


def _build(contender: Contender, images: list[Image]) -> Any:
    from mmengine.logging import MMLogger

    from ..cores import bind_to_cores, parse_cores

    sys.stdout = sys.stderr  # what libraries print is no part of the tables
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    if contender.cpu_affinity is not None:
        bind_to_cores(parse_cores(contender.cpu_affinity))
    from .systems import build_system

    return build_system(contender, images)
