"""Calls of one inferencer do not affect each other."""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
from support.inferencing import KINDS, PICTURES

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')

SECONDS = 120.0  # only ends a test that would hang

TWO_CALLS = {
    'one_stage': (
        {'bbox_thr': 0.3, 'batch_size': 1, 'return_vis': True, 'skeleton_style': 'openpose'},
        {'bbox_thr': 0.5, 'batch_size': 4, 'nms_thr': 0.1, 'return_vis': True, 'radius': 7},
    ),
    'top_down': (
        {'bbox_thr': 0.3, 'return_vis': True, 'draw_heatmap': True},
        {'bbox_thr': 0.7, 'batch_size': 2, 'return_vis': True, 'thickness': 3, 'draw_bbox': True},
    ),
}


def as_plain(results: Sequence[dict]) -> list[tuple[Any, list[bytes]]]:
    return [(r['predictions'], [d.tobytes() for d in r['visualization']]) for r in results]


@pytest.fixture(params=KINDS, scope='module')
def two_calls(request: pytest.FixtureRequest, ours: dict) -> tuple[list[Callable], list[list]]:
    """Two calls that differ in all options, and the results of each alone."""
    kind = request.param
    calls = [
        lambda options=options: ours[kind](PICTURES[:4], **options) for options in TWO_CALLS[kind]
    ]
    expected = [as_plain(list(call())) for call in calls]
    assert expected[0] != expected[1]
    return calls, expected


def test_two_generators_of_one_object_may_be_interleaved(two_calls):
    calls, expected = two_calls
    pairs = list(zip(*(call() for call in calls), strict=True))
    assert [as_plain(results) for results in zip(*pairs, strict=True)] == expected


def test_two_threads_may_use_one_object(two_calls):
    calls, expected = two_calls
    found: dict[int, list] = {}
    start = threading.Barrier(2)

    def run(number: int) -> None:
        start.wait()
        for _ in range(2):
            found.setdefault(number, []).append(as_plain(list(calls[number]())))

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [expected[number]] * 2 for number in (0, 1)}


def test_shared_objects_are_used_by_one_thread_at_a_time(ours, monkeypatch):
    inferencer = ours['top_down']
    calls: list[str] = []
    met: list[str] = []

    def alone(owner: Any, name: str) -> None:
        """Record whether two threads are in a function at the same time."""
        function, both = getattr(owner, name), threading.Barrier(2)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            with suppress(threading.BrokenBarrierError):  # no other thread: as expected
                both.wait(0.2)
                met.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)

    def together(owner: Any, name: str) -> None:
        """Make both threads reach a function before either enters it."""
        function, both = getattr(owner, name), threading.Barrier(2)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            both.wait(60)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)

    together(inferencer.runner, 'test_step')
    alone(type(inferencer.model), 'test_step')
    together(inferencer, 'draw')
    alone(inferencer.visualizer, 'add_datasample')
    with ThreadPoolExecutor(2) as pool:
        run = partial(inferencer, PICTURES[0], return_vis=True)
        (one,), (other,) = pool.map(lambda _: list(run()), range(2))
    assert calls == ['test_step'] * 2 + ['add_datasample'] * 2
    assert met == []
    assert one['predictions'] == other['predictions'] != [[]]


@pytest.mark.parametrize('kind', KINDS)
def test_leaving_a_call_early_does_not_change_settings(ours, plain, kind):
    inferencer, expected = ours[kind], plain[kind]
    settings = copy.deepcopy(dict(inferencer.model.test_cfg))
    abandoned = inferencer(PICTURES, bbox_thr=0.99, draw_heatmap=True, return_vis=True)
    next(abandoned)
    assert dict(inferencer.model.test_cfg) == settings
    assert list(inferencer(PICTURES)) == expected
    abandoned.close()


def test_the_users_config_is_not_changed(one_stage):
    before = copy.deepcopy(one_stage.cfg.to_dict())
    list(one_stage.ours()(PICTURES[:2], bbox_thr=0.9, draw_heatmap=True))
    assert one_stage.cfg.to_dict() == before


def test_a_call_does_not_wait_for_the_source_of_another(one_stage):
    """Not even while the engine waits for its first images."""
    inferencer = one_stage.ours(engine='openvino')
    started, release = threading.Event(), threading.Event()

    def slow() -> Iterator[np.ndarray]:
        started.set()
        assert release.wait(SECONDS)
        yield PICTURES[0]

    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(lambda: list(inferencer(slow())))
        assert started.wait(SECONDS)
        (result,) = inferencer(PICTURES[1])
        assert not waiting.done()
        release.set()
        assert len(waiting.result(SECONDS)) == 1
    assert result['predictions']


def test_an_iterator_may_call_the_inferencer(one_stage):
    inferencer = one_stage.ours(engine='openvino')

    def nested() -> Iterator[np.ndarray]:
        for image in PICTURES[:2]:
            list(inferencer(image))
            yield image

    assert len(list(inferencer(nested(), max_wait=0.01))) == 2


@pytest.mark.parametrize('kind', KINDS)
def test_threads_stay_for_the_next_call(one_stage, top_down, kind):
    inferencer = {'one_stage': one_stage, 'top_down': top_down}[kind].ours(num_workers=2)

    def reading() -> set[int]:
        before = set(threading.enumerate())
        list(inferencer(PICTURES))
        names = 'mmpose_batch_pool_read'
        return {t.ident for t in set(threading.enumerate()) - before if names in t.name}

    assert len(reading()) == 2
    assert reading() == set()  # no more threads


def test_a_single_image_starts_no_thread(top_down):
    inferencer = top_down.ours(num_workers=2)
    before = set(threading.enumerate())
    for image in (PICTURES[0], [PICTURES[0]]):
        list(inferencer(image))
    assert set(threading.enumerate()) == before
