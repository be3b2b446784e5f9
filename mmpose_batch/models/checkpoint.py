"""Loading weights with an allow-list of types, so that no code in a checkpoint file is run."""

import logging
import os
import os.path as osp
import pickle
import re
import urllib.error
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.client import HTTPException
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from ..errors import CheckpointError

_SCHEMES = ('http', 'https')

logger = logging.getLogger('mmpose_batch')


def find_checkpoint(weights: str, option: str = 'weights') -> str:
    """Return the path of a checkpoint file, and download the file first if needed.

    Args:
        weights: Path of a ``.pth`` file, or its URL. A URL is downloaded once, into the same
            cache that MMEngine uses (``torch.hub.get_dir()``).
        option: Name of the option in error messages.

    Raises:
        CheckpointError: The file is missing, cannot be read or downloaded, or is of another
            kind, such as an ONNX file or an HTML page.
    """
    scheme = urlparse(weights).scheme
    path = _download(weights, option) if scheme in _SCHEMES else osp.expanduser(weights)
    if not osp.isfile(path):
        hint = f' (supported URLs: {" and ".join(_SCHEMES)})' if '://' in weights else ''
        raise CheckpointError(f'{option}: no such file: {path}{hint}')
    try:
        with open(path, 'rb') as file:
            head = file.read(32)
    except OSError as error:
        raise CheckpointError(f'{option}: {path} cannot be read: {error.strerror}') from error
    if kind := _other_kind(path, head):
        raise _unreadable(weights, path, kind, option)
    return path


def check_weights(weights: Any, option: str = 'weights') -> None:
    """Check that the file of weights exists and is a checkpoint, before anything is built.

    Args:
        weights: Path or URL of a checkpoint. Other weights need no file and always pass: None and
            ``'none'`` for random weights, and the state of another model.
        option: Name of the option in error messages.

    Raises:
        CheckpointError: As for :func:`find_checkpoint`.
    """
    if isinstance(weights, str) and weights != 'none':
        find_checkpoint(weights, option)


def load_checkpoint(weights: str, option: str = 'weights') -> dict:
    """Read a checkpoint without running code from it.

    Args:
        weights: Path or URL, see :func:`find_checkpoint`.
        option: Name of the option in error messages.

    Returns:
        The checkpoint, with its tensors on the CPU.

    Raises:
        CheckpointError: The file is missing, cannot be downloaded, is not a checkpoint, or
            contains objects that are not on the allow-list.
    """
    path = find_checkpoint(weights, option)
    try:
        with allowed_types():
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged file makes torch raise errors of nearly any class
        # Not `from error`, since torch's message recommends running the code in the file.
        if rejection := _rejection(error):
            raise CheckpointError(f'{option}: {path} {rejection}') from None
        raise _unreadable(weights, path, _describe(path, error), option) from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f'{option}: expected a dict with a state_dict in {path}, '
            f'found {type(checkpoint).__name__}'
        )
    return checkpoint


def _unreadable(weights: str, path: str, kind: str, option: str) -> CheckpointError:
    text = f'{option}: {path} is not a readable PyTorch checkpoint ({kind}).'
    if urlparse(weights).scheme in _SCHEMES:
        text += ' Delete it to download it again.'
    return CheckpointError(text)


def load_weights(model: nn.Module, checkpoint: dict, source: str, option: str = 'weights') -> None:
    """Copy the weights of a checkpoint into a model.

    As in upstream, additional entries are ignored (such as training-only branches) and buffers
    may be missing. Unlike in upstream, a parameter that is missing or has another shape is an
    error.

    The prefixes of parallel and compiled models are removed from the names. Another prefix is
    removed too, with a warning, if it is the only one under which all parameters are found.

    Args:
        model: Model that receives the weights, converted to its dtype.
        checkpoint: Result of :func:`load_checkpoint`, or a state dict.
        source: Path or URL of the checkpoint, for error messages.
        option: Name of the option in error messages.

    Raises:
        CheckpointError: The checkpoint has no weights, or belongs to another model.
    """
    where = f'{option}: {source}'
    state_dict = _state_dict(checkpoint, where)
    parameters = dict(model.named_parameters())
    if not parameters.keys() <= state_dict.keys():
        state_dict = _renamed(state_dict, _unwrapped)
    missing = _copy(model, state_dict, where)
    prefixes = _prefixes(parameters, state_dict) if missing else []
    if len(prefixes) == 1:
        logger.warning('%s: prefix %r removed from parameter names', where, prefixes[0])
        state_dict = _renamed(state_dict, lambda name: name.removeprefix(prefixes[0]))
        missing = _copy(model, state_dict, where)
    if missing:
        raise CheckpointError(
            f'{where} belongs to another model: {len(missing)} of {len(parameters)} parameters '
            f'are missing, for instance {missing[0]}{_hint(parameters, state_dict, prefixes)}'
        )


