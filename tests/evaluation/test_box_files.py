"""Box files: their schema, used entries, and the images that entries refer to."""

import json
from typing import Any

import numpy as np
import pytest
from support.annotated import written

from mmpose_batch.errors import AnnotationError
from mmpose_batch.evaluation.annotations import ImageIds
from mmpose_batch.evaluation.box_files import ImageKey, PersonBoxes, assign_bboxes, read_bboxes

BOX = {'image_id': 1, 'category_id': 1, 'bbox': [10, 20, 30, 40], 'score': 0.5}


def but(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**BOX, **changes}.items() if value is not None}


def image_key(key: int | str | ImageKey) -> ImageKey:
    """A file name is written as such, anything else is an image_id."""
    if isinstance(key, ImageKey):
        return key
    is_name = isinstance(key, str) and key.endswith(('.jpg', '.gif'))
    return ImageKey(file_name=key) if is_name else ImageKey(image_id=key)


BOXES = {
    'a box': ([BOX], {1: [[10, 20, 40, 60, 0.5]]}),
    'by name': ([but(image_id=None, file_name='./a/b.jpg')], {'a/b.jpg': [[10, 20, 40, 60, 0.5]]}),
    'by name next to an id': (
        [{**BOX, 'file_name': 'a\\b.jpg'}],
        {ImageKey('a/b.jpg', 1): [[10, 20, 40, 60, 0.5]]},
    ),
    'by name next to an id of null': (
        [{**BOX, 'image_id': None, 'file_name': 'b.jpg'}],
        {'b.jpg': [[10, 20, 40, 60, 0.5]]},
    ),
    'by an id next to a name of null': (
        [{**BOX, 'file_name': None}],
        {1: [[10, 20, 40, 60, 0.5]]},
    ),
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
    assert found.keys() == set(map(image_key, expected))
    for key, boxes in zip(map(image_key, expected), expected.values(), strict=True):
        assert found[key].dtype == np.float32
        np.testing.assert_allclose(found[key], np.reshape(boxes, (-1, 5)))


WRONG_BOXES = {
    'annotations': ({'annotations': [BOX]}, 'expected a list of detections'),
    'no json': ('[', 'expected JSON'),
    'no image': ([BOX, but(image_id=None)], 'entry 1: expected file_name or image_id'),
    'an image of null': (
        [{**BOX, 'image_id': None, 'file_name': None}],
        'entry 0: expected file_name or image_id, found neither',
    ),
    'no name next to an id': ([but(file_name='')], 'entry 0: file_name: expected a file name'),
    'an image that is a list': ([but(image_id=[1])], 'entry 0: image_id: expected an integer'),
    'an image of 65 bits': ([but(image_id=2**63)], 'entry 0: image_id: expected an integer'),
    'an image that is a bool': ([but(image_id=True)], 'entry 0: image_id: expected an integer'),
    'no name': ([but(image_id=None, file_name=' ')], 'entry 0: file_name: expected a file name'),
    'no box': ([but(bbox=None)], 'entry 0: bbox: expected 4 numbers .*, found nothing'),
    'three numbers': ([but(bbox=[1, 2, 3])], r'bbox: expected 4 numbers \(x, y, width, height\)'),
    'words': ([but(bbox=['a', 'b', 'c', 'd'])], 'entry 0: bbox: expected 4 numbers'),
    'numbers as text': ([but(bbox=['1', '2', '3', '4'])], 'entry 0: bbox: expected 4 numbers'),
    'a huge number': ([but(bbox=[1, 2, 3, 10**400])], 'entry 0: bbox: expected 4 numbers'),
    'a score that is a word': ([but(score='high')], 'entry 0: score: expected a number'),
    'a category that is a word': (
        [but(category_id='1')],
        'entry 0: category_id: expected an integer',
    ),
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


def test_ignored_entries_are_counted(tmp_path):
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
        found.by_image[image_key(1)], np.float32([[10, 20, 40, 60, 0.5, 1], [0, 0, 1, 2, 0.5, 0]])
    )
    assert found.by_image[image_key(2)].shape == (0, 6)
    assert found.left_out == {'not of category_id 3, 8': 2}
    (boxes, none), _ = assign_bboxes(['1.jpg', '3.jpg'], found, ImageIds())
    assert (boxes.shape, none.shape) == ((2, 6), (0, 6))


UNCATEGORISED = {
    'no category': ([but(category_id=None)], 'entry 0: category_id: expected an integer'),
    'others': ([BOX], r'used: 1 not of category_id 3, 8 \(category ids found: 1\)'),
}


@pytest.mark.parametrize(('content', 'message'), UNCATEGORISED.values(), ids=UNCATEGORISED)
def test_boxes_of_several_categories_must_have_a_category(tmp_path, content, message):
    with pytest.raises(AnnotationError, match=message):
        read_bboxes(written(tmp_path, content), 0.3, categories=(3, 8))


def person_boxes(boxes: dict[int | str | ImageKey, np.ndarray]) -> PersonBoxes:
    """Boxes of a file, all of whose entries are used."""
    by_image = {image_key(key): array for key, array in boxes.items()}
    first = {key: number for number, key in enumerate(by_image)}
    return PersonBoxes('boxes.json', by_image, first, sum(map(len, boxes.values())), {})


ONE, TWO = np.full((1, 5), 1, np.float32), np.full((2, 5), 2, np.float32)
FRAMES = [{'file_name': 'frame_0.jpg', 'id': 9}]
ASSIGNED = {
    'by number': ('in/000000000001.jpg', {1: ONE}, None, [ONE]),
    'by name': ('in/x/b.jpg', {'x/b.jpg': ONE}, None, [ONE]),
    'of another folder': ('in/x/b.jpg', {'y/b.jpg': TWO, 'b.jpg': ONE}, None, [ONE]),
    'by number of the annotations': ('in/frame_0.jpg', {9: ONE, 0: TWO}, FRAMES, [ONE]),
    'by that number as text': ('in/frame_0.jpg', {'9': ONE}, FRAMES, [ONE]),
    'by stem': ('in/frame_0.jpg', {'frame_0': ONE, 'frame_00': TWO}, None, [ONE]),
    'by stem next to annotations': ('in/frame_0.jpg', {'frame_0': ONE}, FRAMES, [ONE]),
    'by stem in a folder': ('in/x/b.jpg', {'x/b': ONE, 'y/b': TWO}, None, [ONE]),
    'by stem of digits': ('in/000000000001.jpg', {'000000000001': ONE}, None, [ONE]),
    'by number as text': ('in/000000000001.jpg', {'1': ONE}, None, [ONE]),
    'in two ways': ('in/000000000001.jpg', {1: ONE, '000000000001.jpg': TWO}, None, [ONE, TWO]),
    'by name next to the number of another': (
        'in/1.jpg',
        {ImageKey('2.jpg', 1): TWO, ImageKey('1.jpg', 0): ONE},
        None,
        [ONE],
    ),
    'by name next to an id of no annotated image': (
        'in/frame_0.jpg',
        {ImageKey('frame_0.jpg', 3): ONE, 3: TWO},
        FRAMES,
        [ONE],
    ),
    'by name and the id that the annotations give it': (
        'in/frame_0.jpg',
        {ImageKey('frame_0.jpg', 9): ONE, ImageKey('frame_0.jpg', '9'): TWO},
        FRAMES,
        [ONE, TWO],
    ),
    # Its file_name names another image.
    'not by the id next to a name of no input': (
        'in/frame_0.jpg',
        {ImageKey('frame_1.jpg', 9): TWO, 9: ONE},
        FRAMES,
        [ONE],
    ),
    'by the name without a folder': ('in/b.jpg', {'sub/b.jpg': TWO, 'b.jpg': ONE}, None, [ONE]),
    'by the longest name': ('in/sub/b.jpg', {'sub/b.jpg': ONE, 'b.jpg': TWO}, None, [ONE]),
    'by the longest stem': ('in/sub/b.jpg', {'b': TWO, 'sub/b': ONE}, None, [ONE]),
}


@pytest.mark.parametrize(('path', 'found', 'images', 'expected'), ASSIGNED.values(), ids=ASSIGNED)
def test_boxes_are_assigned_to_their_images(path, found, images, expected):
    found = person_boxes(found)
    (boxes, none), _ = assign_bboxes([path, 'in/d.jpg'], found, ImageIds(images))
    np.testing.assert_array_equal(boxes, np.concatenate(expected))
    assert none.shape == (0, 5)


# Counted from 0 by a converter, the number in the name, none, and text.
@pytest.mark.parametrize('ids', [range(4), range(1, 5), [None] * 4, '0123'], ids=str)
def test_a_file_name_takes_precedence_over_an_image_id(tmp_path, ids):
    entries = [
        {**BOX, 'image_id': ids[number], 'file_name': f'{number + 1}.jpg', 'bbox': [0, 0, 1, size]}
        for number, size in enumerate((1, 2, 3, 4))
    ]
    found = read_bboxes(written(tmp_path, entries), 0.3)
    boxes, _ = assign_bboxes([f'in/{number}.jpg' for number in (4, 3, 2, 1)], found, ImageIds())
    assert [array[:, 3].tolist() for array in boxes] == [[4], [3], [2], [1]]


@pytest.mark.parametrize('image_id', [7, '7'])
@pytest.mark.parametrize('inputs', [['in/frame_0.jpg'], ['in/frame_0.jpg', 'in/frame_1.jpg']])
def test_a_name_and_an_annotated_id_of_two_images_are_an_error(inputs, image_id):
    images = ImageIds([*FRAMES, {'file_name': 'frame_1.jpg', 'id': 7}])
    found = person_boxes({ImageKey('frame_0.jpg', 9): ONE, ImageKey('frame_0.jpg', image_id): ONE})
    with pytest.raises(AnnotationError) as raised:
        assign_bboxes(inputs, found, images)
    assert str(raised.value) == (
        f"boxes.json: entry 1: expected file_name and image_id of one image, found 'frame_0.jpg' "
        f"and {image_id!r}, which the annotation file calls 'frame_1.jpg' (remove image_id if it "
        'is not an id of the annotation file)'
    )


NOTES = {
    'all of inputs': (
        {'a.jpg': ONE, 'b.jpg': TWO},
        '3 of 3 entries used; 2 of 2 images have boxes',
    ),
    'an input without entries': ({'a.jpg': ONE}, '1 of 1 entries used; 1 of 2 images have boxes'),
    'entries of no input': (
        {'a.jpg': ONE, 'zz.jpg': TWO, 8: ONE},
        '1 of 4 entries used; left out: 3 for images that are not inputs, such as '
        "file_name 'zz.jpg'; 1 of 2 images have boxes; no entry names 'in/b.jpg'",
    ),
    'ids of no input': (
        {'a.jpg': ONE, 'b.jpg': ONE, 8: TWO},
        '2 of 4 entries used; left out: 2 for images that are not inputs, such as '
        'image_id 8; 2 of 2 images have boxes',
    ),
    # Their entries are counted when they are read.
    'no boxes of no input': (
        {'zz.jpg': ONE[:0], 'a.jpg': TWO},
        '2 of 2 entries used; 1 of 2 images have boxes',
    ),
    'no boxes, then boxes of no input': (
        {'zz.jpg': ONE[:0], 'yy.jpg': ONE, 'a.jpg': TWO},
        '2 of 3 entries used; left out: 1 for images that are not inputs, such as '
        "file_name 'yy.jpg'; 1 of 2 images have boxes; no entry names 'in/b.jpg'",
    ),
}


@pytest.mark.parametrize(('found', 'expected'), NOTES.values(), ids=NOTES)
def test_entries_for_images_that_are_not_inputs_are_counted(found, expected):
    _, line = assign_bboxes(['in/a.jpg', 'in/b.jpg'], person_boxes(found), ImageIds())
    assert line == f'boxes: {expected}'


def test_a_name_is_not_used_as_the_stem_of_another_input():
    found = person_boxes({'a.gif': ONE})
    (first, second), _ = assign_bboxes(['in/a.gif', 'in/a.gif.png'], found, ImageIds())
    assert (len(first), len(second)) == (1, 0)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('value', [1e300, float('inf'), float('nan')])
def test_boxes_that_are_not_finite_are_read_so_that_their_image_fails(tmp_path, value):
    path = written(tmp_path, [BOX, but(bbox=[1, 2, value, 4])])
    good, bad = read_bboxes(path, bbox_thr=0.3).by_image[image_key(1)]
    assert np.isfinite(good).all()
    assert not np.isfinite(bad).all()


OTHERS = {
    'an id': ({9: ONE}, 'an entry: image_id 9'),
    'a name': ({ImageKey('zz.jpg', 9): ONE}, "an entry: file_name 'zz.jpg'"),
    'none': ({}, 'it has no entries'),
}


@pytest.mark.parametrize(('found', 'entry'), OTHERS.values(), ids=OTHERS)
def test_boxes_of_other_images_are_an_error_with_an_example(found, entry):
    with pytest.raises(AnnotationError) as raised:
        assign_bboxes(['in/c.jpg'], person_boxes(found), ImageIds())
    assert str(raised.value).startswith(
        'boxes.json: no entry matches an input, by file_name or image_id; '
    )
    assert str(raised.value).endswith(f"; {entry}; an input: 'in/c.jpg'")


@pytest.mark.parametrize('key', [1, '000000000001.jpg'])
def test_boxes_that_match_two_images_are_an_error(key):
    paths = ['a/000000000001.jpg', 'b/000000000001.jpg']
    with pytest.raises(AnnotationError) as raised:
        assign_bboxes(paths, person_boxes({key: ONE}), ImageIds())
    assert str(raised.value) == (
        f"boxes.json: expected one input for image {key!r}, found 'a/000000000001.jpg' and "
        "'b/000000000001.jpg'"
    )


def test_an_ambiguous_id_is_ignored_next_to_a_file_name():
    found = person_boxes({ImageKey('a/1.jpg', 1): ONE})
    (first, second), _ = assign_bboxes(['a/1.jpg', 'b/1.jpg'], found, ImageIds())
    assert (len(first), len(second)) == (1, 0)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / 'file.json'
    path.write_text(json.dumps([BOX]), encoding='utf-8-sig')
    assert list(read_bboxes(str(path), 0.3).by_image) == [image_key(1)]
