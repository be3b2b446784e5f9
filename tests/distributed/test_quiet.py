"""Warnings about workers that seem to hang, with a clock that only a test moves."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmpose_batch.distributed import pool
from mmpose_batch.distributed.chunk_files import ChunkSummary
from mmpose_batch.distributed.chunks import Chunk
from mmpose_batch.distributed.journal import Journal
from mmpose_batch.distributed.quiet import QUIET, Activity, QuietWatch
from mmpose_batch.distributed.worker import WarmedUp
from mmpose_batch.sources.base import Frame
from mmpose_batch.sources.items import Samples

IMAGES = tuple(Frame(i, f'/in/{i}.jpg', f'{i}.jpg') for i in range(6))
CHUNK = Chunk(0, 0, 256, IMAGES)
VIDEO = Chunk(0, 0, 256, video=Frame(0, '/in/a.mp4', 'a.mp4'), video_number=0)
# Seconds after which a test that would wait forever fails.
PATIENCE = 60
# Checks a worker after so many seconds.
Check = Callable[..., str | None]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / 'journal')


@pytest.fixture
def check(path: str) -> Check:
    now = [1000.0]
    watch = QuietWatch(lambda: now[0])

    def checked(seconds: float, chunk: Chunk | None, worker: int = 0) -> str | None:
        now[0] += seconds
        return watch.check(worker, chunk and Activity(chunk, path, 42, 'cpu'))

    return checked


def test_a_quiet_worker_is_reported_once_for_each_attempt_at_a_chunk(check: Check):
    again = replace(CHUNK)
    assert check(0, CHUNK) is None
    assert check(QUIET - 1, CHUNK) is None
    assert '(process 42, cpu) has read and completed nothing for 60 s.' in check(1, CHUNK)
    assert check(3600, CHUNK) is None
    assert check(0, again) is None
    assert check(QUIET, again)  # the hour of the first attempt is not that of a complete chunk


def test_workers_are_watched_separately_and_those_without_a_chunk_are_not(check: Check):
    assert check(0, CHUNK, 0) is check(0, None, 1) is None
    assert check(QUIET, None, 1) is None
    assert check(0, VIDEO, 1) is None
    assert check(0, CHUNK, 0)
    assert check(QUIET, VIDEO, 1)


def test_a_worker_that_reads_is_not_quiet(check: Check, path: str):
    journal = Journal(path)
    for chunk in (CHUNK, VIDEO):
        for _ in range(5):
            assert check(QUIET - 1, chunk) is None
            journal.note_frames(0)  # even if the same is being read as before


def test_a_worker_may_be_quiet_for_as_long_as_the_longest_chunk(check: Check):
    check(0, CHUNK, 1)
    check(QUIET - 1, None, 1)
    check(0, VIDEO, 1)
    check(0, CHUNK)
    check(300, None, 1)
    following = VIDEO.following()
    check(0, following)
    assert check(299, following) is None
    assert check(1, following)


@pytest.mark.parametrize(
    ('chunk', 'opened', 'frames', 'text'),
    [
        (CHUNK, [2], 0, 'It is reading 2.jpg. If'),
        (CHUNK, [4, 1], 0, 'It is reading 1.jpg, 4.jpg. If'),
        (CHUNK, range(5), 0, 'It is reading 0.jpg, 1.jpg, 2.jpg and 2 more. If'),
        (replace(CHUNK, images=IMAGES[3:]), [0], 0, 'It is reading 3.jpg. If'),
        (CHUNK, [], 0, 'on the images 0.jpg to 5.jpg, and is reading none of them. If'),
        (VIDEO, [], 7, 'It is working on a.mp4, of which it has read 7 frames. If'),
    ],
)
def test_a_warning_names_what_is_read_and_the_option(
    check: Check, path, chunk, opened, frames, text
):
    journal = Journal(path)
    with ExitStack() as stack:
        for place in opened:
            stack.enter_context(journal.reading(IMAGES[place]))
        journal.note_frames(frames)
        check(0, chunk)
        found = check(QUIET, chunk)
    assert text in found
    assert '--timeout-per-chunk SECONDS' in found


class Watch:
    """Stands in for the watch: warns of a worker that has a chunk.

    Attributes:
        checks: Number of checks.
        has_warned: Set with the first warning.
    """

    def __init__(self) -> None:
        self.checks, self.has_warned = 0, threading.Event()

    def check(self, worker: int, activity: Activity | None) -> str | None:
        self.checks += 1
        if activity is None:
            return None
        self.has_warned.set()
        return f'{activity.device} is quiet'


class Process:
    """Stands in for a worker process, which completes its chunk after a warning."""

    watch: Watch

    def __init__(self, setup: str, device: str, journal: str, timeout: float | None, *_) -> None:
        self.activity: Activity | None = None
        self._device, self._timeout = device, timeout

    def start(self) -> WarmedUp:
        return WarmedUp({}, {}, {})

    def infer(self, chunk: Chunk) -> ChunkSummary:
        self.activity = Activity(chunk, '', 42, self._device)
        assert self._timeout or self.watch.has_warned.wait(PATIENCE)
        return ChunkSummary(len(chunk.images))

    def stop(self) -> None: ...


@pytest.mark.parametrize(('timeout', 'warns'), [(None, True), (60, False)])
def test_a_run_warns_unless_there_is_a_timeout(timeout, warns, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pool, 'QuietWatch', Watch)
    monkeypatch.setattr(pool, 'WorkerProcess', Process)
    monkeypatch.setattr(pool, '_INTERVAL', 0.01)
    setup = SimpleNamespace(options=SimpleNamespace(out_dir=str(tmp_path)), run_id='')
    with pool.Workers(setup, ['cpu'], timeout) as workers:
        monkeypatch.setattr(Process, 'watch', workers._quiet, raising=False)
        workers.start(Samples(0), {})
        (done,) = workers.infer([CHUNK])
    assert done.summary.count == 6
    assert set(caplog.messages) == ({'cpu is quiet'} if warns else set())
    assert bool(workers._quiet.checks) == warns
