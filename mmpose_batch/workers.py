"""Threads that work a bounded number of items ahead of their consumer, in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from enum import Enum
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread, local
from types import TracebackType
from typing import Any, Final, TypeVar

Item = TypeVar('Item')
Out = TypeVar('Out')


class Marker(Enum):
    """An item of a stream that is not a frame.

    Every stage passes a marker on after the results of earlier items, and no batch contains
    items from both sides of it.
    """

    FLUSH = 'flush'
    CHUNK_END = 'chunk end'


#: Finish all earlier items before the next item is requested, since it may not come for a while.
FLUSH: Final = Marker.FLUSH
#: The end of a chunk. Stages continue with the next chunk while they finish this one.
CHUNK_END: Final = Marker.CHUNK_END


# Its attribute ``works`` says that this thread runs an item of some pool.
_here = local()


def _work(function: Callable[[Item], Out], item: Item) -> Out:
    _here.works = True
    try:
        return function(item)
    finally:
        _here.works = False


class WorkerPool:
    """Threads that run a function over a stream, a bounded number of items ahead.

    OpenCV, NumPy and torch release the GIL while they work, so threads overlap with the
    network and pass on arrays without a copy. The threads start with the first item and are
    reused for later streams: starting one is cheap, but each creates its own OpenMP threads.
    Several streams may share a pool.

    Args:
        num_workers: Number of threads. 0 runs the function in the calling thread, when an item
            is requested.
        name: Prefix of thread names.
    """

    def __init__(self, num_workers: int, name: str = 'mmpose_batch') -> None:
        self.num_workers = num_workers
        self._name = name
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0
        self._lock = Lock()

    def map(
        self, function: Callable[[Item], Out], items: Iterable[Item | Marker], ahead: int
    ) -> Iterator[Out | Marker]:
        """Yield ``function(item)`` in the order of ``items``; markers pass as they are.

        At most ``ahead`` items are computed before their results are requested. An exception of
        ``function`` is raised here, in place of the result. Once the generator ends or is
        closed, none of its items is still being computed.
        """
        if not self.num_workers:
            for item in items:
                yield item if isinstance(item, Marker) else function(item)
            return
        executor = self._started()
        running: deque[Future[Out] | Marker] = deque()
        try:
            for item in items:
                is_marker = isinstance(item, Marker)
                running.append(item if is_marker else executor.submit(_work, function, item))
                while running and (
                    item is FLUSH or len(running) > ahead or isinstance(running[0], Marker)
                ):
                    yield _result(running.popleft())
            while running:
                yield _result(running.popleft())
        finally:
            futures = (each for each in running if not isinstance(each, Marker))
            unfinished = [future for future in futures if not future.cancel()]
            # The garbage collector may close this generator in a thread that runs one of its items.
            if not getattr(_here, 'works', False):
                wait(unfinished)

    def _started(self) -> ThreadPoolExecutor:
        with self._lock:
            if (
                self._executor is None or self._process != os.getpid()
            ):  # a forked process has no threads
                self._executor = ThreadPoolExecutor(self.num_workers, thread_name_prefix=self._name)
                self._process = os.getpid()
            return self._executor

    def close(self) -> None:
        """End the threads; a later stream starts them again."""
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


def _result(item: Future[Out] | Marker) -> Out | Marker:
    return item if isinstance(item, Marker) else item.result()


def read_ahead(
    items: Iterable[Item], ahead: int, max_wait: float | None = None
) -> Iterator[Item | Marker]:
    """Iterate ``items`` in a separate thread, ``ahead`` items before they are requested.

    This is for sources that must be read sequentially, such as a video. An exception of the
    source is raised here, in place of the item; closing this generator ends the thread.

    Args:
        items: Iterable, which is iterated once.
        ahead: Maximum number of items that wait for the consumer.
        max_wait: Seconds without an item after which FLUSH is yielded; None for never.
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
        except BaseException as error:  # passed to the consumer, which raises it
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
        while True:  # so that a reader blocked in put() sees `stop`
            try:
                queue.get_nowait()
            except Empty:
                break
        if max_wait is None:  # else the source may block, and joining never end
            thread.join()
