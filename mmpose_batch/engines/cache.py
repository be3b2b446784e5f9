"""The engine cache: files that are slow to build are built once and cached on disk."""

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
from ..tf32 import tf32_is_allowed
from .base import EngineOptions

_SUMS, _MEASURED = 'sha256.json', 'measured.json'
FOLDER_VARIABLE = 'MMPOSE_BATCH_CACHE'
# Age in seconds beyond which the folder of a build is taken for that of a killed process.
_MAX_BUILD_AGE = 24 * 60 * 60
_VERSIONS = (
    *('torch', 'mmcv', 'mmpose', 'mmdet', 'mmpose-batch', 'openvino', 'nncf', 'onnx'),
    *('onnxruntime', 'onnxruntime-gpu', 'onnxruntime-openvino'),
)

logger = logging.getLogger('mmpose_batch')


class EngineCache:
    """A cache on disk with atomic entries, which several processes can share.

    An entry is a folder that is renamed to its final name once all its files are written.
    If two processes build the same entry, the first one wins. The checksums of the files
    are verified before use, and an entry with a wrong checksum is built again. Entries that
    cannot be written to the cache folder, for instance because the disk is full, are built
    in a temporary folder that exists as long as this object.

    Args:
        folder: Folder of the entries; None selects ``$MMPOSE_BATCH_CACHE``, else
            ``$XDG_CACHE_HOME/mmpose_batch``, else ``~/.cache/mmpose_batch``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self._used: set[Path] = set()
        self._spare: NoCache | None = None

    @property
    def bytes_used(self) -> int:
        """Size in bytes of the entries that were requested from this object."""
        # Another process may have cleared the cache.
        existing = (entry for entry in self._used if entry.exists())
        files = (path for entry in existing for path in entry.iterdir())
        spare = 0 if self._spare is None else self._spare.bytes_used
        return sum(path.stat().st_size for path in files) + spare

    def entry(self, key: str, build: Callable[[Path], None]) -> Path:
        """Return the folder of an entry, and build the entry first if it does not exist.

        Args:
            key: Key of the entry, from :func:`entry_key`.
            build: Writes the files of the entry into an empty folder.

        Raises:
            EngineError: The entry can be written neither to the cache nor to a temporary folder.
        """
        entry = self.folder / key
        if not _intact(entry):
            if self._spare is not None:  # the cache is not writable: building there would fail
                return self._spare.entry(key, build)
            try:
                self._build(entry, build)
            except OSError as error:
                return self._build_temporary(key, build, error)
        self._used.add(entry)
        return entry

    def drop(self, key: str) -> None:
        """Remove an entry that is intact but cannot be used."""
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

    def _build_temporary(self, key: str, build: Callable[[Path], None], error: OSError) -> Path:
        # Building this entry may build another one first, which may have set `_spare` already.
        if self._spare is None:
            try:
                self._spare = NoCache()
            except OSError:  # the temporary folder may be on the same full disk
                raise _not_writable(self.folder, error) from error
            logger.warning('engine cache: %s: %s; not cached', self.folder, error.strerror or error)
        return self._spare.entry(key, build)

    def measurement(
        self, key: str, measure: Callable[[], tuple[dict[str, Any], bool]]
    ) -> dict[str, Any]:
        """Return the cached result of a measurement, or measure now.

        Args:
            key: Key of the measurement, from :func:`entry_key`.
            measure: Returns the result, which JSON can represent, and whether to cache it.
        """
        known = self.recall(key)
        if known is not None:
            return known
        outcome, cacheable = measure()
        if cacheable:
            with suppress(EngineError):  # the result is valid even if it cannot be cached
                self.entry(key, lambda folder: (folder / _MEASURED).write_text(json.dumps(outcome)))
            self._used.discard(self.folder / key)  # it does not count as a file of an engine
        return outcome

    def recall(self, key: str) -> dict[str, Any] | None:
        """Return a result that :meth:`measurement` has cached; None if there is none."""
        try:
            return (
                json.loads((self.folder / key / _MEASURED).read_text())
                if _intact(self.folder / key)
                else None
            )
        except (OSError, ValueError):  # another process may have cleared the cache
            return None

    def _sweep(self) -> None:
        """Remove the folders of processes that were killed while they built an entry."""
        for building in self.folder.glob('.*-*'):
            with suppress(OSError):  # another process may remove the same folder
                if time.time() - building.stat().st_mtime > _MAX_BUILD_AGE:
                    shutil.rmtree(building, ignore_errors=True)

    def _put(self, building: Path, entry: Path) -> None:
        try:
            building.rename(entry)
        except OSError:  # another process was faster, or the existing entry is broken
            if _intact(entry):
                return
            # The broken entry is renamed first, so that no process sees it partly removed.
            aside = self._new_folder(entry)
            with suppress(OSError):
                entry.rename(aside / 'broken')
            shutil.rmtree(aside, ignore_errors=True)
            with suppress(OSError):
                building.rename(entry)
            if not _intact(entry):
                raise


class NoCache(EngineCache):
    """Caches nothing beyond its lifetime: its temporary folder is removed with the object."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix='mmpose_batch-')
        super().__init__(Path(self._temporary.name))

    def _build_temporary(self, key: str, build: Callable[[Path], None], error: OSError) -> Path:
        raise _not_writable(self.folder, error) from error


