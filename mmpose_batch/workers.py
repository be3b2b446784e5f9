"""Threads that work ahead of their consumer: bounded, in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from enum import Enum
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

Item = TypeVar('Item')
Out = TypeVar('Out')


class Flush(Enum):
    """The type of :data:`FLUSH`."""

    FLUSH = 'flush'


#: An item of a stream that means: finish what came before, now. Every stage passes it on after
#: all results of earlier items, so that no batch holds items from both sides of it.
FLUSH: Final = Flush.FLUSH
FlushType = Literal[Flush.FLUSH]


class WorkerPool:
    """Threads that run a function over a stream, a bounded number of items ahead.

    OpenCV, NumPy and torch release the GIL while they work, so threads overlap with the
    network and pass arrays on without a copy. The threads start with the first item and stay
    for later streams: starting them costs little, but each makes its own OpenMP team.
    Several streams may share a pool.

    Args:
        num_workers: Number of threads. 0 runs everything in the calling thread,
            when an item is asked for.
        name: Prefix of the threads' names.
    """

    def __init__(self, num_workers: int, name: str = 'mmpose_batch') -> None:
        self.num_workers = num_workers
        self._name = name
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0
        self._lock = Lock()

    def map(
        self, function: Callable[[Item], Out], items: Iterable[Item | FlushType], ahead: int
    ) -> Iterator[Out | FlushType]:
        """Yield ``function(item)`` in the order of ``items``; FLUSH passes as it is.

        At most ``ahead`` results are finished or under way before they are
        asked for. What ``function`` raises is raised here, at its item's place. When the
        generator ends or is closed, nothing of it runs any more.
        """
        if not self.num_workers:
            for item in items:
                yield FLUSH if item is FLUSH else function(item)
            return
        executor = self._started()
        running: deque[Future[Out]] = deque()
        try:
            for item in items:
                if item is not FLUSH:
                    running.append(executor.submit(function, item))
                while running and (item is FLUSH or len(running) > ahead):
                    yield running.popleft().result()
                if item is FLUSH:
                    yield FLUSH
            while running:
                yield running.popleft().result()
        finally:
            wait([future for future in running if not future.cancel()])

    def _started(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None or self._process != os.getpid():  # a fork has no threads
                self._executor = ThreadPoolExecutor(self.num_workers, thread_name_prefix=self._name)
                self._process = os.getpid()
            return self._executor

    def close(self) -> None:
        """End the threads; they start again when they are needed."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()

    def __enter__(self) -> 'WorkerPool':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_ahead(
    items: Iterable[Item], ahead: int, max_wait: float | None = None
) -> Iterator[Item | FlushType]:
    """Iterate ``items`` on a thread of its own, ``ahead`` items before they are asked for.

    For sources that must be read one after the other, such as a video. What the
    source raises is raised here at its place; closing this generator ends the
    thread.

    Args:
        items: Are read once.
        ahead: Items that wait at most.
        max_wait: Seconds after which a source that gives nothing gives FLUSH; None for never.
    """
    queue: Queue[tuple[str, Any]] = Queue(maxsize=ahead)
    stop = Event()

    def put(kind: str, value: Any) -> bool:
        while not stop.is_set():
            try:
                queue.put((kind, value), timeout=0.1)
                return True
            except Full:
                continue
        return False

    def read() -> None:
        try:
            for item in items:
                if not put('item', item):
                    return
            put('end', None)
        except BaseException as error:  # handed to the consumer, which raises it
            put('error', error)

    thread = Thread(target=read, name='mmpose_batch_reader', daemon=True)
    thread.start()
    unfinished = False
    try:
        while True:
            try:
                kind, value = queue.get(timeout=max_wait if unfinished else None)
            except Empty:
                unfinished = False
                yield FLUSH
                continue
            unfinished = value is not FLUSH
            if kind == 'end':
                return
            if kind == 'error':
                raise value
            yield value
    finally:
        stop.set()
        while True:  # a reader blocked in put() must see the stop
            try:
                queue.get_nowait()
            except Empty:
                break
        if max_wait is None:  # else it may never end: the source may block
            thread.join()
