"""Files that a run writes into its output folder, and files that an earlier run wrote there.

The files of each output format are those in :mod:`mmpose_batch.writers.registry`.
"""

import json
import os
import os.path as osp
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import orjson

from .errors import OutputError
from .writers.atomic import remove_incomplete
from .writers.base import WriterSpec
from .writers.drawing import FOLDER as DRAWINGS  # images, so they could be inputs of later runs
from .writers.jsonl import RECORDS_FILE
from .writers.registry import specs

INFO_FILE = 'run.json'
# Maximum size of a run.json that is read, in bytes; those of this package have a few thousand.
_MAX_INFO = 16 * 2**20
_FOLDER = '{}: expected a file, found a folder: move it away'
# The start of a record: its other values, most of the file, need not be parsed.
_IMAGE = re.compile(rb'\{"(?:image|video)":("(?:[^"\\]|\\.)*")')


def paths_of(writers: Iterable[WriterSpec], names: Sequence[str]) -> Iterator[str]:
    """Yield the files whose paths depend on the images, as paths below the output folder.

    Args:
        writers: Output formats.
        names: ``Frame.name`` of each image, as also in records, in input order.
    """
    for writer in writers:
        for path in writer.paths(names):
            if _is_of(writer, path):
                yield path


def _files_found(writers: Iterable[WriterSpec], folder: str) -> Iterator[str]:
    """Yield the existing files of formats whose files :func:`paths_of` does not determine."""
    for writer in writers:
        if writer.find_files is not None:
            yield from (path for path in writer.find_files(folder) if _is_of(writer, path))


def _is_of(writer: WriterSpec, path: str) -> bool:
    return path.startswith(f'{writer.folder}/') and '..' not in path.split('/')


def read_info(folder: str) -> dict[str, Any] | None:
    """The content of a folder's ``run.json``; None unless a run of this package wrote it.

    None is also returned for a file that is damaged, larger than 16 MiB or of another program.
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
    """Yield the files that a run wrote in a folder, as paths below ``folder``.

    These include the files of all images in the records, and of the images that ``run.json``
    lists as ``pending``, since a killed run may have written these before the records. They do
    not include ``run.json`` and the journal, which every later run replaces. Nothing is yielded
    for formats that the run did not write, or if no run of this package used the folder.
    """
    info = read_info(folder)
    if info is None:
        return
    writers = [spec for spec in specs().values() if spec.was_written(info)]
    for spec in writers:
        if not spec.journal:
            yield from spec.files
    if any(spec.folder for spec in writers):
        pending = dict.fromkeys(_pending(info))  # the last images; some may have records already
        names = [name for name in _recorded(folder) if name not in pending]
        yield from paths_of(writers, [*names, *pending])
        yield from _files_found(writers, folder)


def _pending(info: Mapping[str, Any]) -> list[str]:
    names = info.get('pending')
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []


def _recorded(folder: str) -> Iterator[str]:
    """Names of the images and videos that have records, including an incomplete last one."""
    path = osp.join(folder, RECORDS_FILE)
    if not osp.isfile(path):
        return
    try:
        with open(path, 'rb') as file:
            last = None  # the frames of a video have one name
            for line in file:
                if (match := _IMAGE.match(line)) and match[1] != last:
                    last = match[1]
                    yield orjson.loads(last)
    except (OSError, orjson.JSONDecodeError):  # damaged: further records are unknown
        return


def remove_incomplete_files(folder: str) -> None:
    """Remove the incomplete files that a killed run left in its folder, and below it.

    They can only be in the folders of files that do not depend on the images, or of images that
    ``run.json`` lists as ``pending``.

    Raises:
        OSError: A file cannot be removed.
    """
    writers = specs().values()
    paths = [file for spec in writers for file in spec.files]
    paths += paths_of(writers, _pending(read_info(folder) or {}))
    for below in {'', *map(osp.dirname, paths)}:
        remove_incomplete(osp.join(folder, below))


def remove_run(folder: str) -> None:
    """Remove all files of the run in a folder, if there is one, and empty its records last.

    Raises:
        OSError: A file cannot be removed.
    """
    remove_incomplete_files(folder)
    for path in written(folder):
        with suppress(FileNotFoundError):
            os.unlink(osp.join(folder, path))
    # Before run.json is replaced, so that a kill leaves no mixture of two runs.
    records = osp.join(folder, RECORDS_FILE)
    if osp.isfile(records):
        os.truncate(records, 0)


class EarlierRuns:
    """Finds the drawings of earlier runs; reads each run once."""

    def __init__(self) -> None:
        self._drawn: dict[str, frozenset[str]] = {}

    def drawn(self, folder: str) -> frozenset[str]:
        """Drawings that the run in a folder wrote, as paths below it: ``vis/a.jpg``."""
        if folder not in self._drawn:
            prefix = f'{DRAWINGS}/'
            self._drawn[folder] = frozenset(p for p in written(folder) if p.startswith(prefix))
        return self._drawn[folder]

    def around(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield the runs whose ``vis/`` contains a folder, also if links lead there.

        Yields:
            Real path of the run's folder, and the path of ``folder`` below it: ``vis/sub``.
        """
        parts = osp.realpath(folder).split(os.sep)
        for index, part in enumerate(parts):
            run = os.sep.join(parts[:index]) or os.sep
            if part == DRAWINGS and self.drawn(run):
                yield run, '/'.join(parts[index:])


