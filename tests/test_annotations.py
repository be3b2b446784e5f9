"""The schema of annotation and box files, and which image an entry of theirs means."""

import json
from typing import Any

import numpy as np
import pytest
from support.annotated import annotations, written

from mmpose_batch.annotations import (
    AnnotationError,
    ImageIds,
    assign_bboxes,
    read_annotations,
    read_bboxes,
)

# ------------------------------------------------------------------------------- image ids

IDS = {
    'a name': ('000000000785.jpg', None, 785),
    'in a folder': ('/data/val/000000000785.png', None, 785),
    'a name that is no number': ('photo.jpg', None, None),
    'a number to Unicode only': ('\u00b2.jpg', None, None),
    'a name of the file': ('x/b.jpg', [('b.jpg', 7)], 7),
    'another name': ('x/c.jpg', [('b.jpg', 7)], None),
    # The number in the name is not asked where there are annotations.
    'a number not in the file': ('000000000785.jpg', [('b.jpg', 7)], None),
    'the folder differs': ('images/b.jpg', [('val2017/b.jpg', 7)], None),
    'a number of more than 64 bits': ('9223372036854775808.jpg', None, None),
    'the folder decides': ('in/val/b.jpg', [('train/b.jpg', 6), ('val/b.jpg', 7)], 7),
    'the folder does not decide': ('in/b.jpg', [('train/b.jpg', 6), ('val/b.jpg', 7)], None),
    'part of a name decides nothing': ('in/b.jpg', [('n/b.jpg', 6), ('val/b.jpg', 7)], None),
    'a folder of Windows': ('in/val/b.jpg', [('train\\b.jpg', 6), ('val\\b.jpg', 7)], 7),
    'a backslash that is part of the name': ('in/a\\b.jpg', [('a\\b.jpg', 7)], 7),
    'more digits than Python converts': ('9' * 5000 + '.jpg', None, None),
    'a dot in the file': ('val/b.jpg', [('./val/b.jpg', 7), ('train/b.jpg', 6)], 7),
}


@pytest.mark.parametrize(('path', 'images', 'expected'), IDS.values(), ids=IDS)
def test_the_number_of_an_image_is_found_by_its_path(path, images, expected):
    if images is not None:
        images = [{'file_name': name, 'id': number} for name, number in images]
    assert ImageIds(images).find(path) == expected


# -------------------------------------------------------------------------- annotation files


def without(kind: str, field: str) -> dict[str, Any]:
    content = annotations()
    del content[kind][1][field]
    return content


def with_entry(**entry: Any) -> dict[str, Any]:
    content = annotations()
    content['annotations'][1].update(entry)
    return content


UNREADABLE = {
    'no file': (None, 'cannot be read: No such file or directory'),
    'no json': ('{', 'expected JSON, found'),
    'no text': ('\ud83d', 'expected JSON'),
    'results': ([], 'expected COCO annotations with images, annotations, categories'),
    'no images': ({'annotations': []}, 'expected COCO annotations with images'),
    'an image without a name': (
        without('images', 'file_name'),
        r'images\[1\]: file_name: expected a file name, found nothing',
    ),
    'an unknown image': (
        with_entry(image_id=99),
        r'annotations\[1\]: image_id: expected the id of one of the images, found 99',
    ),
    'an unknown category': (
        with_entry(category_id=2),
        r'annotations\[1\]: category_id: expected the id of one of the categories, found 2',
    ),
    'a crowd of null': (
        with_entry(iscrowd=None),
        r'annotations\[1\]: iscrowd: expected 0 or 1, found None',
    ),
    'no object': (
        {**annotations(), 'images': [1]},
        r'images\[0\]: expected an object, found 1',
    ),
    'no list': ({**annotations(), 'images': {}}, 'expected a list of images'),
    'brackets without end': ('[' * 10**5, 'expected JSON, found'),
    'a number without end': ('9' * 10**4, 'expected JSON, found'),
    'no area': (
        without('annotations', 'area'),
        r'annotations\[1\]: area: expected square pixels, 0 to 2\*\*30, found nothing',
    ),
    'an empty box': (
        with_entry(bbox=[]),
        r'annotations\[1\]: bbox: expected 4 numbers',
    ),
    'a box of words': (
        with_entry(bbox=['a'] * 4),
        r'annotations\[1\]: bbox: expected 4 numbers',
    ),
    'keypoints of words': (
        with_entry(keypoints=['x'] * 51),
        r'annotations\[1\]: keypoints: expected 3 numbers each',
    ),
    'half a keypoint': (
        with_entry(keypoints=[1] * 50),
        r'annotations\[1\]: keypoints: expected 3 numbers each',
    ),
}


@pytest.mark.parametrize(('content', 'message'), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_of_another_form_is_an_error(tmp_path, content, message):
    path = tmp_path / 'file.json'
    if isinstance(content, str):
        path.write_bytes(content.encode('utf-16', 'surrogatepass'))
    elif content is not None:
        path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=message) as raised:
        read_annotations(str(path))
    assert str(path) in str(raised.value)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / 'file.json'
    path.write_text(json.dumps(annotations()), encoding='utf-8-sig')
    assert read_annotations(str(path)) == annotations()
    path.write_text(json.dumps([BOX]), encoding='utf-8-sig')
    assert list(read_bboxes(str(path), 0.3).by_image) == [1]


# --------------------------------------------------------------------------------- box files

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
