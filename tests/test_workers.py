"""Threads that work ahead: in order, bounded, and ended afterwards.

Whether things happen at the same time is decided by events and barriers, never by a
clock: `PATIENCE` only ends a test that would hang.
"""

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import count

import pytest
from support.factories import our_threads

from mmpose_batch import workers
from mmpose_batch.workers import CHUNK_END, FLUSH, WorkerPool, read_ahead

pytestmark = pytest.mark.usefixtures('no_thread_is_left')

PATIENCE = 120.0


class Counted:
    """Iterates numbers and counts those that were consumed."""

    def __init__(self, length: int = 1_000_000) -> None:
        self.taken = 0
        self._length = length

    def __iter__(self) -> Iterator[int]:
        for number in range(self._length):
            self.taken += 1
            yield number


# ------------------------------------------------------------------------ WorkerPool


@pytest.mark.parametrize('num_workers', [0, 1, 2, 7])
@pytest.mark.parametrize('ahead', [0, 1, 5, 100])
def test_results_come_in_the_order_of_the_items(num_workers, ahead):
    with WorkerPool(num_workers) as pool:
        assert list(pool.map(lambda n: n * n, range(40), ahead)) == [n * n for n in range(40)]


@pytest.mark.parametrize('ahead', [1, 5])
def test_results_that_are_finished_early_keep_their_order(ahead):
    done = [threading.Event() for _ in range(40)]

    def overtaken(number: int) -> int:
        if number % 2 == 0:
            assert done[number + 1].wait(PATIENCE)
        done[number].set()
        return number

    with WorkerPool(2) as pool:
        assert list(pool.map(overtaken, range(40), ahead)) == list(range(40))


@pytest.mark.parametrize(
    ('num_workers', 'ahead', 'beyond'),
    [
        pytest.param(0, 9, 0, id='no workers read nothing ahead'),
        pytest.param(1, 0, 0, id='one at a time'),
        pytest.param(2, 3, 3, id='ahead'),
        pytest.param(7, 2, 2, id='more workers than ahead'),
    ],
)
def test_at_most_the_requested_items_and_those_ahead_are_consumed(num_workers, ahead, beyond):
    items = Counted()
    with WorkerPool(num_workers) as pool:
        results = pool.map(lambda number: number, items, ahead)
        for asked in range(1, 20):
            next(results)
            assert items.taken == asked + beyond


@pytest.mark.parametrize('num_workers', [0, 1, 3])
def test_an_exception_of_a_worker_is_raised_in_order(num_workers):
    def fail_at_five(number: int) -> int:
        if number == 5:
            raise LookupError('five')
        return number

    got = []
    with WorkerPool(num_workers) as pool, pytest.raises(LookupError, match='five'):
        got.extend(pool.map(fail_at_five, range(10), 4))
    # `extend` keeps the results before the error.
    assert got == [0, 1, 2, 3, 4]


def test_workers_run_at_the_same_time():
    together = threading.Barrier(3)
    with WorkerPool(3) as pool:
        # Each waits for all three: sequential items would deadlock.
        places = list(pool.map(lambda _: together.wait(PATIENCE), range(3), 3))
    assert sorted(places) == [0, 1, 2]


def test_workers_continue_while_the_consumer_is_busy():
    began = [threading.Event() for _ in range(4)]
    items = Counted(4)
    with WorkerPool(1) as pool:
        results = pool.map(lambda number: began[number].set(), items, 2)
        next(results)
        assert began[1].wait(PATIENCE)
        assert began[2].wait(PATIENCE)
        assert items.taken == 3  # the last is neither requested nor within `ahead`


def test_without_workers_items_run_lazily_in_the_calling_thread():
    threads = []
    results = WorkerPool(0).map(lambda _: threads.append(threading.current_thread()), range(3), 9)
    assert threads == []
    next(results)
    assert threads == [threading.main_thread()]


def test_one_pool_serves_two_stages_that_feed_each_other():
    # With one worker, a stage that waits inside a worker for the other would deadlock.
    with WorkerPool(1) as pool:
        inner = pool.map(lambda number: number + 1, range(20), 3)
        assert list(pool.map(lambda number: 2 * number, inner, 3)) == [
            2 * (number + 1) for number in range(20)
        ]


