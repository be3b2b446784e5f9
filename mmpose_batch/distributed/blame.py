"""Which file killed a worker process: what to try next, after each attempt at a chunk.

A process that dies may be killed by a file (a decoder that crashes), by the system (out of memory)
or by a person. A file is blamed only if a process dies while it has been given this file alone. The
file is then treated as one that cannot be decoded, so the batches of the other images, and with
them the results, are those of a run in which it cannot.

The rules are generators without processes: they yield what to try, and are sent how it ended.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

from ..errors import READER_DIES, RunError

# Deaths, without a new file to blame in between, after which a chunk is given up.
MAX_DEATHS = 4


@dataclass(frozen=True, slots=True)
class Death:
    """How an attempt ended, other than by its results.

    Attributes:
        reason: What happened: ``killed by SIGSEGV``.
        opened: Places, in the chunk, of the images that were being read.
        frames: Number of results of the video that had been read.
    """

    reason: str
    opened: frozenset[int] = frozenset()
    frames: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What to try.

    Attributes:
        only: Places of the only images to infer, whose results are dropped: this only shows
            whether the process survives. None for the complete chunk, whose results count.
        broken: Images that are not to be read, and why.
        stop: Number of results of the video after which it is not read; None to read all.
        stop_reason: Why.
    """

    only: tuple[int, ...] | None = None
    broken: Mapping[int, str] = field(default_factory=dict)
    stop: int | None = None
    stop_reason: str = ''


Attempts = Generator[Attempt, Death | None, None]


def attempts_at_images(count: int) -> Attempts:
    """Yield what to try for a chunk of images, until its results are complete.

    After a death, each of the files that were being read is tried alone. If all of them survive,
    the chunk is tried again, since something else may have killed the process. After a second
    death, the chunk is halved until one file is left.

    Args:
        count: Number of images.

    Yields:
        The next attempt. How it ended is sent back: None if the results are complete.

    Raises:
        RunError: The process dies although no image is read any more.
    """
    broken: dict[int, str] = {}
    deaths = 0
    while (death := (yield Attempt(broken=dict(broken)))) is not None:
        deaths += 1
        if len(broken) == count:
            if deaths < MAX_DEATHS:
                continue
            raise RunError(f'worker processes die without reading images: {death.reason}')
        found = yield from _alone(sorted(death.opened - set(broken)), broken)
        if not found and deaths > 1:
            found = yield from _halved([i for i in range(count) if i not in broken], broken)
        if found:
            broken |= found
            deaths = 0
        elif deaths >= MAX_DEATHS:
            reason = (
                f'the process that read its chunk of {count} images died {deaths} times, and no '
                f'single image is the cause: {death.reason}'
            )
            broken |= {place: reason for place in range(count) if place not in broken}
            deaths = 0


def _alone(
    places: list[int], broken: Mapping[int, str]
) -> Generator[Attempt, Death | None, dict[int, str]]:
    """Try files alone; returns those that killed their process."""
    found: dict[int, str] = {}
    for place in places:
        death = yield Attempt(only=(place,), broken=dict(broken))
        if death is not None:
            found[place] = f'{READER_DIES}: {death.reason}'
    return found


def _halved(
    places: list[int], broken: Mapping[int, str]
) -> Generator[Attempt, Death | None, dict[int, str]]:
    """Halve a chunk until one file is left that kills its process; returns it, if there is one."""
    while len(places) > 1:
        half = places[: len(places) // 2]
        death = yield Attempt(only=tuple(half), broken=dict(broken))
        places = half if death is not None else places[len(half) :]
    return (yield from _alone(places, broken))


def attempts_at_video(start: int) -> Attempts:
    """Yield what to try for a chunk of a video, until its results are complete.

    A video is decoded from its beginning, so nothing can be read beyond a frame that kills the
    process. After three deaths the video ends before the first frame that was not read in one of
    them, and after another one at the start of the chunk; one failure record is its rest.

    Args:
        start: Number of results of the video before the chunk.

    Yields:
        The next attempt. How it ended is sent back: None if the results are complete.

    Raises:
        RunError: The process dies although it reads nothing beyond the start of the chunk.
    """
    stop, reason, deaths, read = None, '', 0, None
    while (death := (yield Attempt(stop=stop, stop_reason=reason))) is not None:
        deaths += 1
        if deaths > 2 * MAX_DEATHS:
            raise RunError(f'worker processes die before they read a frame: {death.reason}')
        read = death.frames if read is None else min(read, death.frames)
        if deaths >= MAX_DEATHS - 1:
            stop = start if stop is not None else max(start, read)
            reason = f'{READER_DIES}: {death.reason}'
