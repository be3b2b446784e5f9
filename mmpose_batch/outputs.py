"""What a run writes into its output folder, and which files of a folder earlier runs wrote."""

import json
import os
import os.path as osp
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import orjson

from .errors import OutputError

INFO_FILE = 'run.json'
DRAWINGS = 'vis'
# Files that every run writes or replaces, whatever its inputs are called.
_RUN_FILES = ('predictions.jsonl', 'failures.jsonl', 'predictions.coco.json')
# What OpenCV writes as well as reads; a drawing of any other kind becomes a PNG.
_DRAWING_SUFFIXES = frozenset(['.bmp', '.jpe', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'])
# Largest run.json that is read, in bytes; those of this package have some thousands.
_MAX_INFO = 16 * 2**20
# Where a record begins: its other values are not needed, and are most of the file.
_IMAGE = re.compile(rb'\{"image":("(?:[^"\\]|\\.)*")')


def drawing_name(name: str) -> str:
    """Where the drawing of an image of that name goes, below ``vis/``."""
    return name if osp.splitext(name)[1].lower() in _DRAWING_SUFFIXES else f'{name}.png'


def files_of(name: str, drawings: bool = True, predictions: bool = True) -> list[str]:
    """What a run writes for an image of that name, as paths below its folder.

    Args:
        name: As ``Frame.name`` and records have it.
        drawings: With the drawing.
        predictions: With the JSON file of its own.
    """
    paths = [f'{DRAWINGS}/{drawing_name(name)}'] * drawings
    paths += [f'predictions/{name}.json'] * predictions
    return [path for path in paths if '..' not in path.split('/')]


def read_info(folder: str) -> dict[str, Any] | None:
    """What ``run.json`` of a folder says; None unless a run of this package wrote it.

    A file that is damaged, larger than 16 MiB, or another program's is none of this package.
    """
    path = osp.join(folder, INFO_FILE)
    try:
        if not osp.isfile(path) or osp.getsize(path) > _MAX_INFO:
            return None
        with open(path, 'rb') as file:
            info = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(info, dict):
        return None
    program = str(info.get('written_by', '')).split()[:1]
    # The first version wrote no 'written_by'.
    return info if program == ['mmpose_batch'] or 'mmpose_batch' in _versions(info) else None


def _identity(info: dict[str, Any]) -> dict[str, Any]:
    identity = info.get('identity')
    return identity if isinstance(identity, dict) else {}


def _versions(info: dict[str, Any]) -> dict[str, Any]:
    versions = _identity(info).get('versions')
    return versions if isinstance(versions, dict) else {}


def written(folder: str) -> Iterator[str]:
    """Yield the drawings and JSON files that a run wrote there, as paths below ``folder``.

    They are those of the images that ``predictions.jsonl`` names, and of the images that
    ``run.json`` names as ``pending``, whose files a killed run may have written before their
    records. Nothing is yielded for a folder without a run of this package, or of a kind that
    the run did not write.
    """
    info = read_info(folder)
    if info is None:
        return
    identity = _identity(info)
    kinds = {'drawings': bool(identity.get('drawings')), 'predictions': bool(identity.get('json'))}
    if any(kinds.values()):
        for name in (*_pending(info), *_recorded(folder)):
            yield from files_of(name, **kinds)


def _pending(info: dict[str, Any]) -> list[str]:
    names = info.get('pending')
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []


def _recorded(folder: str) -> Iterator[str]:
    """Names of the images in ``predictions.jsonl``, the one of a broken last line included."""
    path = osp.join(folder, 'predictions.jsonl')
    if not osp.isfile(path):
        return
    try:
        with open(path, 'rb') as file:
            for line in file:
                if match := _IMAGE.match(line):
                    yield orjson.loads(match[1])
    except (OSError, orjson.JSONDecodeError):  # damaged: the rest is not known
        return


class EarlierRuns:
    """Tells the drawings of earlier runs from other files; reads each run once."""

    def __init__(self) -> None:
        self._drawn: dict[str, frozenset[str]] = {}

    def drawn(self, folder: str) -> frozenset[str]:
        """Drawings that the run in a folder wrote, as paths below it: ``vis/a.jpg``."""
        if folder not in self._drawn:
            prefix = f'{DRAWINGS}/'
            self._drawn[folder] = frozenset(p for p in written(folder) if p.startswith(prefix))
        return self._drawn[folder]

    def around(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield the runs in whose ``vis/`` a folder is, however its path leads there.

        Yields:
            Real path of the run's folder, and that of ``folder`` below it: ``vis/sub``.
        """
        parts = osp.realpath(folder).split(os.sep)
        for index, part in enumerate(parts):
            run = os.sep.join(parts[:index]) or os.sep
            if part == DRAWINGS and self.drawn(run):
                yield run, '/'.join(parts[index:])


def check_folder(out_dir: str) -> None:
    """See that files can be written into a folder, which is made for the attempt if need be.

    Nothing of it stays. Only an attempt tells: a folder may refuse files whatever its
    permissions say, as those of ``/proc`` and of read-only disks do.

    Raises:
        OutputError: They cannot.
    """
    missing, path = [], osp.abspath(out_dir)
    while not osp.lexists(path):
        missing.append(path)
        path = osp.dirname(path)
    try:
        os.makedirs(out_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=out_dir):
            pass
    except OSError as error:
        raise OutputError(f'cannot write below {out_dir}: {error.strerror or error}') from error
    finally:
        for path in missing:
            with suppress(OSError):  # it was not made, or another process uses it by now
                os.rmdir(path)


def check_places(
    out_dir: str, names: Sequence[str], drawings: bool = False, predictions: bool = False
) -> None:
    """See that no folder is where a run writes a file, and no file where it needs a folder.

    Args:
        out_dir: The output folder, which need not exist.
        names: ``Frame.name`` of each input.
        drawings: The run writes drawings (``--save-vis``).
        predictions: The run writes a JSON file for each image (``--format json``).

    Raises:
        OutputError: One is, or two drawings would share a file.
    """
    for name in (*_RUN_FILES, INFO_FILE):
        path = osp.join(out_dir, name)
        if osp.isdir(path):
            raise OutputError(f'{path}: expected a file, found a folder: move it away')
    if drawings:
        _check_drawings(names)
    paths = (path for name in names for path in files_of(name, drawings, predictions))
    seen: set[str] = set()
    for folder in map(osp.dirname, paths):
        while folder and folder not in seen:
            seen.add(folder)
            path = osp.join(out_dir, folder)
            if osp.lexists(path) and not osp.isdir(path):
                raise OutputError(f'{path}: expected a folder, found a file: move it away')
            folder = osp.dirname(folder)


def _check_drawings(names: Sequence[str]) -> None:
    """See that every drawing has a file of its own.

    Raises:
        OutputError: ``a.gif`` and ``a.gif.png`` are both inputs.
    """
    converted = {drawing_name(name): name for name in names if drawing_name(name) != name}
    for name in names:
        if name in converted:
            raise OutputError(
                f'{name} and {converted[name]} would be drawn into one file: '
                'rename one, or leave --save-vis out'
            )


def check_targets(out_dir: str, names: Iterable[str], drawings: bool, predictions: bool) -> None:
    """See that a run replaces no file but those of the run that its folder holds.

    Args:
        out_dir: The output folder, which need not exist.
        names: ``Frame.name`` of each input.
        drawings: The run writes drawings (``--save-vis``).
        predictions: The run writes a JSON file for each image (``--format json``).

    Raises:
        OutputError: A file is there, and no run of this package wrote it; two inputs
            have the same name.
    """
    info = osp.join(out_dir, INFO_FILE)
    if read_info(out_dir) is None:
        if osp.lexists(info):
            raise OutputError(_not_ours(info))
        for path in (osp.join(out_dir, name) for name in _RUN_FILES):
            if osp.isfile(path) and osp.getsize(path) > 0:
                raise OutputError(_not_ours(path))
    drawings = drawings and osp.lexists(osp.join(out_dir, DRAWINGS))
    predictions = predictions and osp.lexists(osp.join(out_dir, 'predictions'))
    ours = set(written(out_dir)) if drawings or predictions else set()
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise OutputError(f'two inputs would both be called {name} in the output: rename one')
        seen.add(name)
        for path in files_of(name, drawings, predictions):
            if path not in ours and osp.lexists(osp.join(out_dir, path)):
                raise OutputError(_not_ours(osp.join(out_dir, path)))


def _not_ours(path: str) -> str:
    return (
        f'{path} would be replaced, and no run.json says that a run wrote it: '
        'move it away or name another output folder'
    )
