"""Box files: their schema, which entries count, and which image an entry means."""

import json
from typing import Any

import numpy as np
import pytest
from support.annotated import written

from mmpose_batch.errors import AnnotationError
from mmpose_batch.evaluation.annotations import ImageIds
from mmpose_batch.evaluation.box_files import assign_bboxes, read_bboxes

BOX = {'image_id': 1, 'category_id': 1, 'bbox': [10, 20, 30, 40], 'score': 0.5}


def but(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**BOX, **changes}.items() if value is not None}


BOXES = {
    'a box': ([BOX], {1: [[10, 20, 40, 60, 0.5]]}),
    'by name': ([but(image_id=None, file_name='./a/b.jpg')], {'a/b.jpg': [[10, 20, 40, 60, 0.5]]}),
    'without a score': ([but(score=None)], {1: [[10, 20, 40, 60, 1]]}),
    'without a category': ([but(category_id=None)], {1: [[10, 20, 40, 60, 0.5]]}),
    'of a low score': ([BOX, but(image_id=2, score=0.3)], {1: [[10, 20, 40, 60, 0.5]], 2: []}),
    'of another category': (
        [BOX, but(image_id=2, category_id=3)],
        {1: [[10, 20, 40, 60, 0.5]], 2: []},
    ),
    'of Windows': (
        [but(image_id=None, file_name='a\\b.jpg')],
        {'a/b.jpg': [[10, 20, 40, 60, 0.5]]},
    ),
    'an id as text': ([but(image_id='frame_0')], {'frame_0': [[10, 20, 40, 60, 0.5]]}),
    'several': (
        [BOX, but(image_id=2), but(score=0.4)],
        {1: [[10, 20, 40, 60, 0.5], [10, 20, 40, 60, 0.4]], 2: [[10, 20, 40, 60, 0.5]]},
    ),
    'none': ([], {}),
}


@pytest.mark.parametrize(('content', 'expected'), BOXES.values(), ids=BOXES)
def test_boxes_are_read(tmp_path, content, expected):
    found = read_bboxes(written(tmp_path, content), bbox_thr=0.3).by_image
    assert found.keys() == expected.keys()
    for key, boxes in expected.items():
        assert found[key].dtype == np.float32
        np.testing.assert_allclose(found[key], np.reshape(boxes, (-1, 5)))


WRONG_BOXES = {
    'annotations': ({'annotations': [BOX]}, 'expected a list of detections'),
    'no json': ('[', 'expected JSON'),
    'no image': ([BOX, but(image_id=None)], 'entry 1: expected image_id or file_name'),
    'an image that is a list': ([but(image_id=[1])], 'entry 0: image_id: expected a whole number'),
    'an image of 65 bits': ([but(image_id=2**63)], 'entry 0: image_id: expected a whole number'),
    'an image that is a bool': ([but(image_id=True)], 'entry 0: image_id: expected a whole'),
    'no name': ([but(image_id=None, file_name=' ')], 'entry 0: file_name: expected a file name'),
    'no box': ([but(bbox=None)], 'entry 0: bbox: expected 4 numbers .*, found nothing'),
    'three numbers': ([but(bbox=[1, 2, 3])], r'bbox: expected 4 numbers \(x, y, width, height\)'),
    'words': ([but(bbox=['a', 'b', 'c', 'd'])], 'entry 0: bbox: expected 4 numbers'),
    'numbers as text': ([but(bbox=['1', '2', '3', '4'])], 'entry 0: bbox: expected 4 numbers'),
    'a huge number': ([but(bbox=[1, 2, 3, 10**400])], 'entry 0: bbox: expected 4 numbers'),
    'a score that is a word': ([but(score='high')], 'entry 0: score: expected a number'),
    'a category that is a word': ([but(category_id='1')], 'entry 0: category_id: expected a whole'),
    'no entries': ([1, 2], 'entry 0: expected an object, found 1'),
    'lists': ([[1, 2, 3, 4]], 'entry 0: expected an object'),
    'categories from 0': (
        [but(category_id=0)] * 3,
        'no entry of 3 is used: 3 not of category_id 1 .category ids found: 0; persons '
        'have 1, as in COCO; YOLO converters count from 0.',
    ),
    'low scores': ([but(score=0.1)] * 2, 'no entry of 2 is used: 2 with a score of at most 0.3'),
    'both': (
        [but(score=0.1), but(category_id=3)],
        'used: 1 with a score of at most 0.3, 1 not of category_id 1 .category ids found: 3',
    ),
}


