"""COCO box files: precomputed person boxes, and the image of each box."""

import os.path as osp
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..errors import AnnotationError
from .annotations import (
    Field,
    ImageIds,
    check_entries,
    clean_name,
    examples,
    is_id,
    is_name,
    owners,
    read_json,
)

# The category of persons in box files, as in MMPose's own reader.
PERSON = 1


def _is_image_id(value: Any) -> bool:
    return value is None or is_id(value) or is_name(value)


def _is_file_name(value: Any) -> bool:
    return value is None or is_name(value)  # converters write null next to an image_id


def _is_number(value: Any) -> bool:
    """Whether a value is a number. NaN and inf are accepted here: they fail only their image."""
    return type(value) is float or is_id(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


#: Fields that are read from each entry of a box file.
BOX_SCHEMA = (
    Field('image_id', 'an integer of at most 64 bits, or text', _is_image_id, required=False),
    Field('file_name', 'a file name', _is_file_name, required=False),
    Field('category_id', 'an integer of at most 64 bits', is_id, required=False),
    Field('bbox', '4 numbers (x, y, width, height)', _is_box),
    Field('score', 'a number', _is_number, required=False),
)


class ImageKey(NamedTuple):
    """How an entry names its image.

    Attributes:
        file_name: File name of the image; None if the entry has none.
        image_id: Number of the image, or a number, stem or file name as text. It identifies the
            image only if there is no ``file_name``, since it may then be any other number.
    """

    file_name: str | None = None
    image_id: int | str | None = None

    def __str__(self) -> str:
        if self.file_name is None:
            return f'image_id {self.image_id!a}'
        return f'file_name {self.file_name!a}'


@dataclass(frozen=True, slots=True)
class PersonBoxes:
    """Person boxes of a file.

    Attributes:
        path: Path of the file.
        by_image: For each image an array (N, 5), float32: x1, y1, x2, y2 in pixels, score;
            (N, 6) with a label where there are several categories. Images whose entries are all
            ignored have arrays of length 0.
        first: Number of the first entry of each image, from 0.
        entries: Number of entries in the file.
        left_out: Number of ignored entries for each reason.
    """

    path: str
    by_image: dict[ImageKey, np.ndarray]
    first: dict[ImageKey, int]
    entries: int
    left_out: dict[str, int]

    def line(self, others: Sequence[ImageKey] = ()) -> str:
        """How many entries are used, and why the others are not.

        Args:
            others: Images with boxes that are not inputs.
        """
        left_out = dict(self.left_out)
        if others:
            count = sum(len(self.by_image[key]) for key in others)
            left_out[f'for images that are not inputs, such as {others[0]}'] = count
        reasons = ', '.join(f'{number} {reason}' for reason, number in left_out.items())
        return f'boxes: {self.entries - sum(left_out.values())} of {self.entries} entries used' + (
            f'; left out: {reasons}' if reasons else ''
        )


def read_bboxes(path: str, bbox_thr: float, categories: Sequence[int] | None = None) -> PersonBoxes:
    """Read person boxes from COCO detection results.

    Args:
        path: JSON list of ``file_name`` or ``image_id``, ``bbox`` ([x, y, w, h]
            in pixels), ``score`` and ``category_id``. Only ``category_id`` 1 is used, as in
            MMPose's own reader.
        bbox_thr: Minimum score; a box is used if its score is above it.
        categories: Category ids that are used instead of 1, if several are evaluated. Then every
            entry must have a ``category_id``, whose position in ``categories`` is the label of
            the box.

    Raises:
        AnnotationError: The file does not have that form, or none of its entries is used.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise AnnotationError(f'{path}: expected a list of detections in COCO results form')
    check_entries(path, content, _schema(categories is not None), 'entry {}')
    labels = {PERSON: 0} if categories is None else {c: i for i, c in enumerate(categories)}
    found: dict[ImageKey, list[list[float]]] = defaultdict(list)
    first: dict[ImageKey, int] = {}
    left_out: dict[str, int] = defaultdict(int)
    others: set[int] = set()
    for number, entry in enumerate(content):
        key = _image_key(path, number, entry)
        first.setdefault(key, number)
        boxes = found[key]  # named in the file, even if all its boxes are ignored
        x, y, width, height = entry['bbox']
        category, score = entry.get('category_id', PERSON), entry.get('score', 1.0)
        if category not in labels:
            left_out[f'not of category_id {_listed(labels)}'] += 1
            others.add(category)
        elif score <= bbox_thr:  # a score of NaN stays, and becomes the failure of its image
            left_out[f'with a score of at most {bbox_thr:g}'] += 1
        else:
            boxes.append([x, y, x + width, y + height, score, labels[category]])
    if content and sum(left_out.values()) == len(content):
        raise AnnotationError(_none_is_used(path, left_out, others, categories is None))
    columns = 5 if categories is None else 6
    with np.errstate(over='ignore'):  # to inf, which becomes the failure of its image
        arrays = {
            key: np.array(boxes, np.float32).reshape(-1, 6)[:, :columns].copy()
            for key, boxes in found.items()
        }
    return PersonBoxes(path, arrays, first, len(content), dict(left_out))


def _schema(with_categories: bool) -> tuple[Field, ...]:
    return tuple(
        replace(field, required=True) if with_categories and field.name == 'category_id' else field
        for field in BOX_SCHEMA
    )


def _listed(ids: Iterable[int]) -> str:
    """Some ids, for a message."""
    ids = sorted(ids)
    return ', '.join(map(str, ids[:5])) + (f', ... ({len(ids)})' if len(ids) > 5 else '')


def _image_key(path: str, number: int, entry: Mapping[str, Any]) -> ImageKey:
    """How an entry names its image; null is the same as a missing field."""
    key = ImageKey(
        *(
            clean_name(value) if isinstance(value, str) else value
            for value in (entry.get('file_name'), entry.get('image_id'))
        )
    )
    if key == (None, None):
        raise AnnotationError(
            f'{path}: entry {number}: expected file_name or image_id, found neither'
        )
    return key


def _none_is_used(path: str, left_out: Mapping[str, int], others: set[int], persons: bool) -> str:
    reasons = ', '.join(f'{count} {reason}' for reason, count in left_out.items())
    hint = f' (category ids found: {_listed(others)})' if others else ''
    if others and persons:
        shown = ', '.join(map(str, sorted(others)[:5]))
        hint = f' (category ids found: {shown}; persons have {PERSON}, as in COCO'
        hint += '; YOLO converters count from 0)' if 0 in others else ')'
    return f'{path}: no entry of {sum(left_out.values())} is used: {reasons}{hint}'


def assign_bboxes(
    paths: Sequence[str], found: PersonBoxes, image_ids: ImageIds
) -> tuple[list[np.ndarray], str]:
    """Assign the boxes of a file to images; an image that the file does not name has none.

    Args:
        paths: Paths of the images.
        found: Boxes of the file.
        image_ids: COCO ids of the paths.

    Returns:
        For each path a float32 array (N, 5) or (N, 6); and a line about how many entries are
        used and why the others are not, with examples if some match no input.

    Raises:
        AnnotationError: No entry matches a path, one name matches two paths, or ``file_name``
            and ``image_id`` of an entry are two images of the annotation file.
    """
    owned = _owned(paths, found, image_ids)
    if not owned:
        entry = next(map(str, found.by_image), None)
        raise AnnotationError(
            f'{found.path}: no entry matches an input, by file_name or image_id'
            f'{examples(entry, paths)}'
        )
    boxes: dict[str, list[np.ndarray]] = defaultdict(list)
    for key, path in owned.items():
        boxes[path].append(found.by_image[key])
    none = np.zeros((0, next(iter(found.by_image.values())).shape[1]), np.float32)
    assigned = [np.concatenate(boxes[path]) if path in boxes else none for path in paths]
    others = [key for key, array in found.by_image.items() if len(array) and key not in owned]
    images = sum(len(array) > 0 for array in assigned)
    line = f'{found.line(others)}; {images} of {len(paths)} images have boxes'
    unnamed = next((path for path in paths if path not in boxes), None)
    return assigned, line + (f'; no entry names {unnamed!a}' if others and unnamed else '')


def _owned(paths: Sequence[str], found: PersonBoxes, image_ids: ImageIds) -> dict[ImageKey, str]:
    """The path of each image of a box file that is an input."""
    names = {key.file_name for key in found.by_image if key.file_name is not None}
    ids = {key.image_id for key in found.by_image if key.file_name is None}
    find_text = _finder(paths, {key for key in ids if isinstance(key, str)})

    def find_id(path: str) -> Iterator[int | str]:
        number = image_ids.find(path)
        numbers = () if number is None else (number, str(number))
        yield from dict.fromkeys(key for key in (*find_text(path), *numbers) if key in ids)

    by_name = owners(paths, _finder(paths, names), found.path)
    by_id = owners(paths, find_id, found.path)
    owned = {
        key: by_id.get(key.image_id) if key.file_name is None else by_name.get(key.file_name)
        for key in found.by_image
    }
    owned = {key: path for key, path in owned.items() if path is not None}
    _check_agreement(owned, found, image_ids)
    return owned


def _check_agreement(
    owned: Mapping[ImageKey, str], found: PersonBoxes, image_ids: ImageIds
) -> None:
    """Check that no entry has the ``image_id`` of another image of the annotation file.

    Raises:
        AnnotationError: One has.
    """
    annotated = {str(number): number for number in image_ids.names}
    for key, path in owned.items():
        number = annotated.get(str(key.image_id))
        if key.file_name is not None and number not in (None, image_ids.find(path)):
            raise AnnotationError(
                f'{found.path}: entry {found.first[key]}: expected file_name and image_id of one '
                f'image, found {key.file_name!a} and {key.image_id!a}, which the annotation file '
                f'calls {image_ids.names[number]!a} (remove image_id if it is not an id of the '
                'annotation file)'
            )


def _finder(paths: Sequence[str], texts: Collection[str]) -> Callable[[str], Iterator[str]]:
    """A function that finds those texts that are the name of a path, with or without suffix."""
    by_name = ImageIds([{'file_name': text, 'id': text} for text in texts])
    names = {by_name.find(path) for path in paths}

    def find(path: str) -> Iterator[str]:
        name, stem = by_name.find(path), by_name.find(osp.splitext(path)[0])
        if name is not None:
            yield name
        if (
            stem is not None and stem not in names
        ):  # a.gif is not the stem of a.gif.png if it is an input
            yield stem

    return find
