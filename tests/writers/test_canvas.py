"""Drawing on the planes of decoded frames: colours as on images, and nothing else changes."""

from functools import partial

import av
import cv2
import numpy as np
import pytest
from support.videos import painted, write_sizes, write_video

from mmpose_batch.config import DrawOptions
from mmpose_batch.models.keypoints import Keypoints
from mmpose_batch.sources.video_frames import read_video
from mmpose_batch.writers.video.canvas import Canvas, Target, target_of
from mmpose_batch.writers.video.poses import PoseDrawer

SIZE = WIDTH, HEIGHT = 320, 192
NAMES = ('left_eye', 'right_eye', 'left_hand', 'right_hand')
META = {
    'num_keypoints': 4,
    'keypoint_id2name': dict(enumerate(NAMES)),
    'skeleton_links': [(0, 1), (0, 2), (1, 3)],
}
PERSON = {
    'keypoints': [[90, 60], [130, 64], [70, 110], [150, 116]],
    'keypoint_scores': [1.0] * 4,
    'bbox': [60, 50, 160, 126],
    'track_id': 3,
}


def decoded(path: str, number: int = 0) -> av.VideoFrame:
    return list(read_video(path, ''))[number].data.frame


def picture_of(image: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), format='yuv420p')


def draw(persons: list[dict], target: Target) -> None:
    options = DrawOptions(draw_bbox=True, radius=6, thickness=4)
    PoseDrawer(Keypoints(META), options).draw(target, {'instances': persons})


def test_frames_without_persons_are_not_changed():
    source = picture_of(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    canvas = Canvas(SIZE)
    for _ in range(2):
        painted = canvas.paint(source, partial(draw, []))
        np.testing.assert_array_equal(painted.to_ndarray(), source.to_ndarray())
        canvas.release(painted)


def test_persons_are_drawn_as_on_an_image_and_nothing_else_changes():
    image = np.full((HEIGHT, WIDTH, 3), (90, 120, 100), np.uint8)
    source, canvas = picture_of(image), Canvas(SIZE)
    before = source.to_ndarray().copy()
    canvas.release(canvas.paint(source, partial(draw, [PERSON])))  # its memory is used again
    planes = canvas.paint(source, partial(draw, [PERSON])).to_ndarray()
    np.testing.assert_array_equal(source.to_ndarray(), before)
    found = cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420).astype(int)
    draw([PERSON], target_of(image))
    is_drawn = (image != (90, 120, 100)).any(axis=2)
    near = cv2.dilate(is_drawn.astype(np.uint8), np.ones((7, 7))) > 0
    assert (np.abs(found - (90, 120, 100))[~near] <= 2).all()
    expected_planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
    luma = (each[:HEIGHT].astype(int) for each in (planes, expected_planes))
    assert np.abs(np.subtract(*luma)).max() <= 3
    # Chroma at the edges of lines differs, which is half as fine.
    expected = cv2.cvtColor(expected_planes, cv2.COLOR_YUV2BGR_I420).astype(int)
    for x, y in (*PERSON['keypoints'], (110, 62), (80, 85), (60, 90)):
        assert np.abs(found[y, x] - expected[y, x]).max() < 30


REJECTED = {
    'another matrix': lambda frame: setattr(frame, 'colorspace', 1),
    'full range': lambda frame: setattr(frame, 'color_range', 2),
}


@pytest.mark.parametrize('change', REJECTED.values(), ids=REJECTED)
def test_frames_of_other_colours_are_converted(tmp_path, change):
    frame = decoded(write_video(tmp_path / 'a.mp4', painted(2, *SIZE)))
    assert Canvas(SIZE).accepts(frame)
    change(frame)
    assert not Canvas(SIZE).accepts(frame)


@pytest.mark.parametrize(
    'options',
    [{'turn': (90, False)}, {'turn': (0, True)}, {'turn': (180, False)}, {'pix_fmt': 'yuv444p'}],
)
def test_turned_frames_and_those_of_other_formats_are_converted(tmp_path, options):
    frame = decoded(write_video(tmp_path / 'a.mp4', painted(2, *SIZE), **options))
    assert not Canvas(SIZE).accepts(frame)


def test_frames_of_other_sizes_are_converted(tmp_path):
    path = write_sizes(tmp_path / 'a.mp4', [SIZE, (160, 96)], 2)
    assert [Canvas(SIZE).accepts(decoded(path, number)) for number in (0, 3)] == [True, False]
