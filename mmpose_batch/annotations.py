"""COCO annotation and box files: the schema of what is read, and which image an entry means."""

import json
import os.path as osp
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# JSON writers and COCO's tools take ids of 64 bits.
_IDS = range(-(2**63), 2**63)
# The largest image that OpenCV reads, in pixels: its side and its area.
_MAX_SIDE = 2**20
_MAX_AREA = 2**30
# The category of persons in box files, as in MMPose's own reader.
PERSON = 1


class AnnotationError(ValueError):
    """An annotation or box file that cannot be used."""


# ------------------------------------------------------------------------------- the schema


def _is_id(value: Any) -> bool:
    return type(value) is int and value in _IDS  # a bool is an int to isinstance


def _is_image_id(value: Any) -> bool:
    return _is_id(value) or _is_name(value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ''


def _are_within(values: Any, least: float, most: float) -> bool:
    return isinstance(values, list) and all(
        type(value) in (int, float) and least <= value <= most  # which NaN is not
        for value in values
    )


def _is_bbox(value: Any) -> bool:
    return _are_within(value, -_MAX_SIDE, _MAX_SIDE) and len(value) == 4


def _are_keypoints(value: Any) -> bool:
    return (
        _are_within(value, -_MAX_SIDE, _MAX_SIDE)
        and len(value) % 3 == 0
        and _are_within(value[2::3], 0, _MAX_SIDE)
    )


def _is_area(value: Any) -> bool:
    return _are_within([value], 0, _MAX_AREA)


def _is_flag(value: Any) -> bool:
    return type(value) in (bool, int) and value in (0, 1)  # COCO Annotator writes true and false


def _is_number(value: Any) -> bool:
    """A number, NaN and inf included: a box of such fails in the record of its image only."""
    return type(value) is float or _is_id(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an entry.

    Attributes:
        name: Its key.
        expected: What the error says was expected.
        fits: Whether a value is valid.
        required: Whether every entry has it.
        unique: Whether no two entries share a value.
    """

    name: str
    expected: str
    fits: Callable[[Any], bool]
    required: bool = True
    unique: bool = False


def _id(name: str = 'id', unique: bool = False) -> Field:
    return Field(name, 'a whole number of at most 64 bits', _is_id, unique=unique)


_AREA = Field('area', 'square pixels, 0 to 2**30', _is_area, required=False)

#: What is read of each list of an annotation file.
SCHEMA = {
    'images': (
        _id(unique=True),
        Field('file_name', 'a file name', _is_name, unique=True),
    ),
    'annotations': (
        _id(unique=True),
        _id('image_id'),
        _id('category_id'),
        Field('bbox', '4 numbers (x, y, width, height), finite, up to 2**20', _is_bbox),
        Field(
            'keypoints',
            '3 numbers each (x, y, visibility), finite, up to 2**20',
            _are_keypoints,
            required=False,  # a box alone is skipped, and counted
        ),
        _AREA,
        Field('iscrowd', '0 or 1', _is_flag, required=False),
    ),
    'categories': (
        _id(unique=True),
        Field('name', 'text', lambda value: isinstance(value, str), required=False),
    ),
}

#: What is read of each entry of a box file.
BOX_SCHEMA = (
    Field('image_id', 'a whole number of at most 64 bits, or text', _is_image_id, required=False),
    Field('file_name', 'a file name', _is_name, required=False),
    Field('category_id', 'a whole number of at most 64 bits', _is_id, required=False),
    Field('bbox', '4 numbers (x, y, width, height)', _is_box),
    Field('score', 'a number', _is_number, required=False),
)

_NOTHING = object()


def _check(path: str, entries: Sequence[Any], fields: Iterable[Field], where: str) -> None:
    """See that every entry fits the schema.

    Args:
        path: The file, for the error.
        entries: Of the list.
        fields: Their schema.
        where: Names entry ``{}`` in the error.

    Raises:
        AnnotationError: One does not; it names file, entry and field.
    """
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise AnnotationError(
                f'{path}: {where.format(number)}: expected an object, found {entry!r:.60}'
            )
        for field in fields:
            value = entry.get(field.name, _NOTHING)
            if not (field.fits(value) if value is not _NOTHING else not field.required):
                raise _wrong(path, where.format(number), field, value)
    for field in fields:
        if field.unique:
            _check_unique(path, entries, field, where)


def _check_unique(path: str, entries: Sequence[Any], field: Field, where: str) -> None:
    seen: dict[Any, int] = {}
    for number, entry in enumerate(entries):
        value = entry[field.name]
        other = seen.setdefault(clean_name(value) if isinstance(value, str) else value, number)
        if other != number:
            raise AnnotationError(
                f'{path}: {where.format(number)}: {field.name}: expected a unique value, found '
                f'{value!r:.60} as in {where.format(other)}'
            )


def _wrong(path: str, where: str, field: Field, value: Any) -> AnnotationError:
    found = 'nothing' if value is _NOTHING else f'{value!r:.60}'
    return AnnotationError(
        f'{path}: {where}: {field.name}: expected {field.expected}, found {found}'
    )


# ------------------------------------------------------------------------- annotation files


def read_annotations(path: str) -> dict[str, Any]:
    """Read a COCO keypoint annotation file.

    Returns:
        Its content, which fits :data:`SCHEMA`; every annotation is of an image and a category
        of the file, unless this has no categories at all.

    Raises:
        AnnotationError: It is missing, no JSON, or something else; one line that names the
            entry and its field.
    """
    content = _read_json(path)
    if not isinstance(content, dict) or not SCHEMA.keys() <= content.keys():
        raise AnnotationError(f'{path}: expected COCO annotations with {", ".join(SCHEMA)}')
    for kind, fields in SCHEMA.items():
        if not isinstance(content[kind], list):
            raise AnnotationError(f'{path}: expected a list of {kind}')
        _check(path, content[kind], fields, kind + '[{}]')
    _check_references(path, content)
    return content


def _check_references(path: str, content: Mapping[str, Any]) -> None:
    """See that what an annotation names is there, and that one with keypoints has an area.

    Raises:
        AnnotationError: It is not.
    """
    images, categories = ({entry['id'] for entry in content[k]} for k in ('images', 'categories'))
    for number, entry in enumerate(content['annotations']):
        where = f'{path}: annotations[{number}]'
        if entry['image_id'] not in images:
            raise AnnotationError(
                f'{where}: image_id: expected the id of one of the images, '
                f'found {entry["image_id"]}'
            )
        if categories and entry['category_id'] not in categories:
            raise AnnotationError(
                f'{where}: category_id: expected the id of one of the categories, '
                f'found {entry["category_id"]}'
            )
        if entry.get('keypoints') and 'area' not in entry:
            raise _wrong(path, f'annotations[{number}]', _AREA, _NOTHING)


def clean_name(name: str) -> str:
    """A file name with ``/`` between folders, as Windows' tools do not write it, and no ``./``."""
    return osp.normpath(name.replace('\\', '/'))


class ImageIds:
    """COCO ids of images, found by their paths.

    A path belongs to the image of the annotation file whose ``file_name`` its
    absolute form ends with; without an annotation file, its id is the number that its name is
    (``000000000785.jpg``).

    Args:
        images: The ``images`` of an annotation file, or None.

    Attributes:
        names: ``file_name`` of each image id; empty without an annotation file.
    """

    def __init__(self, images: Sequence[Mapping[str, Any]] | None = None) -> None:
        self.names: dict[Any, str] = {image['id']: image['file_name'] for image in images or ()}
        self._by_name: dict[str, list[tuple[str, int]]] | None = None
        if images is not None:
            self._by_name = defaultdict(list)
            for image in images:
                name = clean_name(image['file_name'])
                self._by_name[osp.basename(name)].append((name, image['id']))

    def find(self, path: str) -> int | None:
        """The id of the image at ``path``, None if it has none."""
        if self._by_name is None:
            stem = osp.splitext(osp.basename(path))[0]
            # More digits than 64 bits have, which Python may even refuse to convert.
            number = int(stem) if stem.isdecimal() and len(stem) < 100 else None
            return number if number is not None and number in _IDS else None
        path = clean_name(osp.abspath(path))
        candidates = self._by_name.get(osp.basename(path), [])
        fitting = [i for name, i in candidates if path.endswith(f'/{name}') or path == name]
        return fitting[0] if len(fitting) == 1 else None


def owners(
    paths: Sequence[str], find: Callable[[str], Iterable[int | str]]
) -> dict[int | str, str]:
    """The path that each id or name belongs to, of those that belong to any.

    Raises:
        AnnotationError: Two paths share one, so one of them would get what is another's.
    """
    found: dict[int | str, str] = {}
    for path in paths:
        for key in find(path):
            if key in found:
                raise AnnotationError(
                    f'expected one input for image {key} of the file, found {found[key]} and {path}'
                )
            found[key] = path
    return found


# -------------------------------------------------------------------------------- box files


@dataclass(frozen=True, slots=True)
class PersonBoxes:
    """Person boxes of a file.

    Attributes:
        path: The file.
        by_image: For each image id, stem or file name an array (N, 5), float32: x1, y1, x2, y2
            in pixels, score. Images whose entries are all left out have arrays (0, 5).
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


def read_bboxes(path: str, bbox_thr: float) -> PersonBoxes:
    """Read person boxes from COCO detection results.

    Args:
        path: JSON list of ``image_id`` or ``file_name``, ``bbox`` ([x, y, w, h]
            in pixels), ``score`` and ``category_id``, of which 1 counts, as in
            MMPose's own reader.
        bbox_thr: Boxes must score above this.

    Raises:
        AnnotationError: The file does not have that form, or no entry of it counts.
    """
    content = _read_json(path)
    if not isinstance(content, list):
        raise AnnotationError(f'{path}: expected a list of detections in COCO results form')
    _check(path, content, BOX_SCHEMA, 'entry {}')
    found: dict[int | str, list[list[float]]] = defaultdict(list)
    left_out: dict[str, int] = defaultdict(int)
    others: set[int] = set()
    for number, entry in enumerate(content):
        boxes = found[_box_key(path, number, entry)]  # looked at, whatever its boxes score
        x, y, width, height = entry['bbox']
        category, score = entry.get('category_id', PERSON), entry.get('score', 1.0)
        if category != PERSON:
            left_out[f'not of category_id {PERSON}'] += 1
            others.add(category)
        elif score <= bbox_thr:  # a score of NaN stays, for the record that says so
            left_out[f'with a score of at most {bbox_thr:g}'] += 1
        else:
            boxes.append([x, y, x + width, y + height, score])
    if content and sum(left_out.values()) == len(content):
        raise AnnotationError(_none_counts(path, left_out, others))
    with np.errstate(over='ignore'):  # to inf, which the record of its image reports
        arrays = {k: np.array(boxes, np.float32).reshape(-1, 5) for k, boxes in found.items()}
    return PersonBoxes(path, arrays, len(content), dict(left_out))


def _box_key(path: str, number: int, entry: Mapping[str, Any]) -> int | str:
    key = entry.get('image_id', entry.get('file_name'))
    if key is None:
        raise AnnotationError(
            f'{path}: entry {number}: expected image_id or file_name, found neither'
        )
    return clean_name(key) if isinstance(key, str) else key


def _none_counts(path: str, left_out: Mapping[str, int], others: set[int]) -> str:
    reasons = ', '.join(f'{count} {reason}' for reason, count in left_out.items())
    hint = ''
    if others:
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
        found: Boxes (N, 5) of each image id, as number or text, stem or file name.
        image_ids: COCO ids of the paths.

    Returns:
        For each path an array (N, 5).

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
    none = np.zeros((0, 5), np.float32)
    return [np.concatenate(boxes[path]) if path in boxes else none for path in paths]


def _read_json(path: str) -> Any:
    try:
        with open(path, encoding='utf-8-sig') as file:  # Windows' tools write a BOM
            return json.load(file)
    except OSError as error:
        raise AnnotationError(f'{path}: cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f'{path}: expected JSON, found {error}') from error
