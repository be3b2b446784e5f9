"""Several worker processes that share the chunks of a run."""

import logging
import os.path as osp
import pickle
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Condition, Thread
from types import TracebackType
from typing import Any

from ..sources.items import Samples
from .chunk_files import ChunkSummary, chunk_path, read_summary
from .chunks import Chunk
from .process import WorkerProcess
from .quiet import QuietWatch
from .worker import WarmedUp, WorkerSetup

# Chunks for each process that may be complete before an earlier one is.
AHEAD = 4
# Seconds between two looks at what workers are doing.
_INTERVAL = 5

logger = logging.getLogger('mmpose_batch')
# What the threads of a pool report: a chunk, their error, or their end.
_Done = SimpleQueue['ChunkDone | BaseException | None']


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """A chunk whose file is complete.

    Attributes:
        chunk: The chunk.
        summary: What its worker says about it.
        is_new: Whether this run has inferred it; else its file was there already.
    """

    chunk: Chunk
    summary: ChunkSummary
    is_new: bool


class Workers:
    """Worker processes, each fed by a thread, in a ``with`` block that ends all of them.

    All chunks of a video go to one process, in order. A process that dies is replaced, and only
    what it was working on is repeated.

    Args:
        setup: What all workers need.
        devices: Device of each process.
        timeout: Seconds after which a chunk that is not complete counts as hanging; None for
            never.
    """

    def __init__(
        self, setup: WorkerSetup, devices: Sequence[str], timeout: float | None = None
    ) -> None:
        self._setup = setup
        self._devices = devices
        self._timeout = timeout
        self._quiet = QuietWatch()
        self._folder = setup.options.out_dir
        self._waiting: deque[Chunk] = deque()
        self._changed = Condition()
        self._allowed = 0
        self._stopped = False

    def __enter__(self) -> 'Workers':
        self._temporary = tempfile.TemporaryDirectory(prefix='mmpose_batch-')
        setup = osp.join(self._temporary.name, 'setup')
        with open(setup, 'wb') as file:
            pickle.dump(self._setup, file)
        self._path = setup
        self._processes: list[WorkerProcess] = []
        return self

    def start(self, samples: Samples, selected: Mapping[str, Any]) -> WarmedUp:
        """Start the first process, which selects the engines; the others will select the same.

        Args:
            samples: Images and videos that represent the run.
            selected: What an earlier run has selected.

        Raises:
            RunError: The process dies whatever is left out of the samples.
            Exception: Any exception of the inferencer.
        """
        first = self._add(self._devices[0], samples, selected)
        found = first.start()
        self._engines = found.reports
        for device in self._devices[1:]:
            self._add(device, first.samples, found.selected).is_bound = True
        return found

    def _add(self, device: str, samples: Samples, selected: Mapping[str, Any]) -> WorkerProcess:
        journal = f'{self._path}-{len(self._processes)}'
        process = WorkerProcess(self._path, device, journal, self._timeout, samples, selected)
        self._processes.append(process)
        return process

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for process in self._processes:
            process.stop()
        self._temporary.cleanup()

    @property
    def count(self) -> int:
        """Number of processes."""
        return len(self._devices)

    @property
    def run_id(self) -> str:
        """Identifies the run."""
        return self._setup.run_id

    @property
    def engines(self) -> Mapping[str, Any]:
        """The latest reports of a process about its networks."""
        return self._engines

    @property
    def deaths(self) -> int:
        """Number of processes that have died."""
        return sum(process.deaths for process in self._processes)

    def infer(self, chunks: Iterable[Chunk]) -> Iterator[ChunkDone]:
        """Infer chunks; yields each when its file is complete, in any order.

        Args:
            chunks: Chunks of images, and the first chunk of each video: those that follow in
                the same video are inferred too.

        Raises:
            RunError: Processes die whatever is left out.
            Exception: Any exception of a worker, for example that the disk is full.
        """
        self._waiting.extend(chunks)
        # A process without work would only delay the end.
        processes = self._processes[: len(self._waiting)]
        self._allowed = AHEAD * len(self._processes)
        done: _Done = SimpleQueue()
        threads = [
            Thread(target=self._feed, args=(process, done), daemon=True) for process in processes
        ]
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            found = self._next(done)
            if isinstance(found, BaseException):
                raise found
            if found is None:
                running -= 1
                continue
            if found.is_new:
                self._engines = found.summary.engines
            yield found

    def release(self) -> None:
        """Note that the results of a chunk of images, or of a complete video, are processed.

        A bounded number of chunks is inferred before those ahead of them are processed.
        """
        with self._changed:
            self._allowed += 1
            self._changed.notify_all()

    def _next(self, done: _Done) -> ChunkDone | BaseException | None:
        """The next report; warns of workers that seem to hang, which no timeout would end."""
        while True:
            if self._timeout is None:
                for number, process in enumerate(self._processes):
                    if text := self._quiet.check(number, process.activity):
                        logger.warning(text)
            with suppress(Empty):
                return done.get(timeout=_INTERVAL)

    def _feed(self, process: WorkerProcess, done: _Done) -> None:
        """Give one process its chunks (a thread of its own)."""
        try:
            process.start()
            while (chunk := self._take()) is not None:
                while True:
                    found = self._done(process, chunk)
                    done.put(found)
                    if chunk.video is None or found.summary.ended or self._stopped:
                        break
                    chunk = chunk.following()
            done.put(None)
        except BaseException as error:  # raised in the thread of the run
            done.put(None if self._stopped else error)

    def _take(self) -> Chunk | None:
        """The next chunk, when enough of those before it are processed; None if there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._waiting or self._allowed)
            if self._stopped or not self._waiting:
                return None
            self._allowed -= 1
            return self._waiting.popleft()

    def _done(self, process: WorkerProcess, chunk: Chunk) -> ChunkDone:
        """A chunk whose file is complete, maybe since an earlier run that was killed."""
        path = chunk_path(self._folder, chunk, self._setup.run_id)
        summary = read_summary(path)
        if summary is not None:
            return ChunkDone(chunk, summary, is_new=False)
        return ChunkDone(chunk, process.infer(chunk), is_new=True)
