"""Synthetic scenes: determined by their seed, with annotations that fit the image."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from support.factories import run_tool
from xtcocotools.coco import COCO

from mmpose_batch.scenes import SceneOptions, dataset, draw_scene, write_scenes
from mmpose_batch.scenes.body import (
    FOREARM,
    KEYPOINTS,
    POSTURES,
    SHIN,
    THIGH,
    UPPER_ARM,
    Body,
    sample_body,
    turn,
)
from mmpose_batch.scenes.canvas import Canvas
from mmpose_batch.scenes.figure import Figure
from mmpose_batch.scenes.outfit import sample_outfit

LIGHT = np.array([0.0, 0.0, -1.0])
SCENES = [draw_scene(11, index) for index in range(24)]


def bodies(count: int = 200) -> list[Body]:
    rng = np.random.default_rng(0)
    return [sample_body(rng) for _ in range(count)]


# ----------------------------------------------------------------------------- the body


@pytest.mark.parametrize(
    ('first', 'second', 'length'),
    [
        ('left_shoulder', 'left_elbow', UPPER_ARM),
        ('right_elbow', 'right_wrist', FOREARM),
        ('left_hip', 'left_knee', THIGH),
        ('right_knee', 'right_ankle', SHIN),
    ],
)
def test_bones_keep_their_length(first, second, length):
    for body in bodies(50):
        assert np.linalg.norm(body.joints[first] - body.joints[second]) == pytest.approx(length)


@pytest.mark.parametrize(
    ('joints', 'limb'),
    [(('shoulder', 'elbow', 'wrist'), 'arms'), (('hip', 'knee', 'ankle'), 'legs')],
)
def test_joints_bend_within_their_limits(joints, limb):
    limit = max(getattr(posture, limb).bend[1] for posture in POSTURES)
    bends = []
    for body in bodies():
        a, b, c = (body.joints[f'left_{joint}'] for joint in joints)
        upper, lower = (b - a) / np.linalg.norm(b - a), (c - b) / np.linalg.norm(c - b)
        bends.append(np.degrees(np.arccos(np.clip(upper @ lower, -1, 1))))
    assert max(bends) <= limit + 1e-6
    assert max(bends) > 0.7 * limit  # and they do bend


def test_left_is_left_from_the_front_and_from_behind():
    sides = {'front': 0, 'back': 0}
    for body in bodies(2000):  # few turn their back
        seen = -(body.chest @ (0, 0, -1))[2]
        if abs(seen) > 0.8:
            difference = body.joints['left_shoulder'][0] - body.joints['right_shoulder'][0]
            assert difference * seen > 0
            sides['front' if seen > 0 else 'back'] += 1
    assert min(sides.values()) > 10


@pytest.mark.parametrize('axis', ['x', 'y', 'z'])
@pytest.mark.parametrize('angle', [0, 30, -90, 180])
def test_a_turn_is_a_rotation(axis, angle):
    matrix = turn(**{axis: angle})
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
    np.testing.assert_allclose(np.trace(matrix), 1 + 2 * np.cos(np.radians(angle)), atol=1e-12)


# --------------------------------------------------------------------------- annotations


def figure_of(body: Body, size: int = 200) -> tuple[Figure, Canvas]:
    rng = np.random.default_rng(1)
    figure = Figure(body, sample_outfit(rng), size, np.array([size, size]), LIGHT, 0.5)
    canvas = Canvas(np.zeros((2 * size, 2 * size, 3), np.float32))
    figure.draw(canvas, 0)
    return figure, canvas


def test_a_face_turned_away_is_not_labelled():
    turned = {True: 0, False: 0}
    for body in bodies(400):  # few turn their back
        forward = (body.head @ (0, 0, -1))[2]
        if abs(forward) < 0.7 or (forward < 0 and turned[False] > 10):
            continue
        figure, canvas = figure_of(body)
        flags = dict(zip(KEYPOINTS, figure.visible_keypoints(canvas, 0), strict=True))
        seen = [flags[name] for name in ('nose', 'left_eye', 'right_eye')]
        assert not any(seen) if forward > 0 else any(seen)  # a hand may hide one
        turned[forward > 0] += 1
    assert min(turned.values()) > 3


@pytest.mark.parametrize(
    'name, expected',
    [('left_knee', 1), ('left_ankle', 0)],  # between hip and ankle; where the leg ends
)
def test_a_hidden_keypoint_is_labelled_between_visible_ones(name, expected):
    figure, canvas = figure_of(bodies(1)[0])
    place = KEYPOINTS.index(name)
    before = figure.visible_keypoints(canvas, 0)
    assert (
        before[[KEYPOINTS.index(f'left_{joint}') for joint in ('hip', 'knee', 'ankle')]] == 2
    ).all()
    x, y = figure.keypoints()[0][place].astype(int)
    canvas.owners[y - 3 : y + 4, x - 3 : x + 4] = -1
    after = figure.visible_keypoints(canvas, 0)
    assert after[place] == expected
    assert (np.delete(after, place) == np.delete(before, place)).all()


def test_keypoints_outside_are_not_labelled():
    figure, canvas = figure_of(bodies(1)[0])
    canvas.owners[:], canvas.parts[:] = -1, -1
    assert not figure.visible_keypoints(canvas, 0).any()
    outside = Canvas(np.zeros((10, 10, 3), np.float32))
    assert not figure.visible_keypoints(outside, 0).any()


def test_annotations_fit_the_image():
    assert sum(len(scene.persons) for scene in SCENES) > 30
    for scene in SCENES:
        height, width = scene.image.shape[:2]
        for person in scene.persons:
            x, y, w, h = person.bbox
            assert 0 <= x < x + w <= width
            assert 0 <= y < y + h <= height
            assert 0 < person.area <= w * h
            places, flags = person.keypoints[:, :2], person.keypoints[:, 2]
            assert set(flags) <= {0, 1, 2}
            assert not places[flags == 0].any()
            seen = places[flags == 2]
            assert ((seen >= (x - 1, y - 1)) & (seen <= (x + w, y + h))).all()


def test_scenes_vary():
    flags = np.concatenate([p.keypoints[:, 2] for s in SCENES for p in s.persons])
    assert {0, 1, 2} == set(flags)
    assert (flags == 2).mean() > 0.4
    assert len({scene.image.shape for scene in SCENES}) > 4


# ------------------------------------------------------------------------------- by seed


def test_a_scene_is_determined_by_its_seed_and_index():
    first, again, other = draw_scene(5, 3), draw_scene(5, 3), draw_scene(6, 3)
    np.testing.assert_array_equal(first.image, again.image)
    for one, two in zip(first.persons, again.persons, strict=True):
        np.testing.assert_array_equal(one.keypoints, two.keypoints)
    assert first.image.shape != other.image.shape or (first.image != other.image).any()


# Series are named by their seeds in documents, tests and training: changes of the code keep them.
@pytest.mark.parametrize(
    ('index', 'shape', 'color', 'areas'),
    [
        (0, (320, 240, 3), (115.07, 129.99, 137.35), [12444]),
        (1, (384, 288, 3), (114.05, 108.16, 123.87), [4843, 7150, 10264]),
        (2, (320, 240, 3), (133.75, 113.78, 101.13), [3310, 6789]),
        (3, (240, 320, 3), (198.42, 174.45, 227.08), [2575]),
    ],
)
def test_series_stay_the_same(index, shape, color, areas):
    scene = SCENES[index]
    assert scene.image.shape == shape
    assert scene.image.mean((0, 1)) == pytest.approx(color, abs=0.05)
    assert [person.area for person in scene.persons] == pytest.approx(areas, abs=5)


@pytest.mark.parametrize(('persons', 'maximum'), [((0, 0), 0), ((1, 1), 1), ((7, 7), 7)])
def test_the_number_of_people(persons, maximum):
    counts = [len(draw_scene(0, i, SceneOptions(persons=persons)).persons) for i in range(5)]
    assert max(counts) <= maximum
    assert sum(counts) >= maximum  # some are cut off or hidden


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'persons': (3, 2)}, 'persons: expected 0 <= minimum <= maximum'),
        ({'persons': (-1, 2)}, 'persons'),
        ({'persons': (1, 99999)}, 'maximum <= 200'),
        ({'heights': (0, 1)}, 'heights: expected 0 < minimum'),
        ({'heights': (1, 0.5)}, 'heights'),
        ({'occluders': -1}, 'occluders: expected an integer >= 0'),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SceneOptions(**options)


# ------------------------------------------------------------------------------ as files


def test_the_files_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, '_FEW', 4)
    for workers in (1, 2):
        write_scenes(tmp_path / str(workers), 5, seed=4, num_workers=workers, quiet=True)
    one, two = (sorted((tmp_path / name).iterdir()) for name in '12')
    assert [path.name for path in one] == [path.name for path in two]
    assert len(one) == 6
    for a, b in zip(one, two, strict=True):
        assert a.read_bytes() == b.read_bytes()


# A caller whose threads would deadlock its forks; scripts that start processes need the guard.
BUSY_CALLER = """
import sys
import cv2
import numpy as np
import torch
from mmpose_batch.scenes import dataset

