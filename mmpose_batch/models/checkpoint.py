"""Loading weights by an allow-list of types: nothing in a checkpoint file is ever run."""

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
    """The path of a checkpoint file, which is downloaded if need be, but not loaded.

    Args:
        weights: Path of a ``.pth`` file, or its URL. A URL is downloaded once
            into the cache that MMEngine uses too (``torch.hub.get_dir()``).
        option: What the errors call it.

    Raises:
        CheckpointError: The file is missing, cannot be read or downloaded, or is
            of another kind, such as an ONNX file or an HTML page.
    """
    scheme = urlparse(weights).scheme
    path = _download(weights, option) if scheme in _SCHEMES else osp.expanduser(weights)
    if not osp.isfile(path):
        hint = f' (of URLs, {" and ".join(_SCHEMES)} are known)' if '://' in weights else ''
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
    """See that weights are there, before anything is built.

    Weights that are no path or URL are: None and ``'none'``, which are random, and those of
    another model.

    Raises:
        CheckpointError: As :func:`find_checkpoint`.
    """
    if isinstance(weights, str) and weights != 'none':
        find_checkpoint(weights, option)


def load_checkpoint(weights: str, option: str = 'weights') -> dict:
    """Read a checkpoint without running code from it.

    Args:
        weights: Path or URL, see :func:`find_checkpoint`.
        option: What the errors call it.

    Returns:
        The checkpoint; its tensors are on the CPU.

    Raises:
        CheckpointError: The file is missing, cannot be downloaded, is no
            checkpoint, or holds objects outside the allow-list.
    """
    path = find_checkpoint(weights, option)
    try:
        with allowed_types():
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged file makes torch raise nearly anything
        # Not `from error`: torch's own text advises to run what is in the file.
        if refusal := _refusal(error):
            raise CheckpointError(f'{option}: {path} {refusal}') from None
        raise _unreadable(weights, path, _describe(path, error), option) from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f'{option}: expected a dict with a state_dict in {path}, '
            f'found {type(checkpoint).__name__}'
        )
    return checkpoint


def _unreadable(weights: str, path: str, kind: str, option: str) -> CheckpointError:
    text = f'{option}: {path} is no readable PyTorch checkpoint ({kind}).'
    if urlparse(weights).scheme in _SCHEMES:
        text += ' Delete it to download it again.'
    return CheckpointError(text)


def load_weights(model: nn.Module, checkpoint: dict, source: str, option: str = 'weights') -> None:
    """Copy a checkpoint's weights into ``model``.

    As upstream does, extra entries are skipped (training-only branches) and
    buffers may be missing. Unlike upstream, a parameter that would stay random or
    that differs in shape is an error.

    The prefixes of parallel and compiled models are dropped. Any other prefix is
    dropped, with a warning, if under it and no other one every parameter is found.

    Args:
        model: Receives the weights, in its own dtype.
        checkpoint: As :func:`load_checkpoint` returns it, or a bare state dict.
        source: Where it came from, for the error message.
        option: What the errors call it.

    Raises:
        CheckpointError: The checkpoint belongs to another model.
    """
    where = f'{option}: {source}'
    state_dict = _state_dict(checkpoint, where)
    parameters = dict(model.named_parameters())
    if not parameters.keys() <= state_dict.keys():
        state_dict = _renamed(state_dict, _unwrapped)
    missing = _copy(model, state_dict, where)
    prefixes = _prefixes(parameters, state_dict) if missing else []
    if len(prefixes) == 1:
        logger.warning('%s: names are read without their prefix %r', where, prefixes[0])
        state_dict = _renamed(state_dict, lambda name: name.removeprefix(prefixes[0]))
        missing = _copy(model, state_dict, where)
    if missing:
        raise CheckpointError(
            f'{where} belongs to another model: {len(missing)} of {len(parameters)} parameters '
            f'are not in it, first {missing[0]}{_hint(parameters, state_dict, prefixes)}'
        )


