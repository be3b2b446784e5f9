"""Boxes from users: valid forms are converted, and others have a one-line error."""

import numpy as np
import pytest
import torch

from mmpose_batch.errors import ImageError
from mmpose_batch.sources.boxes import as_boxes, boxes_of_images, checked_bboxes, detached

BOX, SCORED = [1.0, 2.0, 30.0, 40.0], [1.0, 2.0, 30.0, 40.0, 0.5]
TWO = [BOX, [2.0, 3.0, 31.0, 41.0]]


@pytest.mark.parametrize(
    'kind', [list, tuple, np.array, torch.tensor], ids=lambda kind: kind.__name__
)
@pytest.mark.parametrize(
    ('values', 'expected'),
    [
        pytest.param(BOX, [BOX], id='one flat box'),
        pytest.param(SCORED, [SCORED], id='one flat box with a score'),
        pytest.param([BOX], [BOX], id='one box'),
        pytest.param(TWO, TWO, id='boxes'),
        pytest.param([[*TWO]], TWO, id='the boxes of each image'),
    ],
)
def test_boxes_of_a_single_image_may_come_without_a_list_of_images(kind, values, expected):
    (boxes,) = boxes_of_images(kind(values), 1)
    boxes = as_boxes(detached(boxes))
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, np.float32(expected))


@pytest.mark.parametrize(
    'bboxes',
    [
        pytest.param([TWO, [BOX], []], id='lists'),
        pytest.param([np.array(TWO), BOX, np.zeros((0, 4))], id='an array, a flat box, no box'),
        pytest.param([torch.tensor(TWO), torch.tensor(BOX), torch.zeros(0, 4)], id='tensors'),
        pytest.param([[torch.tensor(box) for box in TWO], [BOX], []], id='lists of tensors'),
        pytest.param(
            [torch.tensor(TWO, dtype=torch.bfloat16, requires_grad=True), [BOX], []],
            id='a tensor that is no array',
        ),
    ],
)
def test_boxes_of_several_images_have_one_item_per_image(bboxes):
    found = [as_boxes(detached(boxes)) for boxes in boxes_of_images(bboxes, 3)]
    assert [len(boxes) for boxes in found] == [2, 1, 0]
    np.testing.assert_array_equal(found[0], np.float32(TWO))


def test_a_tensor_of_many_images_is_split():
    found = list(boxes_of_images(torch.ones(3, 2, 4), 3))
    assert [as_boxes(boxes).shape for boxes in found] == [(2, 4)] * 3


def test_none_uses_the_detector():
    assert list(boxes_of_images([None], 1)) == [None]
    assert list(boxes_of_images([None, [BOX]], 2)) == [None, [BOX]]


def test_a_generator_is_not_read_ahead():
    boxes = (box for box in [TWO])
    assert boxes_of_images(boxes, 1) is boxes
    assert boxes_of_images(boxes, None) is boxes


@pytest.mark.parametrize(
    ('bboxes', 'length', 'found'),
    [
        pytest.param(TWO, 3, '2 for 3', id='too few'),
        pytest.param([TWO, TWO], 1, '2 for 1', id='too many'),
        pytest.param([1, 2, 3], 1, '3 for 1', id='three numbers'),
        pytest.param(np.zeros((2, 3)), 1, '2 for 1', id='three columns'),
        pytest.param([BOX, SCORED], 1, '2 for 1', id='some with a score'),
        pytest.param(5, 2, '5', id='a number'),
        pytest.param(np.float32(5), 1, '5.0', id='a number of numpy'),
        pytest.param(torch.tensor(5.0), 1, 'array(5., dtype=float32)', id='a tensor of no axis'),
        pytest.param('boxes', 5, "'boxes'", id='a text'),
        pytest.param(
            {0: TWO}, 1, '{0: [[1.0, 2.0, 30.0, 40.0], [2.0, 3.0, 31.0, 41.0]]}', id='dict'
        ),
    ],
)
def test_invalid_boxes_are_an_error_that_shows_them(bboxes, length, found):
    with pytest.raises(ValueError) as raised:
        boxes_of_images(bboxes, length)
    expected = 'bboxes: expected one array of boxes for every image, found '
    assert str(raised.value).replace('np.float32(5.0)', '5.0') == expected + found


@pytest.mark.parametrize(
    ('boxes', 'found'),
    [
        ([1, 2, 3], '(3,)'),
        (np.zeros((2, 3)), '(2, 3)'),
        (np.ones((1, 2, 4)), '(1, 2, 4)'),
        (3, '()'),
        ('one', "'one'"),
        ([BOX, SCORED], '[[1.0, 2.0, 30.0, 40.0], [1.0, 2.0, 30.0, 40.0, 0.5]]'),
        ({'bbox': BOX}, "{'bbox': [1.0, 2.0, 30.0, 40.0]}"),
    ],
)
def test_boxes_of_another_shape_fail_their_image(boxes, found):
    with pytest.raises(ImageError) as raised:
        checked_bboxes(boxes, 64, 48)
    assert str(raised.value) == f'expected bboxes of shape (N, 4) or (N, 5), found {found}'


def test_boxes_without_a_score_get_one():
    np.testing.assert_array_equal(checked_bboxes([BOX], 64, 48), np.float32([[*BOX, 1]]))
    np.testing.assert_array_equal(checked_bboxes([SCORED], 64, 48), np.float32([SCORED]))
