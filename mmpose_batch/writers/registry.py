"""Registry of output formats, and the formats that a run writes.

A format is a module that calls :func:`register`. Those of this package are imported
automatically; another package must import its module before the options of a run are created.
The modules of this package import heavy libraries only when they write, so that the command
line lists the formats without delay.
"""

import pkgutil
import re
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .base import WriterSpec

if TYPE_CHECKING:
    from .options import RunOptions

# Name to format, registered so far; :func:`specs` imports all.
WRITERS: dict[str, WriterSpec] = {}
# Keys of ``identity`` in ``run.json`` that do not belong to a format; see `runs/identity.py`.
IDENTITY_KEYS = frozenset(
    [
        *('config', 'model', 'det_config', 'detector', 'engine_file'),
        *('inputs', 'videos', 'bboxes', 'categories'),
        *('batch_size', 'bbox_thr', 'nms_thr', 'select_thr', 'merge_results', 'pose_based_nms'),
        *('test_cfg', 'keep_images'),
        *('det_cat_ids', 'det_batch_size', 'det_interval', 'precision', 'engine', 'engine_device'),
        *('calib_images', 'rect', 'no_person', 'device', 'threads'),
        *('versions', 'engine_versions'),
    ]
)
# Files of a run that belong to no format, in lower case, and incomplete files.
_RUN_FILES = re.compile(r'run\.json|\.lock|\.chunks|error(-\d+)?\.log|\.partial.*')


def register(spec: WriterSpec) -> WriterSpec:
    """Add an output format.

    Raises:
        ValueError: Another format has the same name, key, file or folder, or one inside the
            other, or both are the journal; the key is one of the run's own; or a file or folder
            is not a plain path below the output folder, or one of the run's own.
    """
    if not _is_own(spec):
        _import_own()  # so that a name that is in use is an error of this call
    _check_paths(spec)
    if _key(spec) in IDENTITY_KEYS:
        raise ValueError(
            f'format: {spec.name}: {_key(spec)!r} is in the identity of every run; choose another '
            f'{"key" if spec.key else "name or key"}'
        )
    for other in WRITERS.values():
        if spec.name == other.name or (spec.journal and other.journal):
            raise ValueError(f'format: {other.name!r} is registered already')
        if _key(spec) == _key(other):
            raise ValueError(
                f'format: {spec.name}: {other.name} has the key {_key(spec)!r} already'
            )
        for path in _paths(other):
            if any(_overlap(path, mine) for mine in _paths(spec)):
                raise ValueError(f'format: {spec.name}: {other.name} writes {path} already')
    WRITERS[spec.name] = spec
    return spec


def _is_own(spec: WriterSpec) -> bool:
    """Whether a module of this package registers the format, as it is imported."""
    return str(getattr(spec.build, '__module__', '')).startswith(f'{__package__}.')


def _key(spec: WriterSpec) -> str:
    return spec.key or spec.name


def _paths(spec: WriterSpec) -> list[str]:
    """The files and the folder of a format."""
    return [*spec.files, *([spec.folder] if spec.folder else [])]


def _overlap(path: str, other: str) -> bool:
    """Whether two paths are equal or one contains the other, on any file system."""
    path, other = path.casefold(), other.casefold()
    return path == other or path.startswith(f'{other}/') or other.startswith(f'{path}/')


def _check_paths(spec: WriterSpec) -> None:
    """Check the files and the folder of a format.

    Raises:
        ValueError: One is not a plain path below the output folder, or belongs to the run.
    """
    for path in _paths(spec):
        parts = path.split('/')
        if {'', '.', '..'} & set(parts) or re.search(r'[\\:\0]', path):
            raise ValueError(
                f'format: {spec.name}: expected a relative path below the output folder, such as '
                f'tables/persons.csv, found {path!r}'
            )
        if any(_RUN_FILES.fullmatch(part.casefold()) for part in (parts[0], parts[-1])):
            raise ValueError(f'format: {spec.name}: {path} is a file of the run itself')


def specs() -> dict[str, WriterSpec]:
    """Name to format: first the journal, then formats written image by image, then derived ones."""
    _import_own()
    found = sorted(WRITERS.values(), key=_place)
    return {spec.name: spec for spec in found}


def _place(spec: WriterSpec) -> tuple[Any, ...]:
    return not spec.journal, spec.derived, not spec.per_image, spec.name


@cache
def _import_own() -> None:
    package = import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f'{__package__}.{module.name}')


def names() -> tuple[str, ...]:
    """Values of ``--format``: all formats without an option of their own."""
    return tuple(spec.name for spec in specs().values() if not spec.option)


def default() -> tuple[str, ...]:
    """The formats that every run writes."""
    return tuple(spec.name for spec in specs().values() if spec.journal)


def requested(options: 'RunOptions') -> list[WriterSpec]:
    """The formats that a run writes, the journal first."""
    return [spec for spec in specs().values() if spec.is_requested(options)]