def _state_dict(checkpoint: dict, where: str) -> dict[str, Any]:
    """The entry of a checkpoint that holds the weights; it may be a bare state dict.

    Raises:
        CheckpointError: There is none, or one under another name only.
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
    ema = ' (of MMEngine, this holds the weights before averaging)'
    raise CheckpointError(
        f'{where} has no state_dict, but weights under {", ".join(nested)}'
        f'{ema if nested == ["ema_state_dict"] else ""}. If these are of this model, save them '
        f"as torch.save({{'state_dict': checkpoint[{nested[0]!r}]}}, FILE) and name that file."
    )


def _renamed(state_dict: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """A state dict with other names, also in its metadata."""
    renamed = OrderedDict((rename(name), value) for name, value in state_dict.items())
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is not None:  # versions, by which mmpose converts old layouts
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
    """Prefixes under which a state dict has every parameter, in its shape."""
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
    """What a checkpoint that does not fit seems to be, as the end of a line."""
    if prefixes:
        return f'; it has all of them under each of {", ".join(prefixes)}: keep one of these'
    found = parameters.keys() & state_dict.keys()
    backbone = [name for name in parameters if name.startswith('backbone.')]
    bare = {name.removeprefix('backbone.') for name in backbone}
    if backbone and (found == set(backbone) or bare <= state_dict.keys()):
        return '; it has those of the backbone only, as pretraining leaves them'
    return f'; it has names such as {next(iter(state_dict), "none at all")}'


def cached_path(url: str) -> str:
    """Where the file at a URL is, or will be, in the checkpoint cache."""
    return osp.join(torch.hub.get_dir(), 'checkpoints', osp.basename(urlparse(url).path))


def _download(url: str, option: str) -> str:
    """Fetch ``url`` into the checkpoint cache and return the file's path."""
    path = cached_path(url)
    if osp.isfile(path):
        return path
    try:
        os.makedirs(osp.dirname(path), exist_ok=True)
        torch.hub.download_url_to_file(url, path, progress=True)
    except (urllib.error.URLError, HTTPException, OSError) as error:
        raise CheckpointError(
            f'{option}: cannot download {url} ({_first_line(error)}). Without a network: '
            f'download it on another machine and put it at {path}, or name a local file '
            '(--pose2d-weights FILE, --det-weights FILE; weights=FILE, det_weights=FILE in Python)'
        ) from error
    return path


def _history_buffer_method(owner: type, name: str) -> Any:
    """Answer ``getattr`` inside a checkpoint: methods of a HistoryBuffer only."""
    if owner is not HistoryBuffer or name not in ('mean', 'min', 'max', 'current'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')
    return getattr(HistoryBuffer, name)


def _empty_bytes() -> bytes:
    """Answer ``bytes()``, by which pickle writes the data of an empty numpy array."""
    return b''


def allowed_types() -> AbstractContextManager:
    """The few types beside tensors that MMEngine's runner writes into a checkpoint.

    ``message_hub`` holds history buffers, ``meta`` holds numpy arrays. An entry
    may be a pair of an object and the name that stands for it in the file.
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


def _refusal(error: BaseException) -> str | None:
    """What to say if the file was refused for what it holds, out of torch's page of advice."""
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
        f'was refused, it holds more than tensors and plain data ({found.group(1)}). Take it from '
        "a source you trust, keep only its 'state_dict' and 'dataset_meta', and save those with "
        'torch.save.'
    )


# How files begin that are taken for checkpoints, in lower case, and what they are.
_BEGINNINGS = {
    b'version https://git-lfs': 'it is a pointer of Git LFS; get the file itself by `git lfs pull`',
    b'<!doctype html': 'it is an HTML page, as failed downloads and logins leave it',
    b'<html': 'it is an HTML page, as failed downloads and logins leave it',
    b'<?xml': 'it is an XML page, as failed downloads leave it',
    b'\x89hdf': 'it is an HDF5 file, as of Keras',
    b'\x1f\x8b': 'it is compressed by gzip; unpack it',
}
_SAFETENSORS = (
    'it is a safetensors file; load it by safetensors.torch.load_file and save that by torch.save'
)
_ONNX = (
    'it is an ONNX file, which is for --engine-file; the weights it was exported from are needed'
)
_TORCHSCRIPT = 'it is a TorchScript archive; the checkpoint that it was made from is needed'


def _other_kind(path: str, head: bytes) -> str | None:
    """What a file is that is certainly no checkpoint, by how it begins; None if it may be one."""
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
        return None  # torch finds what is wrong with it
    if 'constants.pkl' in names:
        return _TORCHSCRIPT
    return None if 'data.pkl' in names else 'it is an archive without a checkpoint; unpack it'


def _describe(path: str, error: BaseException) -> str:
    """What a file is that PyTorch cannot read."""
    with open(path, 'rb') as file:
        head = file.read(16)
    if head.isascii() and head.decode('ascii').isprintable():
        return f'it begins with {head.decode("ascii")!r}'
    return f'it is damaged or of another kind: {type(error).__name__}'


def _last_line(error: BaseException) -> str:
    """Torch heads its list of mismatches with a general line; the last one tells most."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
