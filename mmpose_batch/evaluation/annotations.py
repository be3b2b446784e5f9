"""COCO annotation files: the fields that are read, and the image of each entry."""

import json
import os.path as osp
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import AnnotationError
from ..sources.video_names import is_video_name

# JSON writers and COCO's tools take ids of 64 bits.
_IDS = range(-(2**63), 2**63)
# The largest image that OpenCV reads, in pixels: its side and its area.
_MAX_SIDE = 2**20
_MAX_AREA = 2**30


# ------------------------------------------------------------------------------- the schema


def is_id(value: Any) -> bool:
    """Whether a value is an integer of at most 64 bits."""
    return type(value) is int and value in _IDS  # isinstance would accept a bool


def is_name(value: Any) -> bool:
    """Whether a value is a string that is not blank."""
    return isinstance(value, str) and value.strip() != ''


def _are_within(values: Any, minimum: float, maximum: float) -> bool:
    return isinstance(values, list) and all(
        type(value) in (int, float) and minimum <= value <= maximum  # false for NaN
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


def _is_count(value: Any) -> bool:
    return is_id(value) and value >= 0


def _is_crowding(value: Any) -> bool:
    return _are_within([value], 0, _MAX_SIDE)


def _is_flag(value: Any) -> bool:
    return type(value) in (bool, int) and value in (0, 1)  # COCO Annotator writes true and false


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an entry.

    Attributes:
        name: Key of the field.
        expected: Description of a valid value, for errors.
        fits: Returns whether a value is valid.
        required: Whether every entry must have the field.
        unique: Whether no two entries may have the same value.
    """

    name: str
    expected: str
    fits: Callable[[Any], bool]
    required: bool = True
    unique: bool = False


def _id(name: str = 'id', unique: bool = False) -> Field:
    return Field(name, 'an integer of at most 64 bits', is_id, unique=unique)


_KEYPOINTS = '3 numbers each (x, y, visibility), finite, up to 2**20'

#: Fields that are read from each list of an annotation file.
SCHEMA = {
    'images': (
        _id(unique=True),
        Field('file_name', 'a file name', is_name, unique=True),
    ),
    'annotations': (
        _id(unique=True),
        _id('image_id'),
        _id('category_id'),
        Field('bbox', '4 numbers (x, y, width, height), finite, up to 2**20', _is_bbox),
        # Annotations without keypoints are skipped, and counted.
        Field('keypoints', _KEYPOINTS, _are_keypoints, required=False),
        Field('iscrowd', '0 or 1', _is_flag, required=False),
    ),
    'categories': (
        _id(unique=True),
        Field('name', 'text', lambda value: isinstance(value, str), required=False),
    ),
}

#: Further fields of images, which some metrics read.
IMAGE_FIELDS = {
    'crowdIndex': Field('crowdIndex', 'a finite number >= 0', _is_crowding),
}
#: Further fields of annotations; those with keypoints must have the ones that a metric reads.
ANNOTATION_FIELDS = {
    field.name: field
    for field in (
        Field('area', 'square pixels, 0 to 2**30', _is_area, required=False),
        Field('num_keypoints', 'an integer >= 0', _is_count, required=False),
        *(
            Field(name, _KEYPOINTS, _are_keypoints, required=False)
            for name in ('foot_kpts', 'face_kpts', 'lefthand_kpts', 'righthand_kpts')
        ),
    )
}


def schema(reads: Collection[str] = ()) -> dict[str, tuple[Field, ...]]:
    """:data:`SCHEMA` with the further fields that a metric reads.

    Args:
        reads: Names of further fields, of :data:`IMAGE_FIELDS` and :data:`ANNOTATION_FIELDS`.
    """
    more = {
        kind: tuple(field for name, field in fields.items() if name in reads)
        for kind, fields in (('images', IMAGE_FIELDS), ('annotations', ANNOTATION_FIELDS))
    }
    return {kind: (*fields, *more.get(kind, ())) for kind, fields in SCHEMA.items()}


# Of the images whose file is a video.
_FRAME = Field('frame', 'the number of a frame, from 0', _is_count)

_MISSING = object()


def check_entries(path: str, entries: Sequence[Any], fields: Iterable[Field], where: str) -> None:
    """Check that every entry of a list fits its schema.

    Args:
        path: Path of the file, for errors.
        entries: The entries.
        fields: Schema of an entry.
        where: How errors call entry number ``{}``.

    Raises:
        AnnotationError: An entry does not fit; the message names file, entry and field.
    """
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise AnnotationError(
                f'{path}: {where.format(number)}: expected an object, found {entry!r:.60}'
            )
        for field in fields:
            value = entry.get(field.name, _MISSING)
            if not (field.fits(value) if value is not _MISSING else not field.required):
                raise _wrong(path, where.format(number), field, value)
    for field in fields:
        if field.unique:
            _check_unique(path, entries, field, where)


def _check_unique(path: str, entries: Sequence[Any], field: Field, where: str) -> None:
    seen: dict[Any, int] = {}
    for number, entry in enumerate(entries):
        value = entry[field.name]
        key = (clean_name(value), frame_of(entry)) if isinstance(value, str) else value
        other = seen.setdefault(key, number)
        if other != number:
            raise AnnotationError(
                f'{path}: {where.format(number)}: {field.name}: expected a unique value, found '
                f'{value!r:.60} as in {where.format(other)}'
            )


def _wrong(path: str, where: str, field: Field, value: Any) -> AnnotationError:
    found = 'nothing' if value is _MISSING else f'{value!r:.60}'
    return AnnotationError(
        f'{path}: {where}: {field.name}: expected {field.expected}, found {found}'
    )


# ------------------------------------------------------------------------- annotation files


def read_annotations(path: str, reads: Collection[str] = ()) -> dict[str, Any]:
    """Read a COCO keypoint annotation file.

    Args:
        path: Path of the file.
        reads: Names of further fields that are read, see :func:`schema`.

    Returns:
        The content, which fits the schema. Every annotation refers to an image and a category
        of the file, unless the file has no categories at all.

    Raises:
        AnnotationError: The file is missing, is not JSON, or does not fit the schema. The
            message is one line and names the entry and its field.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not SCHEMA.keys() <= content.keys():
        raise AnnotationError(f'{path}: expected COCO annotations with {", ".join(SCHEMA)}')
    for kind, fields in schema(reads).items():
        if not isinstance(content[kind], list):
            raise AnnotationError(f'{path}: expected a list of {kind}')
        check_entries(path, content[kind], fields, kind + '[{}]')
        if kind == 'images':
            _check_frames(path, content[kind])
    _check_references(path, content, reads)
    return content


def _check_frames(path: str, images: Sequence[Mapping[str, Any]]) -> None:
    """Check that images whose file is a video have the number of a frame."""
    for number, image in enumerate(images):
        value = image.get('frame', _MISSING)
        if is_video_name(image['file_name']) and not _FRAME.fits(value):
            raise _wrong(path, f'images[{number}]', _FRAME, value)


def frame_of(image: Mapping[str, Any]) -> int | None:
    """Number of a frame of a video, in an entry of ``images``; None for other images."""
    return image.get('frame') if is_video_name(image.get('file_name', '')) else None


def _check_references(path: str, content: Mapping[str, Any], reads: Collection[str]) -> None:
    """Check that annotations refer to existing entries and have all fields that are read.

    Raises:
        AnnotationError: One does not.
    """
    images, categories = ({entry['id'] for entry in content[k]} for k in ('images', 'categories'))
    needed = [field for name, field in ANNOTATION_FIELDS.items() if name in reads]
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
        for field in needed if entry.get('keypoints') else ():
            if field.name not in entry:
                raise _wrong(path, f'annotations[{number}]', field, _MISSING)


def clean_name(name: str) -> str:
    """A file name with ``/`` between folders (Windows tools write backslashes) and no ``./``."""
    return osp.normpath(name.replace('\\', '/'))


class ImageIds:
    """Finds the COCO id of an image, or of a frame of a video, by its path.

    With an annotation file, a path matches the image whose ``file_name`` is the end of the
    absolute path; if several are (``a.jpg`` and ``sub/a.jpg``), the longest. The frames of a
    video have its ``file_name`` and a ``frame``, their number from 0. Without an annotation
    file, the name of an image file is its id (``000000000785.jpg`` has id 785).

    Args:
        images: The ``images`` of an annotation file; None without one.

    Attributes:
        names: ``file_name`` of each image id; empty without an annotation file.
    """

    def __init__(self, images: Sequence[Mapping[str, Any]] | None = None) -> None:
        self.names: dict[Any, str] = {image['id']: image['file_name'] for image in images or ()}
        self._by_name: dict[str, dict[int | None, int]] | None = None
        if images is not None:
            self._by_name = {}
            for image in images:
                frames = self._by_name.setdefault(clean_name(image['file_name']), {})
                frames[frame_of(image)] = image['id']

    def find(self, path: str, frame: int | None = None) -> int | None:
        """The COCO id of the image at ``path``, or of a frame of the video; None if it has none."""
        if self._by_name is not None:
            return self.frames(path).get(frame)
        if frame is None:
            stem = osp.splitext(osp.basename(path))[0]
            # A longer number exceeds 64 bits, and Python may even reject its conversion.
            number = int(stem) if stem.isdecimal() and len(stem) < 100 else None
            return number if number is not None and number in _IDS else None
        return None

    def frames(self, path: str) -> dict[int | None, int]:
        """The COCO id of each annotated frame of the video at ``path``; of an image, of None."""
        end = clean_name(osp.abspath(path)) if self._by_name else ''
        while end and end not in self._by_name:
            end = end.partition('/')[2]  # without its first folder
        return self._by_name.get(end, {}) if self._by_name else {}

    def all_of(self, path: str) -> list[int]:
        """The COCO ids of an input: of an image, or of all annotated frames of a video."""
        if not is_video_name(path):
            image_id = self.find(path)
            return [] if image_id is None else [image_id]
        return [image_id for frame, image_id in self.frames(path).items() if frame is not None]


def owners(
    paths: Sequence[str], find: Callable[[str], Iterable[int | str]], file: str
) -> dict[int | str, str]:
    """The path that each id or name belongs to; those that match no path are left out.

    Args:
        paths: Paths of the inputs.
        find: Returns the ids and names that match a path.
        file: File that the ids and names are from, for errors.

    Raises:
        AnnotationError: Two paths match the same id or name.
    """
    found: dict[int | str, str] = {}
    for path in paths:
        for key in find(path):
            if key in found:
                raise AnnotationError(
                    f'{file}: expected one input for image {key!a}, found {found[key]!a} and '
                    f'{path!a}'
                )
            found[key] = path
    return found


def examples(entry: str | None, paths: Sequence[str]) -> str:
    """The end of an error about a file that matches no input: an example of an entry and an input.

    Args:
        entry: How an entry names its image; None if the file has no entries.
        paths: Paths of the inputs.
    """
    named = 'it has no entries' if entry is None else f'an entry: {entry}'
    return f'; {named}' + (f'; an input: {paths[0]!a}' if paths else '')


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises:
        AnnotationError: It cannot be read, or is not JSON.
    """
    try:
        with open(path, encoding='utf-8-sig') as file:  # Windows tools write a byte order mark
            return json.load(file)
    except OSError as error:
        raise AnnotationError(f'{path}: cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f'{path}: expected JSON, found {error}') from error
