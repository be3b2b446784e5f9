"""The schema of annotation files, and the images that entries refer to."""

import json
from typing import Any

import pytest
from support.annotated import annotations, written

from mmpose_batch.errors import AnnotationError
from mmpose_batch.evaluation.annotations import (
    ANNOTATION_FIELDS,
    IMAGE_FIELDS,
    ImageIds,
    read_annotations,
)

# ------------------------------------------------------------------------------- image ids

IDS = {
    'a name': ('000000000785.jpg', None, 785),
    'in a folder': ('/data/val/000000000785.png', None, 785),
    'a name that is not a number': ('photo.jpg', None, None),
    'a number to Unicode only': ('\u00b2.jpg', None, None),
    'a name of the file': ('x/b.jpg', [('b.jpg', 7)], 7),
    'another name': ('x/c.jpg', [('b.jpg', 7)], None),
    # With annotations, the number in the name is ignored.
    'a number not in the file': ('000000000785.jpg', [('b.jpg', 7)], None),
    'the folder differs': ('images/b.jpg', [('val2017/b.jpg', 7)], None),
    'a number of more than 64 bits': ('9223372036854775808.jpg', None, None),
    'the folder decides': ('in/val/b.jpg', [('train/b.jpg', 6), ('val/b.jpg', 7)], 7),
    # The longest name matches, independent of ids and order.
    'a file next to a folder': ('in/b.jpg', [('b.jpg', 7), ('sub/b.jpg', 9)], 7),
    'a file in a folder': ('in/sub/b.jpg', [('sub/b.jpg', 7), ('b.jpg', 9)], 7),
    'the same in other order': ('in/sub/b.jpg', [('b.jpg', 9), ('sub/b.jpg', 7)], 7),
    'three folders': ('v/w/b.jpg', [('b.jpg', 8), ('v/w/b.jpg', 7), ('w/b.jpg', 9)], 7),
    'an absolute path': ('/v/w/b.jpg', [('w/b.jpg', 9), ('/v/w/b.jpg', 7), ('v/w/b.jpg', 6)], 7),
    'another absolute path': ('/x/v/b.jpg', [('/v/b.jpg', 7)], None),
    'the folder does not decide': ('in/b.jpg', [('train/b.jpg', 6), ('val/b.jpg', 7)], None),
    'part of a name decides nothing': ('in/b.jpg', [('n/b.jpg', 6), ('val/b.jpg', 7)], None),
    'a folder of Windows': ('in/val/b.jpg', [('train\\b.jpg', 6), ('val\\b.jpg', 7)], 7),
    'a backslash that is part of the name': ('in/a\\b.jpg', [('a\\b.jpg', 7)], 7),
    'more digits than Python converts': ('9' * 5000 + '.jpg', None, None),
    'a dot in the file': ('val/b.jpg', [('./val/b.jpg', 7), ('train/b.jpg', 6)], 7),
}


@pytest.mark.parametrize(('path', 'images', 'expected'), IDS.values(), ids=IDS)
def test_the_id_of_an_image_is_found_by_its_path(path, images, expected):
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
    'not JSON': ('{', 'expected JSON, found'),
    'not text': ('\ud83d', 'expected JSON'),
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
        read_annotations(str(path), ['area'])
    assert str(path) in str(raised.value)


ALL = (*IMAGE_FIELDS, *ANNOTATION_FIELDS)


def full(kind: str, name: str, *value: Any) -> dict[str, Any]:
    """Annotations with all fields, with one field of the second entry replaced or removed."""
    content = annotations(whole_body=True, crowding=True)
    del content[kind][1][name]
    content[kind][1].update(dict.fromkeys([name], *value) if value else {})
    return content


UNREADABLE_FIELDS = {
    'no area': (full('annotations', 'area'), 'expected square pixels'),
    'no number of keypoints': (full('annotations', 'num_keypoints'), 'an integer >= 0'),
    'a negative number': (full('annotations', 'num_keypoints', -1), 'an integer .*, found -1'),
    'no hand': (full('annotations', 'lefthand_kpts'), 'expected 3 numbers each'),
    'half a face': (full('annotations', 'face_kpts', [1, 2]), 'expected 3 numbers each'),
    'no crowding': (full('images', 'crowdIndex'), 'a finite number >= 0, found nothing'),
    'crowding of NaN': (full('images', 'crowdIndex', float('nan')), 'finite .*, found nan'),
    'crowding of words': (full('images', 'crowdIndex', 'hard'), "finite .*, found 'hard'"),
}


@pytest.mark.parametrize(('content', 'message'), UNREADABLE_FIELDS.values(), ids=UNREADABLE_FIELDS)
def test_fields_are_checked_only_if_the_metric_reads_them(tmp_path, content, message):
    path = written(tmp_path, content)
    assert len(read_annotations(path)['annotations']) == 12
    with pytest.raises(AnnotationError, match=r'file\.json: \w+\[1\]: \w+: .*' + message):
        read_annotations(path, ALL)


def test_a_person_without_keypoints_needs_nothing_else(tmp_path):
    content = annotations(whole_body=True, crowding=True)
    for name in ('keypoints', *ANNOTATION_FIELDS):
        del content['annotations'][1][name]
    assert len(read_annotations(written(tmp_path, content), ALL)['annotations']) == 12


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / 'file.json'
    path.write_text(json.dumps(annotations()), encoding='utf-8-sig')
    assert read_annotations(str(path)) == annotations()
