"""The engine cache: what is slow to build is built once and cached on disk."""

import errno
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import EngineError
from .base import EngineOptions

_SUMS, _MEASURED = 'sha256.json', 'measured.json'
FOLDER_VARIABLE = 'MMPOSE_BATCH_CACHE'
# Seconds; no build takes a day.
_LEFT_BEHIND = 24 * 60 * 60
_VERSIONS = (
    *('torch', 'mmcv', 'mmpose', 'mmdet', 'mmpose-batch', 'openvino', 'nncf', 'onnx'),
    *('onnxruntime', 'onnxruntime-gpu', 'onnxruntime-openvino'),
)

logger = logging.getLogger('mmpose_batch')


class EngineCache:
    """Entries of files, each complete or absent, safe for several processes at once.

    An entry is a folder that is renamed into place when all its files are written;
    of two processes that build the same one, the first wins. The files' checksums
    are read before use, and an entry that does not fit them is built again. What
    cannot be written there, on a full disk say, lasts as long as this object.

    Args:
        folder: Where entries lie; None takes ``$MMPOSE_BATCH_CACHE``, or
            ``$XDG_CACHE_HOME/mmpose_batch``, or ``~/.cache/mmpose_batch``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self._used: set[Path] = set()
        self._spare: NoCache | None = None

    @property
    def bytes_used(self) -> int:
        """Size of the entries that were asked for."""
        there = (entry for entry in self._used if entry.exists())  # others may clear the cache
        files = (path for entry in there for path in entry.iterdir())
        spare = 0 if self._spare is None else self._spare.bytes_used
        return sum(path.stat().st_size for path in files) + spare

    def entry(self, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of one entry, built if it is not there.

        Args:
            key: As :func:`entry_key` makes it.
            build: Writes the files of the entry into an empty folder.

        Raises:
            EngineError: It can be written nowhere.
        """
        entry = self.folder / key
        if not _intact(entry):
            if self._spare is not None:  # not built twice, to fail once
                return self._spare.entry(key, build)
            try:
                self._build(entry, build)
            except OSError as error:
                return self._do_without(key, build, error)
        self._used.add(entry)
        return entry

    def drop(self, key: str) -> None:
        """Forget an entry that is intact and yet of no use."""
        shutil.rmtree(self.folder / key, ignore_errors=True)
        if self._spare is not None:
            self._spare.drop(key)

    def _build(self, entry: Path, build: Callable[[Path], None]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        building = self._new_folder(entry)
        try:
            build(building)
            sums = {path.name: _sha256(path) for path in sorted(building.iterdir())}
            (building / _SUMS).write_text(json.dumps(sums))
            self._put(building, entry)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _new_folder(self, entry: Path) -> Path:
        return Path(tempfile.mkdtemp(prefix=f'.{entry.name[:16]}-', dir=self.folder))

    def _do_without(self, key: str, build: Callable[[Path], None], error: OSError) -> Path:
        if self._spare is None:  # the build of another entry, within this one's, may have made it
            try:
                self._spare = NoCache()
            except OSError:  # one full disk for everything
                raise _nowhere(self.folder, error) from error
            logger.warning('engine cache: %s: %s; not kept', self.folder, error.strerror or error)
        return self._spare.entry(key, build)

    def measurement(
        self, key: str, measure: Callable[[], tuple[dict[str, Any], bool]]
    ) -> dict[str, Any]:
        """A result that was measured before, or is now.

        Args:
            key: As :func:`entry_key` makes it.
            measure: Returns the result, as JSON has it, and whether to cache it.
        """
        known = self.recall(key)
        if known is not None:
            return known
        outcome, kept = measure()
        if kept:
            with suppress(EngineError):  # it is known, after all
                self.entry(key, lambda folder: (folder / _MEASURED).write_text(json.dumps(outcome)))
            self._used.discard(self.folder / key)  # no engine's file
        return outcome

    def recall(self, key: str) -> dict[str, Any] | None:
        """A result that :meth:`measurement` has cached; None where there is none."""
        try:
            return (
                json.loads((self.folder / key / _MEASURED).read_text())
                if _intact(self.folder / key)
                else None
            )
        except (OSError, ValueError):  # others may clear the cache
            return None

    def _sweep(self) -> None:
        """Remove what processes left that were killed while they built."""
        for building in self.folder.glob('.*-*'):
            with suppress(OSError):  # another process may be as tidy
                if time.time() - building.stat().st_mtime > _LEFT_BEHIND:
                    shutil.rmtree(building, ignore_errors=True)

    def _put(self, building: Path, entry: Path) -> None:
        try:
            building.rename(entry)
        except OSError:  # another process was faster, or what is there is broken
            if _intact(entry):
                return
            aside = self._new_folder(entry)  # a rename, for no other process to find half of it
            with suppress(OSError):
                entry.rename(aside / 'broken')
            shutil.rmtree(aside, ignore_errors=True)
            with suppress(OSError):
                building.rename(entry)
            if not _intact(entry):
                raise


class NoCache(EngineCache):
    """Builds everything again, in a folder that goes with this object."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix='mmpose_batch-')
        super().__init__(Path(self._temporary.name))

    def _do_without(self, key: str, build: Callable[[Path], None], error: OSError) -> Path:
        raise _nowhere(self.folder, error) from error


class Measurements:
    """What was measured on this machine with one network; measured once, where it is cached.

    Args:
        cache: Keeps it.
        network: The key of the network.
        device: Where the model is.
    """

    def __init__(self, cache: EngineCache, network: str, device: torch.device) -> None:
        self._cache = cache
        self._network = network
        self._device = device

    def get(
        self,
        kind: str,
        options: EngineOptions,
        measure: Callable[[], tuple[dict[str, Any], bool]],
        **settings: Any,
    ) -> dict[str, Any]:
        """The result of a measurement, known from before or measured now.

        Args:
            kind: Of the measurement.
            options: Those of the engine.
            measure: Returns the result, as JSON has it, and whether to cache it.
            settings: That it depends on, besides the network, the options and the device.
        """
        return self._cache.measurement(self._key(kind, options, settings), measure)

    def recall(self, kind: str, options: EngineOptions, **settings: Any) -> dict[str, Any] | None:
        """A result that is known from before; None where there is none."""
        return self._cache.recall(self._key(kind, options, settings))

    def _key(self, kind: str, options: EngineOptions, settings: dict[str, Any]) -> str:
        asked = asdict(options)
        del asked['precision_is_free']  # one that is named is as fast
        on_cuda = self._device.type == 'cuda'
        device = torch.cuda.get_device_name(self._device) if on_cuda else self._device.type
        threads = torch.get_num_threads()
        return entry_key(
            self._network, kind=kind, options=asked, threads=threads, device=device, **settings
        )


def _nowhere(folder: Path, error: OSError) -> EngineError:
    return EngineError(f'engine: cannot be written to {folder}: {error.strerror or error}')


def open_cache(wanted: bool) -> EngineCache:
    """The cache; one that keeps nothing where none is wanted or none can be written."""
    if not wanted:
        return NoCache()
    folder = os.environ.get(FOLDER_VARIABLE) or '~'
    try:
        cache = EngineCache()
        folder = cache.folder
        if cache.folder.exists() and not cache.folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        cache.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(cache.folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        logger.warning('engine cache: %s: %s; nothing is kept', folder, error.strerror)
        return NoCache()
    return cache


def default_folder() -> Path:
    """Where entries lie if nothing else is said, as an absolute path.

    Raises:
        FileNotFoundError: It would be in a home folder that is not known.
    """
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    folder = os.path.expanduser(os.environ.get(FOLDER_VARIABLE) or f'{base}/mmpose_batch')
    if folder.startswith('~'):  # in a container, say, whose user has no name
        raise FileNotFoundError(errno.ENOENT, f'no home folder; set {FOLDER_VARIABLE}', folder)
    return Path(os.path.abspath(folder))


def network_key(model: nn.Module) -> str:
    """What tells one network from another: its weights, how it is put together, its config.

    Buffers that no checkpoint holds count too: means, deviations and position codes.
    """
    config = getattr(model, 'cfg', None)
    described = [repr(model), '' if config is None else str(config.get('model'))]
    preprocessor = getattr(model, 'data_preprocessor', None)
    described.append(str(getattr(preprocessor, '_channel_conversion', None)))
    digest = hashlib.sha256('\n'.join(described).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def entry_key(network: str, **settings: Any) -> str:
    """The name of an entry: of a network, the settings, the versions and the processor."""
    text = json.dumps(
        {'network': network, **settings, 'versions': versions(), 'processor': processor()},
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def versions(names: Sequence[str] = _VERSIONS) -> dict[str, str]:
    """Of some libraries that are installed; by default those that have a part in an entry."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's model and what it can do, as far as the system tells it."""
    flags_sum = hashlib.sha256(_cpuinfo('flags').encode()).hexdigest()[:16]
    return f'{processor_name()} {flags_sum}'


def processor_name() -> str:
    """The processor's model."""
    return _cpuinfo('model name') or platform.processor()


def _cpuinfo(field: str) -> str:
    """What Linux tells of the first core; empty where it does not."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return ''
    return next((line.split(':', 1)[1].strip() for line in lines if line.startswith(field)), '')


def _intact(entry: Path) -> bool:
    try:
        sums = json.loads((entry / _SUMS).read_text())
        return bool(sums) and all(_sha256(entry / name) == sums[name] for name in sums)
    except (OSError, ValueError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
