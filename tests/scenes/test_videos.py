"""Synthetic videos: determined by their seed, with annotations that fit each frame."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.factories import run_tool
from xtcocotools.coco import COCO

from mmpose_batch.scenes import ClipOptions, Person, Scene, draw_clip, write_videos
from mmpose_batch.scenes.motion import sample_visit
from mmpose_batch.scenes.video import encode

SMALL = {'size': (160, 120), 'persons': (3, 3)}
CLIPS = [list(draw_clip(1, index, ClipOptions(seconds=8, fps=5, **SMALL))) for index in range(3)]


def tracks_of(frames: list[Scene]) -> dict[int, dict[int, Person]]:
    """Persons by track id and frame."""
    tracks: dict[int, dict[int, Person]] = defaultdict(dict)
    for number, frame in enumerate(frames):
        for person in frame.persons:
            tracks[person.track_id][number] = person
    return tracks


def decode(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


# --------------------------------------------------------------------------- the motion


def numbers(value: Any) -> Iterator[float]:
    """The numbers of nested tuples."""
    if not isinstance(value, tuple):
        yield value
        return
    for each in value:
        yield from numbers(each)


def test_motion_has_no_jumps():
    rng = np.random.default_rng(0)
    for start in (None, 0.0, 3.0):
        visit = sample_visit(rng, 480, 200, 10, start)
        times = np.arange(visit.start, visit.end - 1e-9, 0.005)
        moments = np.array([list(numbers(visit.at(time))) for time in times])
        # Per frame of 200 fps: at most 2 pixels, and 5 degrees.
        assert np.abs(np.diff(moments[:, 0])).max() < 2
        assert np.abs(np.diff(moments[:, 1:], axis=0)).max() < 5
        assert np.ptp(moments[:, 0]) > 100


def test_a_visit_begins_and_ends_outside_the_picture():
    visit = sample_visit(np.random.default_rng(4), 480, 200, 10, 2.0)
    assert visit.start == 2
    for time in (visit.start, visit.end - 1e-6):
        assert not -50 < visit.at(time).place < 530
    assert visit.at(visit.start - 0.01) is None
    assert visit.at(visit.end) is None


def test_the_places_of_a_visit_are_those_of_its_moments():
    visit = sample_visit(np.random.default_rng(4), 480, 200, 10, 2.0)
    times = np.linspace(0, visit.end + 1, 50)
    moments = [visit.at(time) for time in times]
    expected = [np.nan if moment is None else moment.place for moment in moments]
    np.testing.assert_allclose(visit.places(times), expected, atol=20)  # of 640


def test_a_first_visit_shows_the_person_at_once():
    for seed in range(20):
        visit = sample_visit(np.random.default_rng(seed), 480, 200, 10, None)
        assert -30 < visit.at(0).place < 510


# --------------------------------------------------------------------------- annotations


def test_annotations_fit_the_frames():
    assert sum(len(frame.persons) for clip in CLIPS for frame in clip) > 200
    for frame in (frame for clip in CLIPS for frame in clip):
        assert frame.image.shape == (120, 160, 3)
        ids = [person.track_id for person in frame.persons]
        assert len(set(ids)) == len(ids)
        for person in frame.persons:
            x, y, w, h = person.bbox
            assert 0 <= x < x + w <= 160
            assert 0 <= y < y + h <= 120
            assert 0 < person.area <= w * h
            seen = person.keypoints[person.keypoints[:, 2] == 2, :2]
            assert ((seen >= (x - 1, y - 1)) & (seen <= (x + w, y + h))).all()


def test_a_track_moves_steadily():
    frames = list(draw_clip(2, 0, ClipOptions(seconds=1, fps=25, **SMALL)))
    steps = [
        np.abs(one.keypoints[5:, :2] - two.keypoints[5:, :2])[
            (one.keypoints[5:, 2] > 0) & (two.keypoints[5:, 2] > 0)
        ]
        for track in tracks_of(frames).values()
        for one, two in zip(
            track.values(), (track.get(number + 1) for number in track), strict=True
        )
        if two is not None
    ]
    steps = np.concatenate(steps)
    assert len(steps) > 300
    assert steps.max() < 10  # pixels, of 160
    assert steps.max() > 1


def test_people_enter_leave_and_cross():
    entered = left = crossed = 0
    for clip in CLIPS:
        tracks = tracks_of(clip)
        entered += sum(min(track) > 0 for track in tracks.values())
        left += sum(max(track) < len(clip) - 1 for track in tracks.values())
        for one, two in combinations(tracks.values(), 2):
            sides = [
                np.sign(one[n].bbox[0] + one[n].bbox[2] / 2 - two[n].bbox[0] - two[n].bbox[2] / 2)
                for n in sorted(one.keys() & two.keys())
            ]
            crossed += -1 in sides and 1 in sides
    assert min(entered, left, crossed) > 3
    assert entered < 40


def test_persons_hide_one_another():
    flags = np.concatenate([p.keypoints[:, 2] for clip in CLIPS for f in clip for p in f.persons])
    assert {0, 1, 2} == set(flags)
    assert (flags == 2).mean() > 0.4


def test_a_frame_shows_at_most_the_number_of_persons():
    counts = [len(frame.persons) for clip in CLIPS for frame in clip]
    assert max(counts) == 3
    assert np.mean(counts) > 2
    empty = ClipOptions(size=(64, 64), seconds=0.2, persons=(0, 0))
    assert not any(frame.persons for frame in draw_clip(0, 0, empty))


def test_speed_is_that_of_all_motion():
    slow = list(draw_clip(3, 0, ClipOptions(seconds=2, fps=5, **SMALL)))
    fast = list(draw_clip(3, 0, ClipOptions(seconds=1, fps=5, speed=2, **SMALL)))
    assert len(fast) == 5
    for one, two in zip(slow[::2], fast, strict=True):
        assert [p.track_id for p in one.persons] == [p.track_id for p in two.persons]
        for a, b in zip(one.persons, two.persons, strict=True):
            np.testing.assert_allclose(a.keypoints, b.keypoints)


def test_a_cut_changes_everything():
    frames = list(draw_clip(1, 0, ClipOptions(seconds=2, fps=5, cuts=(4, 7), **SMALL)))
    assert len(frames) == 10
    differences = [
        np.abs(one.image.astype(int) - two.image).mean() for one, two in pairwise(frames)
    ]
    assert set(np.argsort(differences)[-2:]) == {3, 6}  # from the frame before each cut
    shots = [
        {person.track_id for frame in frames[start:end] for person in frame.persons}
        for start, end in ((0, 4), (4, 7), (7, 10))
    ]
    assert all(shots)
    assert not any(one & two for one, two in combinations(shots, 2))


# ------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'persons': (3, 2)}, 'persons: expected 0 <= minimum <= maximum'),
        ({'heights': (0, 1)}, 'heights: expected 0 < minimum'),
        ({'seconds': 0}, 'seconds: expected a number > 0, found 0'),
        ({'seconds': float('inf')}, 'seconds: expected a number > 0, found inf'),
        ({'fps': -1}, 'fps: expected a number > 0, found -1'),
        ({'fps': float('nan')}, 'fps: expected a number > 0, found nan'),
        ({'fps': 2000}, 'fps: expected a number from 0.01 to 1000'),
        ({'fps': 0.0001}, 'fps: expected a number from'),
        ({'speed': 0}, 'speed: expected a number > 0'),
        ({'size': (161, 120)}, 'size: expected even numbers >= 32'),
        ({'size': (160, 0)}, 'size: expected even numbers >= 32'),
        ({'seconds': 1, 'cuts': (25,)}, 'cuts: expected increasing frame numbers from 1 to 24'),
        ({'cuts': (0,)}, 'cuts'),
        ({'cuts': (9, 9)}, 'cuts'),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ClipOptions(**options)


@pytest.mark.parametrize(
    ('seconds', 'fps', 'frames'), [(2, 25, 50), (1, 29.97, 30), (0.001, 25, 1), (3, 0.5, 2)]
)
def test_the_number_of_frames(seconds, fps, frames):
    assert ClipOptions(seconds=seconds, fps=fps).frames == frames


# ------------------------------------------------------------------------------ as files


def test_the_files_do_not_depend_on_the_number_of_processes(tmp_path):
    options = ClipOptions(seconds=0.4, fps=10, **SMALL)
    for workers in (1, 2):
        write_videos(tmp_path / str(workers), 2, 4, options, num_workers=workers, quiet=True)
    names = ['000000.mp4', '000001.mp4', 'annotations.json']
    assert sorted(path.name for path in (tmp_path / '1').iterdir()) == names
    for name in names:
        assert (tmp_path / '1' / name).read_bytes() == (tmp_path / '2' / name).read_bytes()
    assert (tmp_path / '1' / names[0]).read_bytes() != (tmp_path / '1' / names[1]).read_bytes()
    write_videos(tmp_path / 'other', 1, 5, options, quiet=True)
    assert (tmp_path / '1' / names[0]).read_bytes() != (tmp_path / 'other' / names[0]).read_bytes()


@pytest.mark.parametrize('fps', [25, 29.97])
def test_the_annotations_name_each_frame_of_the_files(tmp_path, fps):
    options = ClipOptions(seconds=0.3, fps=fps, **SMALL)
    coco = COCO(str(write_videos(tmp_path, 2, 8, options, num_workers=1, quiet=True)))
    images = coco.loadImgs(sorted(coco.imgs))
    assert len(images) == 2 * options.frames
    for video in range(2):
        name = f'{video:06}.mp4'
        scenes, frames = list(draw_clip(8, video, options)), decode(tmp_path / name)
        assert len(frames) == len(scenes) == options.frames == round(0.3 * fps)
        entries = [image for image in images if image['file_name'] == name]
        for number, (entry, scene, frame) in enumerate(zip(entries, scenes, frames, strict=True)):
            assert entry['frame'] == number
            assert entry['time'] == pytest.approx(frame.time, abs=1e-4)
            assert (entry['width'], entry['height']) == (frame.width, frame.height) == (160, 120)
            found = coco.loadAnns(coco.getAnnIds(entry['id']))
            assert [each['track_id'] for each in found] == [p.track_id for p in scene.persons]
            for annotation, person in zip(found, scene.persons, strict=True):
                keypoints = np.reshape(annotation['keypoints'], (17, 3))
                np.testing.assert_allclose(keypoints, person.keypoints, atol=0.005)
                assert annotation['bbox'] == person.bbox.tolist()
                assert annotation['num_keypoints'] == np.count_nonzero(keypoints[:, 2])


def test_a_file_shows_what_is_drawn(tmp_path):
    options = ClipOptions(seconds=0.5, fps=12, size=(320, 240), persons=(3, 3))
    scenes = list(encode(tmp_path / 'a.mp4', draw_clip(1, 2, options), options))
    for scene, frame in zip(scenes, decode(tmp_path / 'a.mp4'), strict=True):
        error = frame.to_ndarray(format='bgr24').astype(float) - scene.image
        assert 10 * np.log10(255**2 / np.square(error).mean()) > 28  # dB


# -------------------------------------------------------------------------------- the tool


def test_the_tool(tmp_path):
    options = ('--videos', 1, '--seconds', 0.4, '--fps', 5, '--speed', 2, '--size', 96, 64)
    outcome = run_tool(*options, '--persons', 2, tmp_path, '--quiet', tool='make_scenes')
    assert outcome.status == 0, outcome.err
    assert '1 videos, annotated in' in outcome.out
    expected = ClipOptions(seconds=0.4, fps=5, speed=2, size=(96, 64), persons=(2, 2))
    scenes = list(draw_clip(0, 0, expected))
    written = json.loads((tmp_path / 'annotations.json').read_text())
    assert len(written['images']) == len(scenes) == 2
    assert [each['bbox'] for each in written['annotations']] == [
        person.bbox.tolist() for scene in scenes for person in scene.persons
    ]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--videos', '0'], '--videos: expected an integer >= 1, found 0'),
        (['--videos', '1', '--count', '2'], 'not allowed with argument --videos'),
        (['--videos', '1', '--fps', '0'], 'fps: expected a number > 0, found 0'),
        (['--videos', '1', '--seconds', '-1'], 'seconds: expected a number > 0'),
        (['--videos', '1', '--size', '33', '50'], 'size: expected even numbers'),
        (['--videos', '1', '--persons', '3', '1'], 'persons: expected'),
        (['--videos', '1', '--persons', '999'], 'persons: expected'),
        (['--videos', '1', '--persons', 'x'], '--persons'),
        (['--seconds', '3'], '--seconds: needs --videos'),
        (['--count', '2', '--size', '64', '64'], '--size: needs --videos'),
    ],
)
def test_wrong_arguments_are_an_error(tmp_path, arguments, message):
    outcome = run_tool(tmp_path, *arguments, tool='make_scenes')
    assert outcome.status == 2
    assert message in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / 'file').write_text('')
    outcome = run_tool(tmp_path / 'file', '--videos', 1, '--quiet', tool='make_scenes')
    assert outcome.status == 1
    assert outcome.err.startswith('make_scenes: ')


def test_videos_without_pyav_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    outcome = run_tool(tmp_path / 'out', '--videos', 1, '--quiet', tool='make_scenes')
    assert outcome.status == 1
    assert outcome.err.startswith('make_scenes: videos need PyAV: pip install ')
    assert "pip install 'mmpose-batch[video]'" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / 'out').exists()
