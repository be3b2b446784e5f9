"""COCO box files: person boxes in place of a detector, and which image they are of."""

import os.path as osp
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import AnnotationError
from .annotations import (
    Field,
    ImageIds,
    check_entries,
    clean_name,
    is_id,
    is_name,
    owners,
    read_json,
)

# The category of persons in box files, as in MMPose's own reader.
PERSON = 1


def _is_image_id(value: Any) -> bool:
    return is_id(value) or is_name(value)


def _is_number(value: Any) -> bool:
    """A number, NaN and inf included: a box of such fails in the record of its image only."""
    return type(value) is float or is_id(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


#: What is read of each entry of a box file.
BOX_SCHEMA = (
    Field('image_id', 'a whole number of at most 64 bits, or text', _is_image_id, required=False),
    Field('file_name', 'a file name', is_name, required=False),
    Field('category_id', 'a whole number of at most 64 bits', is_id, required=False),
    Field('bbox', '4 numbers (x, y, width, height)', _is_box),
    Field('score', 'a number', _is_number, required=False),
)


@dataclass(frozen=True, slots=True)
class PersonBoxes:
    """Person boxes of a file.

    Attributes:
        path: The file.
        by_image: For each image id, stem or file name an array (N, 5), float32: x1, y1, x2, y2
            in pixels, score; (N, 6) with a label where there are several categories. Images
            whose entries are all left out have arrays of length 0.
        entries: Number of entries in the file.
        left_out: For each reason why entries do not count, their number.
    """

    path: str
    by_image: dict[int | str, np.ndarray]
    entries: int
    left_out: dict[str, int]

    def line(self) -> str:
        """How many entries count, and why the others do not."""
        count = self.entries - sum(self.left_out.values())
        reasons = ', '.join(f'{number} {reason}' for reason, number in self.left_out.items())
        return f'boxes: {count} of {self.entries} entries used' + (
            f'; left out: {reasons}' if reasons else ''
        )


def read_bboxes(path: str, bbox_thr: float, categories: Sequence[int] | None = None) -> PersonBoxes:
    """Read person boxes from COCO detection results.

    Args:
        path: JSON list of ``image_id`` or ``file_name``, ``bbox`` ([x, y, w, h]
            in pixels), ``score`` and ``category_id``, of which 1 counts, as in
            MMPose's own reader.
        bbox_thr: Boxes must score above this.
        categories: Ids that count in place of 1, if annotations judge several. Then every
            entry has a ``category_id``, and its place among them is the label of the box.

    Raises:
        AnnotationError: The file does not have that form, or no entry of it counts.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise AnnotationError(f'{path}: expected a list of detections in COCO results form')
    check_entries(path, content, _schema(categories is not None), 'entry {}')
    counting = {PERSON: 0} if categories is None else {c: i for i, c in enumerate(categories)}
    found: dict[int | str, list[list[float]]] = defaultdict(list)
    left_out: dict[str, int] = defaultdict(int)
    others: set[int] = set()
    for number, entry in enumerate(content):
        boxes = found[_box_key(path, number, entry)]  # looked at, whatever its boxes score
        x, y, width, height = entry['bbox']
        category, score = entry.get('category_id', PERSON), entry.get('score', 1.0)
        if category not in counting:
            left_out[f'not of category_id {_listed(counting)}'] += 1
            others.add(category)
        elif score <= bbox_thr:  # a score of NaN stays, for the record that says so
            left_out[f'with a score of at most {bbox_thr:g}'] += 1
        else:
            boxes.append([x, y, x + width, y + height, score, counting[category]])
    if content and sum(left_out.values()) == len(content):
        raise AnnotationError(_none_counts(path, left_out, others, categories is None))
    columns = 5 if categories is None else 6
    with np.errstate(over='ignore'):  # to inf, which the record of its image reports
        arrays = {
            key: np.array(boxes, np.float32).reshape(-1, 6)[:, :columns].copy()
            for key, boxes in found.items()
        }
    return PersonBoxes(path, arrays, len(content), dict(left_out))


def _schema(with_categories: bool) -> tuple[Field, ...]:
    return tuple(
        replace(field, required=True) if with_categories and field.name == 'category_id' else field
        for field in BOX_SCHEMA
    )


def _listed(ids: Iterable[int]) -> str:
    """Some ids for a person."""
    ids = sorted(ids)
    return ', '.join(map(str, ids[:5])) + (f', ... ({len(ids)})' if len(ids) > 5 else '')


def _box_key(path: str, number: int, entry: Mapping[str, Any]) -> int | str:
    key = entry.get('image_id', entry.get('file_name'))
    if key is None:
        raise AnnotationError(
            f'{path}: entry {number}: expected image_id or file_name, found neither'
        )
    return clean_name(key) if isinstance(key, str) else key


def _none_counts(path: str, left_out: Mapping[str, int], others: set[int], persons: bool) -> str:
    reasons = ', '.join(f'{count} {reason}' for reason, count in left_out.items())
    hint = f' (category ids found: {_listed(others)})' if others else ''
    if others and persons:
        shown = ', '.join(map(str, sorted(others)[:5]))
        hint = f' (category ids found: {shown}; persons have {PERSON}, as in COCO'
        hint += '; YOLO converters count from 0)' if 0 in others else ')'
    return f'{path}: no entry of {sum(left_out.values())} is used: {reasons}{hint}'


def assign_bboxes(
    paths: Sequence[str], found: Mapping[int | str, np.ndarray], image_ids: ImageIds
) -> list[np.ndarray]:
    """Give every path its boxes; one that the file does not name has none.

    Args:
        paths: Of the images.
        found: Boxes (N, 5 or 6) of each image id, as number or text, stem or file name.
        image_ids: COCO ids of the paths.

    Returns:
        For each path an array (N, 5 or 6).

    Raises:
        AnnotationError: The file names none of the paths, or one name fits two.
    """
    by_name = ImageIds([{'file_name': key, 'id': key} for key in found if isinstance(key, str)])
    names = {by_name.find(path) for path in paths}

    def find(path: str) -> Iterator[int | str]:
        image_id = image_ids.find(path)
        stem = by_name.find(osp.splitext(path)[0])
        stem = None if stem in names else stem  # a.gif is no stem of a.gif.png if it is an input
        keys = (by_name.find(path), stem, image_id, None if image_id is None else str(image_id))
        yield from dict.fromkeys(key for key in keys if key is not None and key in found)

    boxes: dict[str, list[np.ndarray]] = defaultdict(list)
    for key, path in owners(paths, find).items():
        boxes[path].append(found[key])
    if not boxes:
        raise AnnotationError(
            'the box file names none of the images; it does so by file_name, or by the image_id '
            'that the annotation file gives or that a file name is'
        )
    none = np.zeros((0, next(iter(found.values())).shape[1]), np.float32)
    return [np.concatenate(boxes[path]) if path in boxes else none for path in paths]
