"""Which file is blamed for the death of a worker process, without any processes."""

from collections.abc import Callable

import pytest

from mmpose_batch.distributed.blame import (
    MAX_DEATHS,
    Attempt,
    Death,
    attempts_at_images,
    attempts_at_video,
)
from mmpose_batch.errors import RunError

COUNT = 12
# Says how an attempt ends: None if the process survives.
Ending = Callable[[Attempt], Death | None]


def carry_out(ending: Ending, count: int = COUNT) -> tuple[list[Attempt], dict[int, str]]:
    """All attempts, and the images that are broken in the last one, whose results count."""
    attempts, seen = attempts_at_images(count), []
    attempt = next(attempts)
    while True:
        seen.append(attempt)
        try:
            attempt = attempts.send(ending(attempt))
        except StopIteration:
            return seen, dict(attempt.broken)


def killed_by(*culprits: int, open_too: tuple[int, ...] = (), journal: bool = True) -> Ending:
    """The ending where some images kill the process while they and others are being read."""

    def ending(attempt: Attempt) -> Death | None:
        tried = range(COUNT) if attempt.only is None else attempt.only
        found = [place for place in tried if place in culprits and place not in attempt.broken]
        if not found:
            return None
        opened = {found[0], *(place for place in open_too if place in tried)}
        return Death('killed by SIGSEGV', frozenset(opened) if journal else frozenset())

    return ending


def killed_at(*numbers: int) -> Ending:
    """The ending where the process is killed from outside in some attempts, counted from 1."""
    count = iter(range(1, 1000))
    return lambda _: Death('killed by SIGKILL', frozenset([3])) if next(count) in numbers else None


@pytest.mark.parametrize(
    ('ending', 'broken', 'attempts'),
    [
        (lambda _: None, [], 1),
        # The chunk, the image alone, the chunk without it.
        (killed_by(5), [5], 3),
        (killed_by(0), [0], 3),
        (killed_by(COUNT - 1), [COUNT - 1], 3),
        # Others that were being read too are tried alone, and are innocent.
        (killed_by(5, open_too=(4, 6)), [5], 5),
        (killed_by(2, 5, 9), [2, 5, 9], 7),
        # Nothing was being read: the chunk twice, four halves, the image alone, the chunk.
        (killed_by(5, journal=False), [5], 8),
        (killed_by(*range(COUNT)), list(range(COUNT)), 2 * COUNT + 1),
    ],
)
def test_only_the_files_that_kill_their_process_alone_are_blamed(ending, broken, attempts):
    seen, found = carry_out(ending)
    assert (sorted(found), len(seen)) == (broken, attempts)
    assert all('killed by SIGSEGV' in reason for reason in found.values())


@pytest.mark.parametrize('numbers', [(1,), (1, 3), (1, 3, 5)])
def test_a_process_that_is_killed_from_outside_blames_no_file(numbers):
    _, found = carry_out(killed_at(*numbers))
    assert not found


def test_a_chunk_that_dies_without_a_cause_fails_after_a_bounded_number_of_attempts():
    def ending(attempt: Attempt) -> Death | None:
        is_whole = attempt.only is None and len(attempt.broken) < COUNT
        return Death('killed by SIGKILL') if is_whole else None

    seen, found = carry_out(ending)
    assert sorted(found) == list(range(COUNT))
    assert sum(attempt.only is None for attempt in seen) == MAX_DEATHS + 1
    assert f'died {MAX_DEATHS} times' in found[0]
    assert 'no single image is the cause: killed by SIGKILL' in found[0]


def test_the_chunk_is_tried_with_the_images_that_are_known_to_be_broken():
    def ending(attempt: Attempt) -> Death | None:
        tried = set(range(COUNT) if attempt.only is None else attempt.only)
        found = sorted((tried & {1, 8}) - set(attempt.broken))
        return Death('killed by SIGSEGV', frozenset(found)) if found else None

    seen, found = carry_out(ending)
    assert sorted(found) == [1, 8]
    assert [attempt.only for attempt in seen] == [None, (1,), (8,), None]


def test_a_process_that_dies_without_reading_ends_the_run():
    with pytest.raises(RunError, match='without reading images: killed by SIGKILL'):
        carry_out(lambda _: Death('killed by SIGKILL'))
    attempts = attempts_at_video(0)
    next(attempts)
    with pytest.raises(RunError, match='before they read a frame'):
        for _ in range(100):
            attempts.send(Death('killed by SIGKILL'))


@pytest.mark.parametrize(
    ('start', 'deaths', 'stops'),
    [
        (0, [], [None]),
        (256, [300], [None, None]),
        (256, [300, 310], [None, None, None]),
        # The first frame that was not read in one of them.
        (256, [310, 300, 305], [None, None, None, 300]),
        # It does not help: the video ends where the chunk starts.
        (256, [300, 300, 300, 290], [None, None, None, 300, 256]),
        # The death comes before the chunk: its start is the limit.
        (256, [0, 0, 0], [None, None, None, 256]),
    ],
)
def test_a_video_ends_where_it_kills_its_process(start, deaths, stops):
    attempts, seen = attempts_at_video(start), []
    ends = [Death('killed by SIGSEGV', frames=frames) for frames in deaths]
    attempt = next(attempts)
    for end in [*ends, None]:
        seen.append(attempt.stop)
        try:
            attempt = attempts.send(end)
        except StopIteration:
            break
    assert seen == stops
    if stops[-1] is not None:
        assert 'killed by SIGSEGV' in attempt.stop_reason