@pytest.mark.parametrize('error', [None, RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_leaving_early_ends_all_threads_and_starts_no_more_items(error, monkeypatch):
    release = threading.Event()
    begun = []
    wait = workers.wait

    def release_and_wait(running: list[Future]) -> None:
        release.set()
        wait(running)

    # Two items run and six are queued: the two must end, and the six must not start.
    monkeypatch.setattr(workers, 'wait', release_and_wait)

    def work(number: int) -> int:
        begun.append(number)
        if number:
            release.wait(PATIENCE)
        return number

    def consume() -> None:
        with WorkerPool(2) as pool:
            for _ in pool.map(work, range(100), 8):
                if error is not None:
                    raise error
                return

    if error is None:
        consume()
    else:
        with pytest.raises(error):
            consume()
    assert our_threads() == []
    assert len(begun) <= 3


# ------------------------------------------------------------------------ read_ahead


def test_read_ahead_keeps_the_order():
    assert list(read_ahead(range(100), 3)) == list(range(100))


def test_read_ahead_is_bounded():
    ahead, rounds, asked = 3, 200, 0
    read = [threading.Event() for _ in range(rounds + ahead + 1)]
    too_many = []

    def source() -> Iterator[int]:
        for number, event in enumerate(read):
            # In addition to the requested items: `ahead` in the queue, and one in the reader.
            if number + 1 > asked + ahead + 1:
                too_many.append(number)
            event.set()
            yield number

    items = read_ahead(source(), ahead)
    for number in range(rounds):
        asked += 1
        assert next(items) == number
        assert read[asked + ahead].wait(PATIENCE)
    items.close()
    assert too_many == []


def test_read_ahead_reads_while_the_consumer_is_busy():
    read = [threading.Event() for _ in range(3)]

    def source() -> Iterator[int]:
        for number in range(3):
            read[number].set()
            yield number

    items = read_ahead(source(), 2)
    next(items)
    assert read[1].wait(PATIENCE)
    assert read[2].wait(PATIENCE)
    items.close()


@pytest.mark.parametrize('error', [LookupError, KeyboardInterrupt])
def test_an_exception_of_the_source_is_raised_in_order(error):
    def source() -> Iterator[int]:
        yield from range(3)
        raise error('three')

    got = []
    with pytest.raises(error, match='three'):
        got.extend(read_ahead(source(), 10))
    assert got == [0, 1, 2]


@pytest.mark.parametrize('ahead', [1, 5])
def test_closing_ends_the_thread_and_closes_the_source(ahead):
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from count()
        finally:
            closed.set()

    items = read_ahead(source(), ahead)
    next(items)
    assert len(our_threads()) == 1
    items.close()
    assert our_threads() == []
    del items  # a camera is released once its frames are not referenced any more
    assert closed.is_set()


def test_closing_waits_for_a_slow_source(monkeypatch):
    in_source, go_on = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield 0
        in_source.set()
        go_on.wait(PATIENCE)
        yield 1

    items = read_ahead(source(), 1)
    next(items)
    assert in_source.wait(PATIENCE)
    join = threading.Thread.join
    monkeypatch.setattr(threading.Thread, 'join', lambda thread: go_on.set() or join(thread))
    items.close()
    assert go_on.is_set()
    assert our_threads() == []


def test_the_thread_ends_with_the_source():
    assert list(read_ahead(iter(()), 2)) == []
    assert our_threads() == []


# ---------------------------------------------------------------------------------- markers


@pytest.mark.parametrize('num_workers', [0, 2])
def test_flush_follows_all_earlier_results_before_later_items_are_requested(num_workers):
    asked = []

    def items() -> Iterator[object]:
        for item in (1, 2, FLUSH, 3, FLUSH, FLUSH):
            asked.append(item)
            yield item

    with WorkerPool(num_workers) as pool:
        results = pool.map(lambda item: -item, items(), ahead=10)
        assert [next(results), next(results)] == [-1, -2]
        assert next(results) is FLUSH
        assert 3 not in asked
        assert list(results) == [-3, FLUSH, FLUSH]


@pytest.mark.parametrize('num_workers', [0, 1, 3])
@pytest.mark.parametrize('ahead', [0, 1, 2, 100])
def test_the_end_of_a_chunk_keeps_its_place(num_workers, ahead):
    items = [1, CHUNK_END, CHUNK_END, 2, 3, CHUNK_END, 4, 5, 6, FLUSH, CHUNK_END]
    expected = [item if item in (CHUNK_END, FLUSH) else -item for item in items]
    with WorkerPool(num_workers) as pool:
        assert list(pool.map(lambda item: -item, items, ahead)) == expected


def test_the_next_chunk_begins_before_the_results_of_the_last_one_are_requested():
    begun = threading.Event()

    def first(item: int) -> int:
        # It ends only when an item of the next chunk has begun.
        assert begun.wait(PATIENCE) if item == 1 else begun.set() is None
        return item

    with WorkerPool(2) as pool:
        assert list(pool.map(first, [1, CHUNK_END, 2], ahead=2)) == [1, CHUNK_END, 2]


def test_a_source_without_new_items_yields_flush_once():
    more = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        more.wait(60)
        yield 2

    read = read_ahead(items(), 2, max_wait=0.001)
    assert [next(read), next(read)] == [1, FLUSH]
    more.set()
    assert next(read) == 2
    assert list(read) in ([], [FLUSH])


def test_the_reader_of_a_blocked_source_can_be_closed():
    never = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        never.wait(600)

    read = read_ahead(items(), 2, max_wait=0.001)
    assert next(read) == 1
    read.close()
    never.set()
    while our_threads():
        time.sleep(0.001)


# ------------------------------------------------------------------- pools that stay


def test_threads_stay_for_the_next_stream_until_the_pool_is_closed():
    with WorkerPool(1) as pool:
        threads = [
            list(pool.map(lambda _: threading.current_thread(), range(3), ahead=2))
            for _ in range(2)
        ]
        assert len({*threads[0], *threads[1]}) == 1
    assert list(pool.map(lambda item: item, range(3), ahead=2)) == [0, 1, 2]  # they start again
    pool.close()


def test_the_threads_end_with_their_pool():
    pool = WorkerPool(2, name='mmpose_batch_ending')  # pools of other tests may have threads too
    assert list(pool.map(lambda item: item, range(3), ahead=2)) == [0, 1, 2]
    threads = [t for t in threading.enumerate() if t.name.startswith('mmpose_batch_ending')]
    assert threads
    del pool
    gc.collect()
    for thread in threads:
        thread.join(timeout=PATIENCE)
        assert not thread.is_alive()


def test_closing_a_stream_waits_for_running_items_and_starts_no_more():
    started, release, finished = threading.Event(), threading.Event(), []

    def slow(item: int) -> int:
        if item == 1:
            started.set()
            assert release.wait(PATIENCE)
        finished.append(item)
        return item

    with WorkerPool(1) as pool:
        stream = pool.map(slow, iter(range(9)), ahead=4)
        assert next(stream) == 0
        assert started.wait(PATIENCE)
        threading.Timer(0.05, release.set).start()
        stream.close()
        assert finished == [0, 1]
        assert list(pool.map(slow, [7], ahead=1)) == [7]


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system does not fork')
def test_a_forked_process_starts_new_threads():
    with WorkerPool(1) as pool:
        assert list(pool.map(lambda item: item, [1], ahead=1)) == [1]
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # ends a child that waits for the threads of its parent
            results = list(pool.map(lambda item: item, [2], ahead=1))
            os._exit(0 if results == [2] else 1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_stream_that_is_closed_by_its_own_worker_does_not_wait_for_itself():
    """The garbage collector closes abandoned generators in any thread."""
    streams: list[Iterator[int]] = []
    ready, closed = threading.Event(), threading.Event()

    def close(item: int) -> int:
        if item == 1:
            assert ready.wait(PATIENCE)
            streams.pop().close()
            closed.set()
        return item

    with WorkerPool(1) as pool:
        streams.append(pool.map(close, iter([0, 1, 2]), ahead=2))
        assert next(streams[0]) == 0
        ready.set()
        assert closed.wait(PATIENCE)