class Measurements:
    """Cached measurements with one network on this machine.

    Args:
        cache: Cache of the results.
        network: Key of the network.
        device: Device of the model.
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
        """Return the cached result of a measurement, or measure now.

        Args:
            kind: Name of the measurement.
            options: Options of the engine.
            measure: Returns the result, which JSON can represent, and whether to cache it.
            settings: Further settings that the result depends on, besides the network, the
                options and the device.
        """
        return self._cache.measurement(self._key(kind, options, settings), measure)

    def recall(self, kind: str, options: EngineOptions, **settings: Any) -> dict[str, Any] | None:
        """Return the cached result of a measurement; None if there is none."""
        return self._cache.recall(self._key(kind, options, settings))

    def _key(self, kind: str, options: EngineOptions, settings: dict[str, Any]) -> str:
        requested = asdict(options)
        del requested['precision_is_free']  # has no influence on what is measured
        device = self._device.type
        if device == 'cuda':
            device = torch.cuda.get_device_name(self._device)
            device += '' if tf32_is_allowed() else ' without TF32'
        threads = torch.get_num_threads()
        return entry_key(
            self._network, kind=kind, options=requested, threads=threads, device=device, **settings
        )


def _not_writable(folder: Path, error: OSError) -> EngineError:
    return EngineError(f'engine: cannot be written to {folder}: {error.strerror or error}')


def open_cache(wanted: bool) -> EngineCache:
    """Open the cache in its default folder.

    Args:
        wanted: Whether to cache at all.

    Returns:
        A :class:`NoCache` if ``wanted`` is false or, after a warning, if the folder is not
        writable.
    """
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
        logger.warning('engine cache: %s: %s; caching is off', folder, error.strerror)
        return NoCache()
    return cache


def default_folder() -> Path:
    """Return the default folder of the cache as an absolute path.

    Raises:
        FileNotFoundError: The folder would be in the home folder, which is not known.
    """
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    folder = os.path.expanduser(os.environ.get(FOLDER_VARIABLE) or f'{base}/mmpose_batch')
    if folder.startswith('~'):  # for instance in a container whose user has no name
        raise FileNotFoundError(errno.ENOENT, f'no home folder; set {FOLDER_VARIABLE}', folder)
    return Path(os.path.abspath(folder))


def network_key(model: nn.Module) -> str:
    """Return a key that identifies a network by its weights, its structure and its config.

    Buffers that are not saved in checkpoints count too, such as means, deviations and
    position codes.
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
    """Return the key of an entry: a hash of network, settings, versions and processor."""
    text = json.dumps(
        {'network': network, **settings, 'versions': versions(), 'processor': processor()},
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def versions(names: Sequence[str] = _VERSIONS) -> dict[str, str]:
    """Return name and version of installed libraries, by default those that entries depend on."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the model of the processor and a hash of its instruction sets, where known."""
    flags_sum = hashlib.sha256(_cpuinfo('flags').encode()).hexdigest()[:16]
    return f'{processor_name()} {flags_sum}'


def processor_name() -> str:
    """Return the model of the processor."""
    return _cpuinfo('model name') or platform.processor()


def _cpuinfo(field: str) -> str:
    """A field of the first core in Linux's ``/proc/cpuinfo``; empty if there is none."""
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