@pytest.mark.parametrize(('content', 'message'), WRONG_BOXES.values(), ids=WRONG_BOXES)
def test_boxes_of_another_form_are_an_error(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(AnnotationError, match=message) as raised:
        read_bboxes(path, bbox_thr=0.3)
    assert str(raised.value).startswith(path)


def test_entries_left_out_are_counted(tmp_path):
    entries = [BOX, BOX, but(score=0.1), but(category_id=0), but(category_id=3)]
    assert read_bboxes(written(tmp_path, entries), bbox_thr=0.3).line() == (
        'boxes: 2 of 5 entries used; left out: '
        '1 with a score of at most 0.3, 2 not of category_id 1'
    )
    assert read_bboxes(written(tmp_path, [BOX]), 0.3).line() == 'boxes: 1 of 1 entries used'


def test_boxes_of_several_categories_have_labels(tmp_path):
    entries = [but(category_id=8), but(category_id=3, bbox=[0, 0, 1, 2]), BOX]
    found = read_bboxes(written(tmp_path, [*entries, but(image_id=2)]), 0.3, categories=(3, 8))
    np.testing.assert_array_equal(
        found.by_image[1], np.float32([[10, 20, 40, 60, 0.5, 1], [0, 0, 1, 2, 0.5, 0]])
    )
    assert found.by_image[2].shape == (0, 6)
    assert found.left_out == {'not of category_id 3, 8': 2}
    boxes, none = assign_bboxes(['1.jpg', '3.jpg'], found.by_image, ImageIds())
    assert (boxes.shape, none.shape) == ((2, 6), (0, 6))


UNCATEGORISED = {
    'no category': ([but(category_id=None)], 'entry 0: category_id: expected a whole number'),
    'others': ([BOX], r'used: 1 not of category_id 3, 8 \(category ids found: 1\)'),
}


@pytest.mark.parametrize(('content', 'message'), UNCATEGORISED.values(), ids=UNCATEGORISED)
def test_boxes_of_several_categories_have_one_that_is_judged(tmp_path, content, message):
    with pytest.raises(AnnotationError, match=message):
        read_bboxes(written(tmp_path, content), 0.3, categories=(3, 8))


ONE, TWO = np.full((1, 5), 1, np.float32), np.full((2, 5), 2, np.float32)
FRAMES = [{'file_name': 'frame_0.jpg', 'id': 9}]
ASSIGNED = {
    'by number': ('in/000000000001.jpg', {1: ONE}, None, [ONE]),
    'by name': ('in/x/b.jpg', {'x/b.jpg': ONE}, None, [ONE]),
    'of another folder': ('in/x/b.jpg', {'y/b.jpg': TWO, 'b.jpg': ONE}, None, [ONE]),
    'by number of the annotations': ('in/frame_0.jpg', {9: ONE, 0: TWO}, FRAMES, [ONE]),
    'by that number as text': ('in/frame_0.jpg', {'9': ONE}, FRAMES, [ONE]),
    'by stem': ('in/frame_0.jpg', {'frame_0': ONE, 'frame_00': TWO}, None, [ONE]),
    'by stem beside annotations': ('in/frame_0.jpg', {'frame_0': ONE}, FRAMES, [ONE]),
    'by stem in a folder': ('in/x/b.jpg', {'x/b': ONE, 'y/b': TWO}, None, [ONE]),
    'by stem of digits': ('in/000000000001.jpg', {'000000000001': ONE}, None, [ONE]),
    'by number as text': ('in/000000000001.jpg', {'1': ONE}, None, [ONE]),
    'in two ways': ('in/000000000001.jpg', {1: ONE, '000000000001.jpg': TWO}, None, [TWO, ONE]),
}


@pytest.mark.parametrize(('path', 'found', 'images', 'expected'), ASSIGNED.values(), ids=ASSIGNED)
def test_boxes_go_to_their_images(path, found, images, expected):
    boxes, none = assign_bboxes([path, 'in/d.jpg'], found, ImageIds(images))
    np.testing.assert_array_equal(boxes, np.concatenate(expected))
    assert none.shape == (0, 5)


def test_a_name_is_no_stem_of_another_input():
    first, second = assign_bboxes(['in/a.gif', 'in/a.gif.png'], {'a.gif': ONE}, ImageIds())
    assert (len(first), len(second)) == (1, 0)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('value', [1e300, float('inf'), float('nan')])
def test_numbers_that_are_not_finite_stay_for_the_record_of_their_image(tmp_path, value):
    path = written(tmp_path, [BOX, but(bbox=[1, 2, value, 4])])
    good, bad = read_bboxes(path, bbox_thr=0.3).by_image[1]
    assert np.isfinite(good).all()
    assert not np.isfinite(bad).all()


def test_boxes_of_other_images_are_an_error():
    with pytest.raises(AnnotationError, match='names none of the images'):
        assign_bboxes(['in/c.jpg'], {9: np.zeros((1, 5), np.float32)}, ImageIds())


@pytest.mark.parametrize('key', [1, '000000000001.jpg'])
def test_boxes_that_two_images_could_own_are_an_error(key):
    paths = ['a/000000000001.jpg', 'b/000000000001.jpg']
    with pytest.raises(AnnotationError, match=f'one input for image {key} of the file, found a/'):
        assign_bboxes(paths, {key: np.zeros((1, 5), np.float32)}, ImageIds())


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / 'file.json'
    path.write_text(json.dumps([BOX]), encoding='utf-8-sig')
    assert list(read_bboxes(str(path), 0.3).by_image) == [1]