def check_folder(out_dir: str) -> None:
    """Check that files can be written into a folder, by a temporary file.

    Permissions do not show that: folders of ``/proc`` and of read-only disks reject files in any
    case. A folder that does not exist is created, and removed again.

    Raises:
        OutputError: Files cannot be written there.
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
            with suppress(OSError):  # it was not created, or another process uses it
                os.rmdir(path)


def check_places(out_dir: str, names: Sequence[str], writers: Sequence[WriterSpec]) -> None:
    """Check that no folder has the path of an output file, and no file that of a needed folder.

    Args:
        out_dir: The output folder, which need not exist.
        names: ``Frame.name`` of each input.
        writers: The formats that the run writes.

    Raises:
        OutputError: One has, two images would share a file, or a package that a format needs is
            missing.
    """
    files = (file for spec in _with_fixed_files(writers) for file in spec.files)
    for name in (*files, INFO_FILE):
        path = osp.join(out_dir, name)
        if osp.isdir(path):
            raise OutputError(_FOLDER.format(path))
    for writer in writers:
        writer.check_packages()
        writer.check_names(names)
    seen: set[str] = set()
    for folder in map(osp.dirname, paths_of(writers, names)):
        while folder and folder not in seen:
            seen.add(folder)
            path = osp.join(out_dir, folder)
            if osp.lexists(path) and not osp.isdir(path):
                raise OutputError(f'{path}: expected a folder, found a file: move it away')
            folder = osp.dirname(folder)
    existing = [
        spec for spec in writers if spec.folder and osp.isdir(osp.join(out_dir, spec.folder))
    ]
    for path in (osp.join(out_dir, path) for path in paths_of(existing, names)):
        if osp.isdir(path):
            raise OutputError(_FOLDER.format(path))


def _with_fixed_files(writers: Sequence[WriterSpec]) -> list[WriterSpec]:
    """Formats of a run, and the derived formats, which a resumed run may add."""
    return [spec for spec in specs().values() if spec.derived or spec in writers]


def check_targets(out_dir: str, names: Sequence[str], writers: Sequence[WriterSpec]) -> None:
    """Check that a run replaces only files of the earlier run in its folder.

    Args:
        out_dir: The output folder, which need not exist.
        names: ``Frame.name`` of each input.
        writers: The formats that the run writes.

    Raises:
        OutputError: A file exists that no run of this package wrote, or two inputs have the same
            name.
    """
    info = read_info(out_dir)
    if info is None and osp.lexists(path := osp.join(out_dir, INFO_FILE)):
        raise OutputError(_not_ours(path))
    _check_fixed_files(out_dir, info, _with_fixed_files(writers))
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise OutputError(f'two inputs have the same output name {name}: rename one')
        seen.add(name)
    with_folder = (spec for spec in writers if spec.folder)
    existing = [spec for spec in with_folder if osp.lexists(osp.join(out_dir, spec.folder))]
    ours = set(written(out_dir)) if existing else set()
    for path in chain(paths_of(existing, names), _files_found(existing, out_dir)):
        if path not in ours and osp.lexists(osp.join(out_dir, path)):
            raise OutputError(_not_ours(osp.join(out_dir, path)))


def check_added(out_dir: str, writers: Sequence[WriterSpec]) -> None:
    """Check that a resumed run replaces only files of the run, if it adds derived formats.

    Args:
        out_dir: The output folder.
        writers: The formats that the resumed run writes.

    Raises:
        OutputError: A file of an added format exists that no run of this package wrote.
    """
    derived = [spec for spec in writers if spec.derived]
    _check_fixed_files(out_dir, read_info(out_dir), derived)


def _check_fixed_files(
    out_dir: str, info: Mapping[str, Any] | None, writers: Iterable[WriterSpec]
) -> None:
    for spec in writers:
        if info is None or not spec.was_written(info):
            for path in (osp.join(out_dir, file) for file in spec.files):
                if osp.isfile(path) and osp.getsize(path) > 0:
                    raise OutputError(_not_ours(path))


def _not_ours(path: str) -> str:
    return (
        f'{path} would be replaced, and no run.json shows that a run wrote it: '
        'move it away or name another output folder'
    )
