"""Progress of a run: a bar on a terminal, plain lines in a log, or nothing."""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

Item = TypeVar('Item')
# Returns seconds since a fixed time.
Clock = Callable[[], float]

# Seconds between two lines in a log.
LOG_INTERVAL = 10.0


class ProgressReport:
    """Counts images or frames and shows their number per second and the time left.

    Args:
        total: Number of images, including those of earlier runs; an estimate for videos.
        done: Number of images done by earlier runs; the rate does not include them.
        quiet: Whether to show nothing.
        noun: What is counted.
        stream: Output stream (default: stderr).
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        quiet: bool = False,
        noun: str = 'images',
        stream: TextIO | None = None,
    ) -> None:
        self._noun = noun
        self._total = total
        self._before = self._done = done
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._bar: Progress | None = None

    def __enter__(self) -> 'ProgressReport':
        self._start = self._last_line = time.monotonic()
        if not self._quiet and self._stream.isatty():
            self._bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn('{task.fields[rate]}'),
                console=Console(file=self._stream),
                transient=True,
            )
            self._task = self._bar.add_task('', total=self._total, completed=self._done, rate='')
            self._bar.start()
        return self

    def advance(self, count: int = 1) -> None:
        """Count more images."""
        self._done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, rate=self._rate())
        elif not self._quiet and time.monotonic() - self._last_line >= LOG_INTERVAL:
            self._last_line = time.monotonic()
            text = f'{self._done}/{self._total} {self._noun}, {self._rate()}'
            print(text, file=self._stream, flush=True)

    def _rate(self) -> str:
        seconds = time.monotonic() - self._start
        rate = (self._done - self._before) / max(seconds, 1e-9)
        left = max(self._total - self._done, 0) / rate
        return f'{rate:.1f} {self._noun}/s, {format_duration(left)} left'

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def format_duration(seconds: float) -> str:
    """Seconds as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'


@dataclass(slots=True)
class DetectionCounts:
    """Where the person boxes of frames of videos come from, with ``det_interval``.

    Attributes:
        detected: Frames that the detector ran on because of their position.
        added: Frames that it ran on in addition, since persons did not match.
        interpolated: Frames whose boxes are interpolated.
    """

    detected: int = 0
    added: int = 0
    interpolated: int = 0

    def add(self, other: 'DetectionCounts') -> None:
        """Add the counts of other frames."""
        self.detected += other.detected
        self.added += other.added
        self.interpolated += other.interpolated


class StageClock:
    """Seconds that the calling thread spent in each stage of a run.

    Attributes:
        seconds: Seconds of each stage.
        detections: Counts of frames; zero without ``det_interval``. Like the seconds, they are
            changed by the calling thread alone.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.detections = DetectionCounts()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside the ``with`` block to stage ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def waiting(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        """Iterate ``items``; the time to obtain each is added to stage ``name``.

        Stages nest if one stream iterates another: the time of an inner stage is added
        only to the inner stage.
        """
        while True:
            inner = sum(self.seconds.values())
            start = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                spent = time.perf_counter() - start
                self.seconds[name] += spent - (sum(self.seconds.values()) - inner)
            yield item
