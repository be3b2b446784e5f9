"""One worker process, which is started again when it dies."""

import os.path as osp
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from threading import Lock
from typing import Any

from ..errors import RunError
from ..sources.items import Samples
from . import worker
from .blame import Attempt, Attempts, Death, attempts_at_images, attempts_at_video
from .child import ChildDied, ChildProcess
from .chunk_files import ChunkSummary
from .chunks import Chunk
from .journal import read_death
from .quiet import Activity
from .worker import WarmedUp

# Starts of a process that end before it is ready, after which the run ends.
MAX_STARTS = 4


class WorkerProcess:
    """A process that infers chunks, and its replacements.

    Args:
        setup: File with the pickled :class:`mmpose_batch.distributed.worker.WorkerSetup`, in a
            temporary folder, which the process removes if this one is killed.
        device: Device of the networks.
        journal: File for the journal of the process.
        timeout: Seconds after which a chunk that is not complete counts as hanging; None for
            never.
        samples: Images and videos that engines are verified with.
        selected: The engines and batch sizes to select, as far as they are known.

    Attributes:
        samples: Those that are left: images that kill the process are left out.
        is_bound: Whether it must select what it is given, as other processes have.
        activity: What the process is doing; None if it has no chunk.
        deaths: Number of processes that have died.
    """

    def __init__(
        self,
        setup: str,
        device: str,
        journal: str,
        timeout: float | None,
        samples: Samples,
        selected: Mapping[str, Any],
    ) -> None:
        self._child: ChildProcess | None = None
        self._lock = Lock()
        self._is_stopped = False
        self._arguments = setup, device, journal
        self._journal = journal
        self._timeout = timeout
        self._selected = selected
        self.samples = samples
        self.is_bound = False
        self._is_ready = False
        self.activity: Activity | None = None
        self.deaths = 0

    def start(self) -> WarmedUp | None:
        """Start the process, build its inferencer and warm it up, unless this is done.

        Images that were being read when the process died are left out of the warm-up; the videos
        are, if there were none.

        Returns:
            What it has selected; None if it was ready.

        Raises:
            RunError: The process dies whatever is left out, or selects something else than the
                process before it.
            Exception: Any exception of the inferencer.
        """
        if self._is_ready:
            return None
        for attempt in range(MAX_STARTS):
            with open(self._journal, 'w'):  # what it says is about the process before
                pass
            try:
                found = self._run(worker.build, *self._arguments, self.samples, self._selected)
            except ChildDied as error:
                if self._is_stopped:
                    raise
                death = read_death(self._journal, str(error))
                if attempt:  # the first may have been killed from outside
                    self.samples = _without(self.samples, death.opened)
                continue
            if self.is_bound:
                check_selection(found.selected, self._selected)
            self._selected, self.is_bound = found.selected, True
            self._is_ready = True
            return found
        raise RunError(f'a worker process dies before it is ready: {death.reason}')

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
        _, device, journal = self._arguments
        try:
            self.activity = Activity(chunk, journal, self._child.pid, device)
            return self._run(function, chunk, timeout=self._timeout)
        except ChildDied as error:
            if self._is_stopped:
                raise
            self._is_ready = False
            return read_death(self._journal, str(error))
        finally:
            self.activity = None

    def _run(self, function: Callable, *arguments: Any, timeout: float | None = None) -> Any:
        """Run a function in the process, which is started if there is none.

        Raises:
            ChildDied: The process has died.
            Exception: Any exception of the function.
        """
        with self._lock:
            if self._is_stopped:
                raise ChildDied('it was stopped')
            if self._child is None:
                temporary = osp.dirname(self._arguments[0])
                self._child = ChildProcess(worker.__name__, temporary)
        try:
            return self._child.call(function, *arguments, timeout=timeout)
        except ChildDied:
            self.deaths += 1
            self._child.kill()
            self._child = None
            raise

    def stop(self) -> None:
        """End the process, for good."""
        with self._lock:
            self._is_stopped = True
            child = self._child
        if child is not None:
            child.kill()


def _without(samples: Samples, places: Collection[int]) -> Samples:
    """Samples without some of their images, or, if these are none, without their videos."""
    images = [frame for place, frame in enumerate(samples.images) if place not in places]
    return replace(samples, images=images, videos=samples.videos if places else [])


def check_selection(own: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that a process has the engines and batch sizes of the process before it.

    Raises:
        RunError: It has others, with which its results would differ.
    """
    for key, values in expected.items():
        for name, value in values.items():
            if own[key].get(name) != value:
                raise RunError(
                    f'a worker process selected {own[key].get(name)} as {key} of {name}, instead '
                    f'of {value}: its results would differ'
                )
