"""Loading weights by an allow-list of types: nothing in a checkpoint file is ever run."""

import os
import os.path as osp
import pickle
import re
import urllib.error
from collections import OrderedDict
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import nn


class CheckpointError(RuntimeError):
    """Weights that cannot be loaded: missing, broken, refused, or of another model."""


def load_checkpoint(weights: str) -> dict:
    """Read a checkpoint without running code from it.

    Args:
        weights: Path of a ``.pth`` file, or its URL. A URL is downloaded once
            into the cache that MMEngine uses too (``torch.hub.get_dir()``).

    Returns:
        The checkpoint; its tensors are on the CPU.

    Raises:
        CheckpointError: The file is missing, cannot be downloaded, is no
            checkpoint, or holds objects outside the allow-list.
    """
    path = _download(weights) if urlparse(weights).scheme in ('http', 'https') else weights
    if not osp.isfile(path):
        raise CheckpointError(f'weights: no such file: {path}')
    try:
        with open(path, 'rb') as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f'weights: {path} cannot be read: {error.strerror}') from error
    try:
        with allowed_types():
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged file makes torch raise nearly anything
        reason = _refusal(error)
        if reason is None:
            reason = f'is no readable PyTorch checkpoint ({_describe(head, error)}).'
            if path != weights:
                reason += ' Delete it to download it again.'
        # Not `from error`: torch's own text advises to run what is in the file.
        raise CheckpointError(f'weights: {path} {reason}') from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f'weights: expected a dict with a state_dict in {path}, '
            f'found {type(checkpoint).__name__}'
        )
    return checkpoint


def load_weights(model: nn.Module, checkpoint: dict, source: str) -> None:
    """Copy a checkpoint's weights into ``model``.

    Like stock, extra entries are passed over (training-only branches) and
    buffers may be missing. Unlike stock, a parameter that would stay random or
    that differs in shape is an error.

    Args:
        model: Receives the weights, in its own dtype.
        checkpoint: As :func:`load_checkpoint` returns it, or a bare state dict.
        source: Where it came from, for the error message.

    Raises:
        CheckpointError: The checkpoint belongs to another model.
    """
    state_dict = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state_dict, dict) or not all(isinstance(name, str) for name in state_dict):
        raise CheckpointError(f'weights: {source} has no state_dict of names and tensors')
    metadata = getattr(state_dict, '_metadata', None)
    state_dict = OrderedDict(
        (name.removeprefix('module.'), value) for name, value in state_dict.items()
    )
    if metadata is not None:  # versions, by which mmpose converts old layouts
        state_dict._metadata = metadata
    try:
        missing = model.load_state_dict(state_dict, strict=False).missing_keys
    except (RuntimeError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f'weights: {source} belongs to another model: {_last_line(error)}'
        ) from error
    parameters = [name for name, _ in model.named_parameters()]
    missing = sorted(set(parameters) & set(missing))
    if missing:
        raise CheckpointError(
            f'weights: {source} belongs to another model: {len(missing)} of '
            f'{len(parameters)} parameters are not in it, first {missing[0]}'
        )


def _download(url: str) -> str:
    """Fetch ``url`` into the checkpoint cache and return the file's path."""
    folder = osp.join(torch.hub.get_dir(), 'checkpoints')
    path = osp.join(folder, osp.basename(urlparse(url).path))
    if osp.isfile(path):
        return path
    os.makedirs(folder, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, path, progress=True)
    except (urllib.error.URLError, OSError) as error:
        raise CheckpointError(
            f'weights: cannot download {url} ({_first_line(error)}). Without a network: '
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


def _describe(head: bytes, error: BaseException) -> str:
    """What a file is that is no checkpoint: an error page, a pointer of Git LFS, a rest."""
    if not head:
        return 'it is empty'
    if head.isascii() and head.decode('ascii').isprintable():
        return f'it begins with {head.decode("ascii")!r}'
    return f'it is damaged or of another kind: {type(error).__name__}'


def _last_line(error: BaseException) -> str:
    """Torch heads its list of mismatches with a general line; the last one tells most."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
