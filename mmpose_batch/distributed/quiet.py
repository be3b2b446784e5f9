"""Warnings about worker processes that seem to hang, for runs without a time limit per chunk."""

import os.path as osp
import time
from dataclasses import dataclass

from ..progress import Clock
from .blame import Death
from .chunks import Chunk
from .journal import read_death

# Seconds without progress after which a process may hang, if no chunk has taken longer.
QUIET = 60.0
# Images that a warning names.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Activity:
    """What a worker process is doing.

    Attributes:
        chunk: The chunk, or the part of it, that it infers.
        journal: Its journal.
        pid: Its process id.
        device: Device of its networks.
    """

    chunk: Chunk
    journal: str
    pid: int
    device: str


@dataclass(slots=True)
class _Seen:
    """An attempt at a chunk: when it began, and when its journal last grew, in seconds."""

    chunk: Chunk
    size: int
    begin: float
    since: float
    is_reported: bool = False


class QuietWatch:
    """Finds worker processes that have neither read nor completed anything for long.

    That is, for a minute and for as long as the longest chunk has taken. Each attempt at a chunk
    is reported once.

    Args:
        clock: Returns seconds since a fixed time.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, _Seen] = {}
        self._longest = 0.0

    def check(self, worker: int, activity: Activity | None) -> str | None:
        """A warning about a worker, if it has been quiet for long.

        Args:
            worker: Number of the worker.
            activity: What it is doing; None if it has no chunk.
        """
        now, seen = self._clock(), self._seen.get(worker)
        chunk = activity and activity.chunk
        if seen is not None and seen.chunk is not chunk:
            if not seen.is_reported:
                self._longest = max(self._longest, now - seen.begin)
            del self._seen[worker]
            seen = None
        if activity is None:
            return None
        size = _size(activity.journal)
        if seen is None:
            self._seen[worker] = _Seen(activity.chunk, size, now, now)
            return None
        if seen.size != size:
            seen.size, seen.since = size, now
        seconds = now - seen.since
        if seen.is_reported or seconds < max(QUIET, self._longest):
            return None
        seen.is_reported = True
        death = read_death(activity.journal, '')
        return (
            f'a worker (process {activity.pid}, {activity.device}) has read and completed nothing '
            f'for {seconds:.0f} s. {_work(activity.chunk, death)} If it hangs, kill it, and it is '
            'replaced; --timeout-per-chunk SECONDS does so by itself'
        )


def _size(journal: str) -> int:
    """Size of a journal, which grows with every image or frame that is read."""
    try:
        return osp.getsize(journal)
    except OSError:
        return 0


def _work(chunk: Chunk, state: Death) -> str:
    """What a process is working on, as a sentence."""
    if chunk.video is not None:
        return f'It is working on {chunk.video.name}, of which it has read {state.frames} frames.'
    names = [chunk.images[place].name for place in sorted(state.opened)]
    if names:
        more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
        return f'It is reading {", ".join(names[:_NAMED])}{more}.'
    first, last = chunk.images[0].name, chunk.images[-1].name
    return f'It is working on the images {first} to {last}, and is reading none of them.'
