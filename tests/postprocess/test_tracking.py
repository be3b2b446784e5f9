"""Track ids of persons in videos."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample

from mmpose_batch.errors import TrackingError
from mmpose_batch.postprocess import tracking
from mmpose_batch.postprocess.tracking import MAX_LOST, PersonTracker, track
from mmpose_batch.results import ImageResult, to_record
from mmpose_batch.sources.base import Frame

# Limits for one simulated video of six persons and ten seconds, the maxima of three seeds. At 30
# frames per second: one of the persons has two ids, one of them that of another person, and the
# first box of each track has none (6 to 8 of about 1,500).
MAX_SWITCHES = 1
MAX_IDS_PER_PERSON = 7 / 6
MAX_SHARED_IDS = 1
MAX_WITHOUT_ID = 0.006
# At 5 frames per second, where persons move by up to half of their width in a frame.
MAX_SWITCHES_SLOW = 2
MAX_IDS_PER_PERSON_SLOW = 8 / 6

PERSONS = 6
WIDTH, HEIGHT = 1280, 720
BOX = [100.0, 100.0, 180.0, 300.0]


def sample_of(boxes: np.ndarray, score: float = 0.5) -> PoseDataSample:
    """Persons with two keypoints, the corners of their boxes."""
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    sample = PoseDataSample()
    sample.pred_instances = InstanceData(
        keypoints=boxes.reshape(-1, 2, 2),
        keypoint_scores=np.ones((len(boxes), 2), dtype=np.float32),
        bboxes=boxes,
        bbox_scores=np.full(len(boxes), score, dtype=np.float32),
    )
    return sample


def result_of(index: int, boxes: np.ndarray, video: str = 'a.mp4', **fields) -> ImageResult:
    """A frame of a video at 30 frames per second; ``fields`` are those of its ``Frame``."""
    frame = Frame(index, np.zeros(0), video, source_id=video, frame_id=index, time=index / 30)
    frame = replace(frame, **fields)
    return ImageResult(frame, (WIDTH, HEIGHT), [sample_of(boxes)])


def record_of(result: ImageResult) -> dict:
    """The record of a frame, as it is read back from a file."""
    frame = result.frame
    place = {'video': frame.name, 'frame': frame.frame_id, 'time': frame.time}
    return orjson.loads(orjson.dumps({**place, **to_record(result)}))


def ids_of(results: list[ImageResult]) -> list[list[int | None] | None]:
    return [result.track_ids for result in track(results)]


def walk(seed: int, times: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """People who walk, cross and turn: their numbers and boxes at each time, in random order.

    Boxes jitter by a hundredth of their width, 10 % are missed, and people are hidden for half a
    second (15 frames at 30 frames per second) about once in eight seconds.
    """
    rng = np.random.default_rng(seed)
    start, speed = rng.uniform(100, 1180, PERSONS), rng.uniform(60, 180, PERSONS)
    speed *= rng.choice([-1, 1], PERSONS)
    y, width = rng.uniform(200, 500, PERSONS), rng.uniform(70, 120, PERSONS)
    half = np.stack((width, width * rng.uniform(2, 2.6, PERSONS))) / 2
    hidden_until = np.full(PERSONS, -1.0)
    for step, time in zip(np.diff(times, prepend=times[0]), times, strict=True):
        x = 50 + np.abs((start + speed * time - 50) % (2 * (WIDTH - 100)) - (WIDTH - 100))
        centers = np.stack((x, y + 10 * np.sin(3 * time + start)))
        boxes = np.concatenate((centers - half, centers + half)).T
        visible = time >= hidden_until
        hides = visible & (rng.random(PERSONS) < step / 8)
        hidden_until[hides] = time + 0.5
        found = np.flatnonzero(visible & ~hides & (rng.random(PERSONS) > 0.1))
        rng.shuffle(found)
        yield found, boxes[found] + rng.normal(0, 0.01, (len(found), 4)) * width[found, None]


def errors(seed: int, times: np.ndarray) -> SimpleNamespace:
    """Identity switches, ids per person, and the fraction of boxes without id, by the truth."""
    seen = list(walk(seed, times))
    results = [
        result_of(i, boxes, time=time)
        for i, ((_, boxes), time) in enumerate(zip(seen, times, strict=True))
    ]
    paths: list[list[int | None]] = [[] for _ in range(PERSONS)]
    for (persons, _), ids in zip(seen, ids_of(results), strict=True):
        for person, track_id in zip(persons, ids, strict=True):
            paths[person].append(track_id)
    total = sum(map(len, paths))
    known = [[track_id for track_id in path if track_id is not None] for path in paths]
    return SimpleNamespace(
        switches=sum(a != b for path in known for a, b in pairwise(path)),
        ids_per_person=sum(len(set(path)) for path in known) / PERSONS,
        without_id=1 - sum(map(len, known)) / total,
        shared=sum(len(set(path)) for path in known) - len({i for path in known for i in path}),
    )


STEADY = np.arange(300) / 30


@pytest.mark.parametrize('seed', range(3))
def test_persons_keep_their_ids_when_they_cross_and_are_hidden(seed):
    found = errors(seed, STEADY)
    assert found.switches <= MAX_SWITCHES
    assert found.ids_per_person <= MAX_IDS_PER_PERSON
    assert found.without_id <= MAX_WITHOUT_ID
    assert found.shared <= MAX_SHARED_IDS


@pytest.mark.parametrize('seed', range(3))
def test_persons_keep_their_ids_at_a_low_frame_rate(seed):
    found = errors(seed, np.arange(50) / 5)
    assert found.switches <= MAX_SWITCHES_SLOW
    assert found.ids_per_person <= MAX_IDS_PER_PERSON_SLOW


@pytest.mark.parametrize('score', [0.01, 0.3, 0.30001, 0.5, 1.0])
def test_an_id_is_given_from_the_second_frame_whatever_the_score(score):
    results = [result_of(i, BOX) for i in range(3)]
    for result in results:
        result.data_samples = [sample_of(BOX, score)]
    assert ids_of(results) == [[None], [0], [0]]


def test_a_person_found_in_one_frame_only_stays_unconfirmed():
    frames = [[BOX], [BOX, [500, 100, 600, 300]], [BOX], [BOX]]
    assert ids_of([result_of(i, boxes) for i, boxes in enumerate(frames)]) == [
        *([None], [0, None], [0], [0])
    ]


def test_each_video_has_ids_of_its_own():
    videos = [('a.mp4', 3), ('one frame.mp4', 1), ('b.mp4', 3)]
    results = [result_of(i, BOX, video) for video, length in videos for i in range(length)]
    assert ids_of(results) == [[None], [0], [0], [None], [None], [0], [0]]


def test_ids_follow_the_instances_when_their_order_changes():
    boxes = np.array([BOX, [400, 100, 480, 300], [800, 100, 880, 300]])
    orders = [[0, 1, 2], [0, 1, 2], [2, 0, 1], [1, 2, 0], [1]]
    ids = ids_of([result_of(i, boxes[order]) for i, order in enumerate(orders)])
    assert ids[1:] == orders[1:]


def test_persons_that_were_not_merged_are_tracked_together():
    boxes = np.array([BOX, [400, 100, 480, 300]])
    results = [result_of(i, boxes) for i in range(3)]
    results[2].data_samples = [sample_of(boxes[1]), sample_of([]), sample_of(boxes[0])]
    assert ids_of(results) == [[None, None], [0, 1], [1, 0]]


def test_separate_images_have_no_ids():
    images = [result_of(i, BOX, source_id='', frame_id=None, time=None) for i in range(2)]
    assert ids_of(images) == [None, None]
    assert 'track_id' not in to_record(images[1])['instances'][0]
    assert 'track_id' not in images[1].predictions[0][0]


def test_frames_of_a_camera_are_tracked():
    frames = [replace(result_of(i, BOX).frame, name=f'{i}.jpg', frame_id=None) for i in range(3)]
    assert ids_of([ImageResult(f, (1, 1), [sample_of(BOX)]) for f in frames]) == [[None], [0], [0]]


def test_frames_without_persons_have_no_ids():
    results = [result_of(i, BOX if i in (0, 1, 5) else []) for i in range(6)]
    assert ids_of(results) == [[None], [0], [], [], [], [0]]


def failed(index: int) -> ImageResult:
    return ImageResult(result_of(index, []).frame, error='damaged since frame 1')


def test_a_frame_that_failed_only_lets_time_pass():
    results = [result_of(0, BOX), failed(1), result_of(2, BOX), failed(3), result_of(4, BOX)]
    assert ids_of(results) == [[None], None, [0], None, [0]]
    results = [result_of(0, BOX), result_of(1, BOX), *map(failed, range(2, 40))]
    assert ids_of([*results, result_of(40, BOX)])[-1] == [None]


@pytest.mark.parametrize(('absent', 'kept'), [(0.95 * MAX_LOST, True), (1.05 * MAX_LOST, False)])
@pytest.mark.parametrize('frames_between', [0, 3, 100])
def test_a_track_ends_by_time_and_not_by_frames(absent, kept, frames_between):
    between = np.linspace(0, absent, frames_between + 2)[1:-1] + 0.1
    times = [0, 0.1, *between, 0.1 + absent, 0.2 + absent]
    results = [
        result_of(i, [] if time in between else BOX, time=float(time))
        for i, time in enumerate(times)
    ]
    assert ids_of(results)[-2:] == ([[0], [0]] if kept else [[None], [1]])


@pytest.mark.parametrize('gap', [1 / 30, 0.2, 0.4])
def test_a_person_is_expected_where_the_time_says(gap):
    """In 0.4 s the person moves by one and a half times the width of the box."""
    times = np.append(np.arange(20) / 30, 19 / 30 + gap)
    boxes = np.add.outer(300 * times, [1, 0, 1, 0]) + BOX
    results = [result_of(i, box, time=times[i]) for i, box in enumerate(boxes)]
    assert ids_of(results)[-1] == [0]


@pytest.mark.parametrize('stride', [1, 5])
def test_unknown_times_follow_the_numbers_of_frames(stride):
    numbers = np.arange(0, 60, stride)
    seen = [boxes for _, boxes in walk(0, numbers / 30)]
    timed = [result_of(int(number), boxes) for number, boxes in zip(numbers, seen, strict=True)]
    untimed = [replace(result, frame=replace(result.frame, time=None)) for result in timed]
    assert ids_of(untimed) == ids_of(timed)


@pytest.mark.filterwarnings('error')
def test_times_that_do_not_increase_lose_no_person():
    times = [0.0, 1 / 30, 1 / 30, 0.02, 0.1, None, None]
    results = [result_of(i, BOX, time=time) for i, time in enumerate(times)]
    assert ids_of(results) == [[None]] + [[0]] * 6


def test_boxes_that_cannot_be_matched_have_no_ids():
    bad = [[np.nan, 0, 1, 1], [0, 0, np.inf, 1], [5, 5, 5, 9], [9, 9, 5, 5]]
    results = [result_of(i, [bad[0], BOX, *bad[1:]]) for i in range(3)]
    assert ids_of(results)[1:] == [[None, 0, None, None, None]] * 2


def without_boxes(result: ImageResult) -> ImageResult:
    for sample in result.data_samples:
        del sample.pred_instances.bboxes, sample.pred_instances.bbox_scores
    return result


def test_models_without_boxes_are_tracked_by_their_keypoints():
    results = [without_boxes(result_of(i, BOX)) for i in range(3)]
    results[1].data_samples[0].pred_instances.keypoint_scores[:] = 0.1
    assert ids_of(results) == [[None], [0], [0]]


def test_keypoints_with_low_scores_do_not_extend_a_box():
    keypoints = np.array([[10, 20], [30, 40], [900, 900]], dtype=float)
    box_around = tracking._box_around
    assert box_around(keypoints, np.array([0.9, 0.5, 0.3])).tolist() == [[10, 20, 30, 40]]
    assert box_around(keypoints, np.array([0.9, 0.3, 0.3])).tolist() == [[10, 20, 900, 900]]


def mixed_run() -> list[ImageResult]:
    """Two videos with changing numbers of persons, failures, a stride and odd times."""
    rng = np.random.default_rng(0)
    results = []
    for video, step in (('a.mp4', 1), ('b.mp4', 3)):
        times = np.cumsum(rng.choice([1 / 60, 1 / 30, 0.1], 10))
        for i, (_, boxes) in enumerate(walk(step, times)):
            result = result_of(i * step, boxes, video, time=float(times[i]))
            results.append(replace(result, error='damaged') if i % 7 == 5 else result)
    return results


@pytest.mark.parametrize('models', ['boxes', 'keypoints'])
def test_a_resumed_run_gives_the_same_ids_wherever_it_starts(models):
    def fresh() -> list[ImageResult]:
        return list(map(without_boxes, mixed_run())) if models == 'keypoints' else mixed_run()

    complete = list(track(fresh()))
    records, ids = list(map(record_of, complete)), [result.track_ids for result in complete]
    assert {None} < {track_id for found in ids for track_id in found or ()}
    for done in range(len(records) + 1):
        tracker = PersonTracker()
        rest = fresh()[done:]
        for record in records[:done]:
            if rest and record['video'] == rest[0].frame.name:
                tracker.replay(record)
        assert [result.track_ids for result in track(rest, tracker)] == ids[done:]


@pytest.mark.parametrize('models', ['boxes', 'keypoints'])
def test_records_and_results_give_the_tracker_the_same_numbers(models):
    for result in mixed_run():
        if models == 'keypoints':
            without_boxes(result)
        live, read = tracking._of_result(result), tracking._of_record(record_of(result))
        assert live[:3] == read[:3]
        assert (live.boxes is None) == (read.boxes is None)
        if live.boxes is not None:
            assert np.array_equal(live.boxes, read.boxes)


def test_a_record_with_an_error_and_instances_is_tracked():
    """Only its drawing could not be written."""
    tracker = PersonTracker()
    for i in range(2):
        tracker.replay({**record_of(result_of(i, BOX)), 'error': 'vis/a.mp4: disk is full'})
    (result,) = track([result_of(2, BOX)], tracker)
    assert result.track_ids == [0]


def test_the_same_results_give_the_same_ids():
    assert ids_of(mixed_run()) == ids_of(mixed_run())


def test_track_ids_are_written_in_the_order_of_the_samples():
    boxes = np.array([BOX, [400, 100, 480, 300], [800, 100, 880, 300]])
    result = result_of(0, boxes[:2])
    result.data_samples.append(sample_of(boxes[2:]))
    result.track_ids = [7, None, 2]
    instances = to_record(result)['instances']
    assert [list(instance)[-1] for instance in instances] == ['track_id'] * 3
    assert [instance['track_id'] for instance in instances] == [7, None, 2]
    found = [[instance['track_id'] for instance in each] for each in result.predictions]
    assert found == [[7, None], [2]]


@pytest.mark.parametrize('missing', ['trackers', 'supervision'])
def test_a_missing_package_is_one_line_with_both_commands(monkeypatch, missing):
    def import_module(name: str) -> object:
        if name == missing:
            raise ModuleNotFoundError(f"No module named '{name}'")
        return importlib.import_module(name)

    monkeypatch.setattr(tracking, 'import_module', import_module)
    with pytest.raises(TrackingError) as caught:
        track([])
    message = str(caught.value)
    assert f"No module named '{missing}'" in message
    assert 'pip install supervision' in message
    assert 'pip install --no-deps trackers' in message
    assert '\n' not in message


def test_a_version_without_timestamps_is_rejected(monkeypatch):
    old = SimpleNamespace(ByteTrackTracker=SimpleNamespace(update=lambda detections: None))
    monkeypatch.setattr(tracking, 'import_module', lambda name: old)
    with pytest.raises(TrackingError, match='timestamps'):
        PersonTracker()
