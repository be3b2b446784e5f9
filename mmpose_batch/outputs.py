"""Which files a run writes into its output folder, and which an earlier run wrote there.

No format is known here by its name: :mod:`mmpose_batch.writers.registry` has the files of each.
"""

import json
import os
import os.path as osp
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson

from .errors import OutputError
from .writers.base import WriterSpec
from .writers.drawing import FOLDER as DRAWINGS  # images, so they could be inputs of later runs
from .writers.jsonl import RECORDS_FILE
from .writers.registry import specs

INFO_FILE = 'run.json'
# Largest run.json that is read, in bytes; those of this package have some thousands.
_MAX_INFO = 16 * 2**20
# Where a record begins: its other values are not needed, and are most of the file.
_IMAGE = re.compile(rb'\{"image":("(?:[^"\\]|\\.)*")')


def paths_of(writers: Iterable[WriterSpec], names: Sequence[str]) -> Iterator[str]:
    """Files whose paths depend on the images, as paths below the output folder.

    Args:
        writers: Formats.
        names: Names of the images, as ``Frame.name`` and records have them, in input order.
    """
    for writer in writers:
        for path in writer.paths(names):
            if '..' not in path.split('/'):
                yield path


def read_info(folder: str) -> dict[str, Any] | None:
    """The content of a folder's ``run.json``; None unless a run of this package wrote it.

    A file that is damaged, larger than 16 MiB or written by another program gives None too.
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
    """Yield the files that a run wrote there, as paths below ``folder``.

    Files of images are those of the images that the records name, and of the images that
    ``run.json`` names as ``pending``, whose files a killed run may have written before their
    records. Not among them are ``run.json`` and the journal, which every later run replaces.
    Nothing is yielded for a folder without a run of this package, or of a format that the run
    did not write.
    """
    info = read_info(folder)
    if info is None:
        return
    writers = [spec for spec in specs().values() if spec.was_written(_identity(info))]
    for spec in writers:
        if not spec.journal:
            yield from spec.files
    if any(spec.folder for spec in writers):
        pending = dict.fromkeys(_pending(info))  # the last ones, and some have records by now
        names = [name for name in _recorded(folder) if name not in pending]
        yield from paths_of(writers, [*names, *pending])


def _pending(info: Mapping[str, Any]) -> list[str]:
    names = info.get('pending')
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []


def _recorded(folder: str) -> Iterator[str]:
    """Names of the images that have records, the one of an incomplete last line included."""
    path = osp.join(folder, RECORDS_FILE)
    if not osp.isfile(path):
        return
    try:
        with open(path, 'rb') as file:
            for line in file:
                if match := _IMAGE.match(line):
                    yield orjson.loads(match[1])
    except (OSError, orjson.JSONDecodeError):  # damaged: the rest is not known
        return


def remove_run(folder: str) -> None:
    """Remove every file that the run in a folder wrote, if there is one, and last its records.

    Raises:
        OSError: A file cannot be removed.
    """
    for path in written(folder):
        with suppress(FileNotFoundError):
            os.unlink(osp.join(folder, path))
    # Before run.json is that of another run: a kill must not leave a mixture.
    records = osp.join(folder, RECORDS_FILE)
    if osp.isfile(records):
        os.truncate(records, 0)


class EarlierRuns:
    """Distinguishes the drawings of earlier runs from other files; reads each run once."""

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
    """Check that files can be written into a folder by writing one, and remove it again.

    A folder may reject files whatever its permissions are, as those of ``/proc`` and of
    read-only disks do. One that does not exist is made, and removed again.

    Raises:
        OutputError: They cannot be written.
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


def check_places(out_dir: str, names: Sequence[str], writers: Sequence[WriterSpec]) -> None:
    """Check that no folder is where a run writes a file, and no file where it needs a folder.

    Args:
        out_dir: The output folder, which need not exist.
        names: ``Frame.name`` of each input.
        writers: The formats that the run writes.

    Raises:
        OutputError: One is, or two images would share a file.
    """
    files = (file for spec in _with_fixed_files(writers) for file in spec.files)
    for name in (*files, INFO_FILE):
        path = osp.join(out_dir, name)
        if osp.isdir(path):
            raise OutputError(f'{path}: expected a file, found a folder: move it away')
    for writer in writers:
        writer.check_names(names)
    seen: set[str] = set()
    for folder in map(osp.dirname, paths_of(writers, names)):
        while folder and folder not in seen:
            seen.add(folder)
            path = osp.join(out_dir, folder)
            if osp.lexists(path) and not osp.isdir(path):
                raise OutputError(f'{path}: expected a folder, found a file: move it away')
            folder = osp.dirname(folder)


def _with_fixed_files(writers: Sequence[WriterSpec]) -> list[WriterSpec]:
    """Formats of a run that have files of fixed names, and those that it may be asked for later."""
    return [spec for spec in specs().values() if spec.derived or spec in writers]


def check_targets(out_dir: str, names: Sequence[str], writers: Sequence[WriterSpec]) -> None:
    """Check that a run replaces no file but those of the run that its folder holds.

    Args:
        out_dir: The output folder, which need not exist.
        names: ``Frame.name`` of each input.
        writers: The formats that the run writes.

    Raises:
        OutputError: A file is there, and no run of this package wrote it; two inputs
            have the same name.
    """
    info = read_info(out_dir)
    if info is None and osp.lexists(path := osp.join(out_dir, INFO_FILE)):
        raise OutputError(_not_ours(path))
    for spec in _with_fixed_files(writers):
        if info is None or not spec.was_written(_identity(info)):
            for path in (osp.join(out_dir, file) for file in spec.files):
                if osp.isfile(path) and osp.getsize(path) > 0:
                    raise OutputError(_not_ours(path))
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise OutputError(f'two inputs would both be called {name} in the output: rename one')
        seen.add(name)
    with_folder = (spec for spec in writers if spec.folder)
    existing = [spec for spec in with_folder if osp.lexists(osp.join(out_dir, spec.folder))]
    ours = set(written(out_dir)) if existing else set()
    for path in paths_of(existing, names):
        if path not in ours and osp.lexists(osp.join(out_dir, path)):
            raise OutputError(_not_ours(osp.join(out_dir, path)))


def _not_ours(path: str) -> str:
    return (
        f'{path} would be replaced, and no run.json shows that a run wrote it: '
        'move it away or name another output folder'
    )
