"""Boxes of all frames of a video from detections on some: which frames, which boxes, batches."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import picture

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.batching import BatchRunner, ImageInFlight
from mmpose_batch.config import BatchOptions, merge_settings
from mmpose_batch.factory import plan_inferencer
from mmpose_batch.progress import DetectionCounts
from mmpose_batch.results import ImageResult
from mmpose_batch.runs.identity import of_options
from mmpose_batch.sources.base import Frame
from mmpose_batch.stages import interval
from mmpose_batch.stages.interval import IntervalStage, interpolate, is_cut, match, thumbnail_of
from mmpose_batch.workers import CHUNK_END, FLUSH, Marker, WorkerPool

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')

Boxes = Sequence[Sequence[float]]
SIZE = (60, 40)
GREY, BRIGHT = (np.full((*SIZE[::-1], 3), level, np.uint8) for level in (100, 160))


def person(x: float, y: float = 10, width: float = 30, height: float = 90, score: float = 0.9):
    return [x, y, x + width, y + height, score]


# ----------------------------------------------------------------------------- pure functions

MATCHES = {
    'no persons': ([], [], []),
    'someone comes': ([], [person(0)], None),
    'someone leaves': ([person(0), person(100)], [person(0)], None),
    'one is replaced by another': ([person(0)], [person(100)], None),
    'a third of the width': ([person(0)], [person(10)], [0]),
    'too far': ([person(0)], [person(18)], None),
    'another order': ([person(0), person(100)], [person(98), person(3)], [1, 0]),
    'much wider': ([person(0)], [person(0, width=62)], None),
    'somewhat wider': ([person(0)], [person(0, width=58)], [0]),
    'much lower': ([person(0)], [person(0, height=44)], None),
    'walk in a row': ([person(0), person(40)], [person(8), person(48)], [0, 1]),
    'cross': ([person(0), person(10)], [person(10), person(0)], None),
    'one of two is ambiguous': ([person(0), person(21)], [person(10), person(31)], None),
    'without extent': ([person(0, width=0)], [person(0, width=0)], None),
    'equal labels': (
        [[*person(0), 1], [*person(0), 2]],
        [[*person(0), 2], [*person(0), 1]],
        [1, 0],
    ),
    'another label': ([[*person(0), 1]], [[*person(0), 2]], None),
}


@pytest.mark.parametrize(('boxes', 'others', 'expected'), MATCHES.values(), ids=MATCHES)
def test_boxes_match_one_to_one_or_not_at_all(boxes, others, expected):
    width = max([5, *(len(box) for box in boxes)])
    arrays = [np.array(each, np.float32).reshape(-1, width) for each in (boxes, others)]
    for one, other in (arrays, arrays[::-1]):
        found = match(one, other)
        assert (found is None) == (expected is None)
    if expected is not None:
        assert match(*arrays).tolist() == expected


def test_corners_and_scores_are_interpolated_with_the_highest_score_first():
    boxes = np.array([[0, 0, 10, 20, 0.9, 3], [50, 0, 60, 20, 0.5, 7]], np.float32)
    others = np.array([[4, 0, 14, 24, 0.3, 3], [50, 8, 60, 28, 0.7, 7]], np.float32)
    np.testing.assert_allclose(
        interpolate(boxes, others, 0.25), [[1, 0, 11, 21, 0.75, 3], [50, 2, 60, 22, 0.55, 7]]
    )
    found = interpolate(boxes, others, 0.75)
    np.testing.assert_allclose(
        found, [[50, 6, 60, 26, 0.65, 7], [3, 0, 13, 23, 0.45, 3]], rtol=1e-6
    )
    assert found.dtype == np.float32
    assert boxes[0].tolist() == [0, 0, 10, 20, pytest.approx(0.9), 3]


@pytest.mark.parametrize('shape', [(5, 7, 3), (64, 48, 3), (720, 1280, 3)])
def test_a_thumbnail_has_one_size_and_the_mean_of_the_image(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for image in (pixels, pixels.astype(np.float32)):
        thumbnail = thumbnail_of(image)
        assert (thumbnail.shape, thumbnail.dtype) == ((16, 16, 3), np.float32)
        assert thumbnail.mean() == pytest.approx(pixels.mean(), abs=12)


def test_other_scenes_are_cuts_and_shifted_or_noisy_ones_are_not():
    scenes = [picture(1280, 720, seed) for seed in range(12)]
    thumbnails = [thumbnail_of(scene) for scene in scenes]
    assert all(is_cut(one, other) for one, other in pairwise(thumbnails))
    noise = np.random.default_rng(0).integers(-20, 21, scenes[0].shape)
    for scene, thumbnail in zip(scenes, thumbnails, strict=True):
        changed = np.roll(np.clip(scene + noise, 0, 255).astype(np.uint8), 20, axis=1)
        assert not is_cut(thumbnail, thumbnail_of(changed))


# ----------------------------------------------------------------------------- the stage


@dataclass
class Video:
    """Frames with known boxes, and a detector that finds these and records its batches.

    Attributes:
        truth: Boxes by position.
        unreadable: Positions of frames that cannot be read.
        undetectable: Positions of frames on which the detector fails.
        cut: Position of the first frame of another scene.
    """

    truth: Callable[[int], Boxes]
    unreadable: Sequence[int] = ()
    undetectable: Sequence[int] = ()
    cut: int = 10**6
    batches: list[list[int]] = field(default_factory=list)
    counts: DetectionCounts = field(default_factory=DetectionCounts)

    def boxes(self, position: int) -> np.ndarray:
        return np.array(self.truth(position), np.float32).reshape(-1, 5)

    def frame(self, position: int) -> ImageInFlight:
        name = f'clip.mp4 {position}'
        frame = Frame(position, BRIGHT, 'clip.mp4', source_id='clip', frame_id=100 + position)
        image = ImageInFlight(ImageResult(frame, SIZE), GREY if position < self.cut else BRIGHT)
        if position in self.unreadable:
            image.fail(f'{name}: damaged')
        return image

    def prepare(self, image: ImageInFlight) -> ImageInFlight:
        position = image.result.frame.index
        image.detector_inputs = [{'inputs': torch.empty(3, 4, 4), 'position': position}]
        return image

    def detect(self, inputs: list[dict[str, Any]]) -> list[np.ndarray]:
        positions = [each['position'] for each in inputs]
        if bad := set(positions).intersection(self.undetectable):
            raise RuntimeError(f'cannot detect {bad}')
        self.batches.append(positions)
        return [self.boxes(position) for position in positions]

    def stage(self, every: int, batch_size: int = 2, workers: int = 0) -> IntervalStage:
        fields = 'detector_inputs', 'detections'
        return IntervalStage(
            interval=every,
            detections=BatchRunner(self.detect, batch_size, stage='detection', fields=fields),
            prepare=self.prepare,
            workers=WorkerPool(workers),
            counts=self.counts,
        )

    def run(self, length: int, every: int, **settings: int) -> list[ImageInFlight]:
        images = map(self.frame, range(length))
        found = list(self.stage(every, **settings).stream(images))
        assert [image.result.frame.index for image in found] == list(range(length))
        return found

    @property
    def detected(self) -> list[int]:
        return sorted(chain(*self.batches))


def walk(position: int) -> Boxes:
    """Two persons who walk in opposite directions and do not meet."""
    return [person(position, score=0.9), person(300 - position, score=0.8)]


@pytest.mark.parametrize('every', [2, 5, 10])
@pytest.mark.parametrize('length', range(1, 31))
def test_a_linear_motion_is_exact_with_detections_on_every_nth_and_the_last_frame(length, every):
    video = Video(walk)
    for position, image in enumerate(video.run(length, every)):
        (boxes,) = image.detections
        np.testing.assert_allclose(boxes, video.boxes(position), rtol=1e-6)
        assert boxes.dtype == np.float32
    expected = sorted({*range(0, length, every), length - 1})
    assert video.detected == expected
    assert video.counts == DetectionCounts(len(expected), 0, length - len(expected))


def at(first: int, last: int = 10**6) -> Callable[[int], Boxes]:
    """A person who is there from one position to another."""
    return lambda position: [person(0)] if first <= position <= last else []


def both(*parts: Callable[[int], Boxes]) -> Callable[[int], Boxes]:
    return lambda position: [box for part in parts for box in part(position)]


def fast(position: int) -> Boxes:
    """A person who runs from frame 10 to 15 and then stands."""
    return [person(6 * min(max(position - 10, 0), 5))]


def cross(position: int) -> Boxes:
    """Two persons who walk towards each other and pass between frames 10 and 11."""
    return [person(2 * position), person(42 - 2 * position, score=0.8)]


STANDS = at(0)
EVERY_FIFTH = [0, 5, 10, 15, 20]
# What happens in 21 frames, and the frames that are detected with an interval of 5.
SCENES = {
    'no persons': (Video(lambda position: []), EVERY_FIFTH),
    'a person stands': (Video(STANDS), EVERY_FIFTH),
    'one enters': (Video(both(STANDS, lambda p: [person(99)] * (p >= 13))), [*EVERY_FIFTH, 12, 13]),
    'one leaves': (Video(at(0, 11)), [*EVERY_FIFTH, 11, 12]),
    'comes with a detection': (Video(at(10)), [*EVERY_FIFTH, 7, 8, 9]),
    'seen once': (Video(at(10, 10)), [*EVERY_FIFTH, 7, 8, 9, 11, 12]),
    'not seen between detections': (Video(both(STANDS, at(11, 14))), EVERY_FIFTH),
    'runs': (Video(fast), [*EVERY_FIFTH, 12, 13]),
    'cross': (Video(cross), [0, 5, *range(7, 14), 15, 20]),
    'cut, equal boxes': (Video(STANDS, cut=13), [*EVERY_FIFTH, 12, 13]),
    'cut at a detection': (Video(STANDS, cut=15), [*EVERY_FIFTH, 12, 13, 14]),
    'damaged': (Video(STANDS, unreadable=[12]), [*EVERY_FIFTH, 11, 13]),
    'damaged at a detection': (Video(STANDS, unreadable=[10]), [0, 5, 9, 11, 15, 20]),
    'damaged at the start': (Video(STANDS, unreadable=[0, 1]), [2, 5, 10, 15, 20]),
    'damaged at the end': (Video(STANDS, unreadable=[19, 20]), [0, 5, 10, 15, 18]),
    'damaged all over': (Video(STANDS, unreadable=range(21)), []),
    'one frame is left': (Video(STANDS, unreadable=[*range(7), *range(8, 21)]), [7]),
    'the detector fails': (Video(STANDS, undetectable=[10]), [0, 5, 9, 11, 15, 20]),
    'it fails at the end': (Video(STANDS, undetectable=[20]), [0, 5, 10, 15, 19]),
    'it fails in a middle': (
        Video(at(13), undetectable=[12]),
        [*EVERY_FIFTH, 11, 13],
    ),
}


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('window', [interval.WINDOW_BYTES, 1], ids=['one window', 'many'])
@pytest.mark.parametrize('name', SCENES)
def test_detections_are_added_where_neighbours_do_not_match(name, window, workers, monkeypatch):
    monkeypatch.setattr(interval, 'WINDOW_BYTES', window)
    scene, expected = SCENES[name]
    video = replace(scene, batches=[], counts=DetectionCounts())
    for position, image in enumerate(video.run(21, 5, workers=workers)):
        failed = position in (*video.unreadable, *video.undetectable)
        assert (image.result.error is not None) == failed
        assert len(image.detections) == (not failed)
        if position in expected:
            np.testing.assert_array_equal(image.detections[0], video.boxes(position))
    assert video.detected == sorted(expected)
    counts = video.counts
    assert counts.detected + counts.added == len(expected)
    assert counts.detected == len(set(EVERY_FIFTH).intersection(expected))
    good = 21 - len({*video.unreadable, *video.undetectable})
    assert counts.interpolated == good - len(expected)


@pytest.mark.parametrize('name', ['one enters', 'one leaves', 'cut, equal boxes', 'seen once'])
def test_boxes_of_who_comes_and_leaves_are_exact(name):
    video = replace(SCENES[name][0], batches=[])
    for position, image in enumerate(video.run(21, 5)):
        np.testing.assert_array_equal(image.detections[0], video.boxes(position))


def test_the_frames_alone_decide_which_are_detected(monkeypatch):
    rng = random.Random(0)
    for _ in range(10):
        events = [at(first, first + rng.randrange(60)) for first in rng.sample(range(90), 3)]
        damaged, cut = rng.sample(range(100), 5), rng.randrange(200)
        every, found = rng.choice((2, 5, 10, 200)), []
        for window, batch_size, workers in ((2**29, 2, 0), (1, 1, 2), (60 * 40 * 60, 3, 1)):
            monkeypatch.setattr(interval, 'WINDOW_BYTES', window)
            video = Video(both(*events), damaged, (), cut)
            images = video.run(100, every, batch_size=batch_size, workers=workers)
            boxes = [[boxes.tolist() for boxes in image.detections] for image in images]
            found.append((video.detected, boxes, video.counts))
        assert found[0] == found[1] == found[2]


def test_batches_of_detections_are_full():
    video = Video(STANDS)
    video.run(151, 5, batch_size=4)
    assert [len(batch) for batch in video.batches] == [4] * 7 + [3]


def test_middles_of_many_gaps_share_batches():
    video = Video(lambda position: [person(18 * position / 5)])  # never matches at a distance of 5
    video.run(41, 5, batch_size=4)
    # A window has 8 detections and 7 middles between them, the next one has the last frames.
    assert [len(batch) for batch in video.batches] == [4, 4, 4, 3, 1, 1]


@pytest.mark.parametrize('precomputed', [False, True])
def test_the_number_of_frames_that_wait_is_bounded(precomputed, monkeypatch):
    monkeypatch.setattr(interval, 'WINDOW_BYTES', 3 * SIZE[0] * SIZE[1] * 10)
    video, read = Video(walk), 0

    def frames() -> Iterator[ImageInFlight]:
        nonlocal read
        for position in range(200):
            read += 1
            image = video.frame(position)
            image.persons = np.zeros((1, 5), np.float32) if precomputed else None
            yield image

    waiting = [read - done for done, _ in enumerate(video.stage(5).stream(frames()))]
    assert max(waiting) <= 10 + 1  # with the frame that shows whether a chunk has ended


@pytest.mark.parametrize(
    ('size', 'every', 'expected'),
    [((640, 480), 5, 8), ((1920, 1080), 5, 8), ((1920, 1080), 20, 4), ((7680, 4320), 30, 1)],
)
def test_a_window_has_the_detections_of_full_batches_if_memory_allows(size, every, expected):
    assert Video(walk).stage(every)._detections_in_window(*size) == expected


def test_a_chunk_begins_and_ends_with_a_detection():
    video = Video(walk)
    items: list[ImageInFlight | Marker] = [*map(video.frame, range(8)), CHUNK_END]
    items += [*map(video.frame, range(8, 15)), CHUNK_END, FLUSH]
    found = list(video.stage(5).stream(iter(items)))
    assert found == items
    assert video.detected == [0, 5, 7, 8, 13, 14]


def test_flush_follows_its_frames_at_once():
    video, taken = Video(walk), []

    def items() -> Iterator[ImageInFlight | Marker]:
        for item in (*map(video.frame, range(3)), FLUSH, video.frame(3)):
            taken.append(item)
            yield item

    stream = video.stage(5).stream(items())
    assert [next(stream) for _ in range(4)] == taken
    assert len(taken) == 4


def test_a_frame_of_another_size_is_not_matched():
    video = Video(STANDS)
    images = [video.frame(position) for position in range(11)]
    for image in images[3:]:
        image.result.size = SIZE[::-1]
    list(video.stage(5).stream(iter(images)))
    assert video.detected == [0, 2, 3, 5, 10]


def test_precomputed_boxes_stay_and_are_not_matched():
    video = Video(STANDS)
    images = [video.frame(position) for position in range(11)]
    for position in (4, 5):
        images[position].persons = np.ones((2, 5), np.float32)
    list(video.stage(5).stream(iter(images)))
    assert video.detected == [0, 3, 6, 10]
    assert images[5].detections == []
    assert images[5].persons.shape == (2, 5)


# ----------------------------------------------------------------------------- the option


@pytest.mark.parametrize('value', [0, -1, 1.5, True, '5', 'auto', None])
def test_the_interval_is_a_whole_number_of_at_least_1(top_down, value):
    cfg = {**top_down.cfg, 'inferencer': {}}
    if value is None:  # counts as left out
        assert (
            BatchPose2DInferencer(
                top_down.cfg, top_down.weights, 'cpu', det_model='whole_image', det_interval=value
            ).options.det_interval
            == 1
        )
        return
    with pytest.raises(ValueError, match='det_interval: expected an integer >= 1, found'):
        BatchPose2DInferencer(cfg, det_interval=value)


@pytest.mark.parametrize('name', ['det_interval', 'det_batch_size'])
def test_a_value_out_of_range_is_reported_before_an_option_without_effect(
    one_stage, top_down, name
):
    for model, more in ((one_stage, {}), (top_down, {'det_model': 'whole_image'})):
        with pytest.raises(ValueError, match=f'^{name}: expected an integer >= 1, found 0$'):
            plan_inferencer(model.cfg, model.weights, **more, **{name: 0})


def test_it_needs_a_top_down_model_with_a_detector(one_stage, top_down):
    message = 'det_interval: only valid for top-down models'
    for build in (BatchPose2DInferencer, plan_inferencer):
        with pytest.raises(ValueError, match=message):
            build(one_stage.cfg, one_stage.weights, det_interval=5)
        with pytest.raises(ValueError, match='det_interval: only valid with a detector'):
            build(top_down.cfg, top_down.weights, det_model='whole_image', det_interval=5)


def test_the_interval_of_a_config_is_that_of_its_detector():
    own = {'det_model': 'rtmdet-m', 'det_interval': 5}
    assert merge_settings(own, {}) == own
    assert merge_settings(own, {'det_model': 'whole_image'}) == {'det_model': 'whole_image'}


@pytest.mark.parametrize(('every', 'expected'), [(1, None), (5, 5)])
def test_a_run_is_resumed_with_the_same_interval_only(every, expected):
    """Runs from before the option have no value, which equals None."""
    options = BatchOptions(det_interval=every).resolved('cpu')
    assert of_options(options, 'cpu', [0])['det_interval'] == expected
