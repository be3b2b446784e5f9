"""One worker process, which is started again when it dies."""

import signal
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotInTime
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_all_start_methods, get_context
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from . import worker
from .blame import Attempt, Attempts, Death, attempts_at_images, attempts_at_video
from .chunk_files import ChunkSummary
from .chunks import Chunk
from .journal import read_death

if TYPE_CHECKING:
    import pebble

# Starts of a process that end before it is ready, after which the run ends.
MAX_STARTS = 3


def import_pebble() -> Any:
    """Import ``pebble``, which supervises processes.

    Raises:
        RunError: It is not installed. The message is one line.
    """
    try:
        import pebble
    except ImportError as error:
        raise RunError(
            'devices: needs the package pebble, which is not installed: '
            f"pip install 'mmpose-batch[devices]' ({error})"
        ) from error
    return pebble


class _Died(Exception):
    """The process has died; the message says how."""


class WorkerProcess:
    """A process that infers chunks, and its replacements.

    Args:
        setup: File with the pickled :class:`mmpose_batch.distributed.worker.WorkerSetup`.
        device: Device of the networks.
        journal: File for the journal of the process.
        timeout: Seconds after which a chunk that is not complete counts as hanging; None for
            never.

    Attributes:
        deaths: Number of processes that have died.
    """

    def __init__(self, setup: str, device: str, journal: str, timeout: float | None) -> None:
        self._pebble = import_pebble()
        self._pool = self._new_pool()
        self._arguments = setup, device, journal
        self._journal = journal
        self._timeout = timeout
        self._is_ready = False
        self.deaths = 0

    def _new_pool(self) -> 'pebble.ProcessPool':
        # Not forked from this process, since a fork lacks the threads of PyTorch and OpenVINO, and
        # cannot use CUDA. The fork server has imported everything but started neither.
        method = 'forkserver' if 'forkserver' in get_all_start_methods() else 'spawn'
        context = get_context(method)
        context.set_forkserver_preload([worker.__name__])
        return self._pebble.ProcessPool(max_workers=1, context=context)

    def start(self) -> None:
        """Start the process and build its inferencer, unless this is done.

        Raises:
            RunError: The process dies before it is ready.
            Exception: Any exception of the inferencer.
        """
        for _ in range(MAX_STARTS):
            if self._is_ready:
                return
            try:
                self._run(worker.build, *self._arguments)
                self._is_ready = True
            except _Died as error:
                reason = error
        if not self._is_ready:
            raise RunError(f'a worker process dies before it is ready: {reason}')

    def infer(self, chunk: Chunk) -> ChunkSummary:
        """Infer a chunk and write its file, however often the process dies.

        Files that kill the process become failure records.

        Raises:
            RunError: The process dies whatever is left out.
            Exception: Any exception of the worker, for example that the disk is full.
        """
        if chunk.video is None:
            attempts = attempts_at_images(len(chunk.images))
        else:
            attempts = attempts_at_video(chunk.start)
        return self._infer(chunk, attempts)

    def _infer(self, chunk: Chunk, attempts: Attempts) -> ChunkSummary:
        attempt = next(attempts)
        while True:
            found = self._try(chunk, attempt)
            try:
                attempt = attempts.send(found if isinstance(found, Death) else None)
            except StopIteration:
                return found

    def _try(self, chunk: Chunk, attempt: Attempt) -> ChunkSummary | Death | None:
        """Make one attempt at a chunk."""
        tried = replace(
            chunk, broken=attempt.broken, stop=attempt.stop, stop_reason=attempt.stop_reason
        )
        if attempt.only is None:
            return self._call(worker.infer, tried)
        images = tuple(chunk.images[place] for place in attempt.only)
        return self._call(worker.survives, replace(chunk, images=images))

    def _call(
        self, function: Callable[[Chunk], ChunkSummary | None], chunk: Chunk
    ) -> ChunkSummary | Death | None:
        """Call a function of the worker; returns what it returns, or how the process died."""
        self.start()
        try:
            return self._run(function, chunk, timeout=self._timeout)
        except _Died as error:
            self._is_ready = False
            return read_death(self._journal, str(error))

    def _run(self, function: Callable, *arguments: Any, timeout: float | None = None) -> Any:
        """Run a function in the process.

        Raises:
            _Died: The process has died.
            Exception: Any exception of the function.
        """
        try:
            return self._pool.schedule(function, args=arguments, timeout=timeout).result()
        except self._pebble.ProcessExpired as error:
            reason = _how(error.exitcode)
        except NotInTime:
            reason = f'it took longer than {timeout:g} s'
        except BrokenProcessPool:  # it died between two calls
            reason = 'it ended, with an unknown status'
        self.deaths += 1
        self.stop()
        self._pool = self._new_pool()
        raise _Died(reason)

    def stop(self) -> None:
        """End the process."""
        self._pool.stop()
        self._pool.join()


def _how(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is not None and exitcode < 0:
        try:
            return f'killed by {signal.Signals(-exitcode).name}'
        except ValueError:
            return f'killed by signal {-exitcode}'
    if exitcode == worker.DEVICE_IS_LOST:
        return 'its device was lost'
    return f'it exited with status {exitcode}'
