"""Precomputed person boxes replace the detector."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.inferencing import PICTURES, assert_close_instances, persons_of
from support.tiny import OurDetector, picture

from mmpose_batch import BatchPose2DInferencer

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')

BOXES = [
    np.array([[5, 5, 40, 80], [20, 10, 55, 85]], np.float32),
    np.zeros((0, 4), np.float32),
    np.array([[10, 10, 60, 60, 0.5]], np.float32),
]


class NoDetector(OurDetector):
    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        pytest.fail('the detector runs although there are precomputed boxes')


@pytest.fixture
def without_detection(ours, monkeypatch) -> BatchPose2DInferencer:
    """An inferencer whose detector must not run."""
    monkeypatch.setattr(ours['top_down'], 'detector', NoDetector())
    return ours['top_down']


@pytest.mark.parametrize('form', [list, tuple, lambda boxes: [b.tolist() for b in boxes], iter])
def test_precomputed_boxes_are_used(without_detection, form):
    results = list(without_detection(PICTURES[:3], bboxes=form(BOXES)))
    found = [[p['bbox'][0] for p in result['predictions'][0]] for result in results]
    scores = [[p['bbox_score'] for p in result['predictions'][0]] for result in results]
    for boxes, expected in zip(found, BOXES, strict=True):
        np.testing.assert_allclose(np.reshape(boxes, (-1, 4)), expected[:, :4], atol=0.01)
    assert scores == [[1, 1], [], [0.5]]


def test_precomputed_boxes_have_the_result_of_equal_detected_ones(ours, monkeypatch):
    inferencer = ours['top_down']
    image = PICTURES[2]
    (detected,) = inferencer(image, return_datasamples=True)
    instances = detected['predictions'][0].pred_instances
    boxes = np.column_stack((instances.bboxes, instances.bbox_scores))
    monkeypatch.setattr(inferencer, 'detector', NoDetector())
    (given,) = inferencer(image, bboxes=[boxes], return_datasamples=True)
    assert len(boxes) == 5
    assert_close_instances(given['predictions'][0], detected['predictions'][0])


def test_an_empty_list_of_boxes_uses_the_detector_as_upstreams_default(ours):
    (result,) = ours['top_down'](PICTURES[0], bboxes=[])
    assert persons_of([result]) == [1]


def test_boxes_of_a_single_image_need_no_outer_list(without_detection):
    (result,) = without_detection(PICTURES[0], bboxes=BOXES[0])
    assert persons_of([result]) == [2]


def test_too_few_boxes_are_an_error_before_anything_runs(ours):
    with pytest.raises(ValueError, match='one array of boxes for every image, found 1 for 3'):
        ours['top_down'](PICTURES[:3], bboxes=[BOXES[0]])


def test_none_among_the_boxes_uses_the_detector(ours):
    results = list(ours['top_down'](PICTURES[:3], bboxes=[BOXES[0], None, None]))
    assert persons_of(results) == [2, 0, 5]


@pytest.mark.parametrize('count', [1, 2, 4])
@pytest.mark.parametrize('stream', [False, True])
def test_boxes_for_another_number_of_images_are_an_error(ours, count, stream):
    images = iter(PICTURES[:3]) if stream else PICTURES[:3]
    boxes = [BOXES[0]] * count
    with pytest.raises(ValueError, match='bboxes: expected one array of boxes for every image'):
        list(ours['top_down'](images, bboxes=boxes))


def test_boxes_for_a_one_stage_model_are_an_error(ours):
    with pytest.raises(ValueError, match='only top-down models'):
        ours['one_stage'](PICTURES[:1], bboxes=[BOXES[0]])


@pytest.mark.parametrize(
    ('boxes', 'found'),
    [
        pytest.param([[5, 5, 5, 9]], 'without area: 5, 5, 5, 9', id='no width'),
        pytest.param([[5, 9, 9, 5]], 'without area', id='upside down'),
        pytest.param([[1, 1, 9, 9], [0, 0, np.nan, 5]], 'box 1 with a value', id='NaN'),
        pytest.param([[0, 0, np.inf, 5]], 'not finite', id='infinite'),
        pytest.param([[0, 0, 9, 9, np.nan]], 'not finite', id='NaN for a score'),
        pytest.param([[500, 5, 600, 9]], 'outside the image', id='to the right'),
        pytest.param([[-9, -9, 0, 0]], 'outside the image', id='to the left'),
        pytest.param([[1, 2, 3]], '(1, 3)', id='three numbers'),
        pytest.param([1, 2, 3], '(3,)', id='not in a list'),
        pytest.param([[1, 2, 3, 4], [1, 2]], '[1, 2]]', id='of different length'),
    ],
)
def test_invalid_boxes_are_a_failure_of_their_image(ours, boxes, found):
    results = list(ours['top_down'](PICTURES[:3], bboxes=[BOXES[0], boxes, BOXES[0]]))
    assert [len(result['predictions']) for result in results] == [1, 0, 1]
    assert results[1]['image'] == '000001.jpg'
    assert found in results[1]['error']


def test_boxes_partly_outside_the_image_are_not_clipped(ours):
    (result,) = ours['top_down'](PICTURES[0], bboxes=[[[-20, -20, 100, 200]]])
    assert result['predictions'][0][0]['bbox'][0] == [-20, -20, 100, 200]


def test_boxes_of_a_generator_with_one_buffer_stay_with_their_images(ours):
    images = [picture(100, 100, seed) for seed in range(6)]
    boxes = [np.float32([[5 * number, 5, 60 + 5 * number, 90]]) for number in range(6)]

    def one_buffer() -> Iterator[np.ndarray]:
        buffer = np.zeros((1, 4), np.float32)
        for box in boxes:
            buffer[:] = box
            yield buffer

    found = list(ours['top_down'](images, bboxes=one_buffer()))
    expected = list(ours['top_down'](images, bboxes=boxes))
    assert [r['predictions'] for r in found] == [r['predictions'] for r in expected]