if __name__ == '__main__':
    dataset._FEW = 4
    torch.ones(2000, 2000) @ torch.ones(2000, 2000)
    cv2.setNumThreads(2)
    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (3000, 3000))
    dataset.write_scenes(sys.argv[1], 20, seed=4, num_workers=2, quiet=True)
"""


def test_processes_start_while_opencv_and_torch_have_threads(tmp_path):
    script = tmp_path / 'caller.py'
    script.write_text(BUSY_CALLER)
    subprocess.run([sys.executable, script, tmp_path / 'scenes'], check=True, timeout=120)
    assert len(list((tmp_path / 'scenes').glob('*.jpg'))) == 20


def test_the_annotations_are_in_cocos_format(tmp_path):
    coco = COCO(str(write_scenes(tmp_path, 3, seed=8, num_workers=1, quiet=True)))
    assert sorted(coco.imgs) == [0, 1, 2]
    category = coco.loadCats(1)[0]
    meta = parse_pose_metainfo({'from_file': 'configs/_base_/datasets/coco.py'})
    assert category['keypoints'] == [meta['keypoint_id2name'][i] for i in range(17)]
    assert [(a - 1, b - 1) for a, b in category['skeleton']] == meta['skeleton_links']
    for image in coco.loadImgs(coco.imgs):
        pixels = cv2.imread(str(tmp_path / image['file_name']))
        assert pixels.shape[:2] == (image['height'], image['width'])
        scene = draw_scene(8, image['id'])
        found = coco.loadAnns(coco.getAnnIds(image['id']))
        assert len(found) == len(scene.persons)
        for annotation, person in zip(found, scene.persons, strict=True):
            keypoints = np.reshape(annotation['keypoints'], (17, 3))
            np.testing.assert_allclose(keypoints, person.keypoints, atol=0.005)
            assert annotation['num_keypoints'] == np.count_nonzero(keypoints[:, 2])


def test_the_tool(tmp_path):
    options = ('--count', 2, '--persons', 1, 1, '--quiet', '--num-workers', 1)
    outcome = run_tool(tmp_path, *options, tool='make_scenes')
    assert outcome.status == 0
    assert '2 scenes' in outcome.out
    written = json.loads((tmp_path / 'annotations.json').read_text())
    assert len(written['images']) == 2
    assert len(written['annotations']) <= 2


@pytest.mark.parametrize(
    ('arguments', 'status', 'message'),
    [
        (['--persons', '3', '1'], 2, 'persons: expected'),
        (['--count', '0'], 2, '--count: expected'),
        (['--seed', '-1'], 2, '--seed: expected'),
    ],
)
def test_wrong_arguments_are_an_error(tmp_path, arguments, status, message):
    outcome = run_tool(tmp_path, *arguments, tool='make_scenes')
    assert outcome.status == status
    assert message in outcome.err


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / 'file').write_text('')
    outcome = run_tool(tmp_path / 'file', '--count', 1, '--quiet', tool='make_scenes')
    assert outcome.status == 1
    assert 'make_scenes: ' in outcome.err