def _state_dict(checkpoint: dict, where: str) -> dict[str, Any]:
    """The state dict of a checkpoint, which may itself be a state dict.

    Raises:
        CheckpointError: There are no weights, or only under other names.
    """
    state_dict = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state_dict, dict) or not all(isinstance(name, str) for name in state_dict):
        raise CheckpointError(f'{where} has no state_dict of names and tensors')
    nested = [
        name
        for name, value in state_dict.items()
        if isinstance(value, dict) and any(map(torch.is_tensor, value.values()))
    ]
    if not nested:
        return state_dict
    ema = ' (in checkpoints of MMEngine, these are the weights before averaging)'
    raise CheckpointError(
        f'{where} has no state_dict, but weights under {", ".join(nested)}'
        f'{ema if nested == ["ema_state_dict"] else ""}. If these belong to this model, save them '
        f"by torch.save({{'state_dict': checkpoint[{nested[0]!r}]}}, FILE) and pass that file."
    )


def _renamed(state_dict: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """A copy of a state dict with renamed entries, also in its metadata."""
    renamed = OrderedDict((rename(name), value) for name, value in state_dict.items())
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is not None:  # versions of modules, for which mmpose converts old names
        versions = {rename(f'{name}.').removesuffix('.'): each for name, each in metadata.items()}
        renamed._metadata = OrderedDict(versions)
    return renamed


def _unwrapped(name: str) -> str:
    """A name without the prefixes that DistributedDataParallel and torch.compile add."""
    name = name.replace('_orig_mod.', '')
    while name.startswith('module.'):
        name = name.removeprefix('module.')
    return name


def _copy(model: nn.Module, state_dict: dict[str, Any], where: str) -> list[str]:
    """Copy weights into a model; returns the parameters that are missing, sorted.

    Raises:
        CheckpointError: A shape or a type differs.
    """
    try:
        missing = model.load_state_dict(state_dict, strict=False).missing_keys
    except (RuntimeError, AttributeError, TypeError) as error:
        raise CheckpointError(f'{where} belongs to another model: {_last_line(error)}') from error
    return sorted({name for name, _ in model.named_parameters()} & set(missing))


def _prefixes(parameters: dict[str, nn.Parameter], state_dict: dict[str, Any]) -> list[str]:
    """Prefixes under which a state dict has all parameters with the right shapes."""
    first = next(iter(parameters))
    candidates = [name.removesuffix(first) for name in state_dict if name.endswith(f'.{first}')]
    return [
        prefix
        for prefix in candidates
        if all(
            getattr(state_dict.get(prefix + name), 'shape', None) == parameter.shape
            for name, parameter in parameters.items()
        )
    ]


def _hint(
    parameters: dict[str, nn.Parameter], state_dict: dict[str, Any], prefixes: list[str]
) -> str:
    """The end of an error message: what kind of checkpoint this seems to be."""
    if prefixes:
        return (
            f'; all of them are found under each of the prefixes {", ".join(prefixes)}: save the '
            'entries of one of these'
        )
    found = parameters.keys() & state_dict.keys()
    backbone = [name for name in parameters if name.startswith('backbone.')]
    bare = {name.removeprefix('backbone.') for name in backbone}
    if backbone and (found == set(backbone) or bare <= state_dict.keys()):
        return '; it contains only a backbone, as after pretraining'
    if not state_dict:
        return '; it contains no parameters'
    return f'; it contains, for instance, {next(iter(state_dict))}'


def cached_path(url: str) -> str:
    """Return the path in the checkpoint cache that the file at a URL is downloaded to."""
    return osp.join(torch.hub.get_dir(), 'checkpoints', osp.basename(urlparse(url).path))


def _download(url: str, option: str) -> str:
    """Download a file into the checkpoint cache, unless it is there, and return its path."""
    path = cached_path(url)
    if osp.isfile(path):
        return path
    try:
        os.makedirs(osp.dirname(path), exist_ok=True)
        torch.hub.download_url_to_file(url, path, progress=True)
    except (urllib.error.URLError, HTTPException, OSError) as error:
        raise CheckpointError(
            f'{option}: cannot download {url} ({_first_line(error)}). Without a network, '
            f'download it on another machine and put it at {path}, or pass a local file '
            '(--pose2d-weights FILE, --det-weights FILE; weights=FILE, det_weights=FILE in Python)'
        ) from error
    return path


def _history_buffer_method(owner: type, name: str) -> Any:
    """Replace ``getattr`` in a checkpoint; only some methods of HistoryBuffer are allowed."""
    if owner is not HistoryBuffer or name not in ('mean', 'min', 'max', 'current'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')
    return getattr(HistoryBuffer, name)


def _empty_bytes() -> bytes:
    """Replace ``bytes()`` in a checkpoint, which pickle calls for an empty numpy array."""
    return b''


def allowed_types() -> AbstractContextManager:
    """Allow the few types other than tensors that MMEngine's runner saves in a checkpoint.

    ``message_hub`` contains history buffers, ``meta`` contains numpy arrays. An entry of the
    list may be a pair of an object and the name in the file that it replaces.

    Returns:
        A context manager in which ``torch.load`` allows these types.
    """
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    dtypes = {type(np.dtype(code)) for code in '?bBhHiIlLqQefdSU'}
    return torch.serialization.safe_globals(
        [
            HistoryBuffer,
            (_history_buffer_method, 'builtins.getattr'),
            (_empty_bytes, 'builtins.bytes'),
            np.dtype,
            np.ndarray,
            *dtypes,
            *(
                (getattr(multiarray, name), f'{module}.{name}')
                for module in ('numpy.core.multiarray', 'numpy._core.multiarray')
                for name in ('_reconstruct', 'scalar')
            ),
        ]
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _rejection(error: BaseException) -> str | None:
    """The end of the message if torch rejected an object in the file; None for other errors."""
    patterns = (
        r'GLOBAL ([\w.]+)',
        r"Can only (?:build|create new object).* but got (?:<class )?'?([\w.]+)",
        r'(getattr.* not allowed)',
        r'(reduce for unrecognized function .*)',
    )
    found = next(filter(None, (re.search(pattern, str(error)) for pattern in patterns)), None)
    if not isinstance(error, pickle.UnpicklingError) or found is None:
        return None
    return (
        f'was rejected: it contains objects that are not on the allow-list ({found.group(1)}). If '
        "you trust its source, save only its 'state_dict' and 'dataset_meta' by torch.save, and "
        'pass that file.'
    )


# First bytes, in lower case, of files that users mistake for checkpoints, and their descriptions.
_BEGINNINGS = {
    b'version https://git-lfs': 'it is a pointer of Git LFS; get the file itself by `git lfs pull`',
    b'<!doctype html': 'it is an HTML page, for instance of a failed download or a login',
    b'<html': 'it is an HTML page, for instance of a failed download or a login',
    b'<?xml': 'it is an XML page, for instance of a failed download',
    b'\x89hdf': 'it is an HDF5 file (Keras)',
    b'\x1f\x8b': 'it is compressed by gzip; unpack it',
}
_SAFETENSORS = (
    'it is a safetensors file; load it by safetensors.torch.load_file, save the result by '
    'torch.save'
)
_ONNX = 'it is an ONNX file; pass that by --engine-file, and its original weights here'
_TORCHSCRIPT = 'it is a TorchScript archive; pass the checkpoint that it was exported from'


def _other_kind(path: str, head: bytes) -> str | None:
    """Describe a file whose first bytes are not those of a checkpoint; None if it may be one."""
    if not head:
        return 'it is empty'
    start = head.lstrip().lower()
    for beginning, kind in _BEGINNINGS.items():
        if start.startswith(beginning):
            return kind
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < osp.getsize(path):
        return _SAFETENSORS
    # Protocol buffers: a version, then the producer, the graph or the operator sets.
    if head[:1] == b'\x08' and head[2:3] in (b'\x12', b'\x3a', b'\x42'):
        return _ONNX
    if head.startswith(b'PK') and zipfile.is_zipfile(path):
        return _other_archive(path)
    return None


def _other_archive(path: str) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {osp.basename(name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, ValueError):
        return None  # left to torch, which raises an error
    if 'constants.pkl' in names:
        return _TORCHSCRIPT
    return None if 'data.pkl' in names else 'it is an archive without a checkpoint; unpack it'


def _describe(path: str, error: BaseException) -> str:
    """Describe a file that PyTorch cannot read."""
    with open(path, 'rb') as file:
        head = file.read(16)
    if head.isascii() and head.decode('ascii').isprintable():
        return f'it begins with {head.decode("ascii")!r}'
    return f'it is damaged or of another kind: {type(error).__name__}'


def _last_line(error: BaseException) -> str:
    """The last line of an error: torch's first line on mismatches is general, the last specific."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
