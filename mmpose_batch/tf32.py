"""TF32, in which NVIDIA GPUs compute convolutions of fp32 by default."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .hardware import compute_capability

# NVIDIA GPUs have it since Ampere: their compute capability.
_SINCE = (8, 0)
_changing = threading.RLock()


def convolves_in_tf32(device: torch.device) -> bool:
    """Whether PyTorch computes fp32 convolutions in TF32 on a device, as it does by default.

    TF32 rounds the inputs of products to the 10 bits of mantissa that fp16 has. NVIDIA GPUs have
    it since Ampere.
    """
    capability = compute_capability(device)
    return capability is not None and capability >= _SINCE and tf32_is_allowed()


def tf32_is_allowed() -> bool:
    """Whether PyTorch may compute fp32 convolutions in TF32 in this process."""
    with _changing:  # not while another thread is in `without_tf32`
        convolution = getattr(torch.backends.cudnn, 'conv', None)  # since torch 2.9
        if convolution is not None:
            return convolution.fp32_precision == 'tf32'
        return torch.backends.cudnn.allow_tf32


def check_tf32(wanted: bool | None, device: str | torch.device) -> None:
    """Check that an option for TF32, if there is one, has an effect on a device.

    Raises:
        ValueError: The device is not an NVIDIA GPU.
    """
    if wanted is not None and torch.device(device).type != 'cuda':
        raise ValueError(f'tf32: only valid on an NVIDIA GPU, found device {device}')


def set_tf32(wanted: bool | None) -> None:
    """Set whether PyTorch computes fp32 convolutions in TF32; None changes nothing.

    The setting is for the complete process.
    """
    if wanted is False:
        forbid_tf32()
    elif wanted:
        torch.backends.cudnn.allow_tf32 = True  # changes the newer settings too


def forbid_tf32() -> None:
    """Let PyTorch compute fp32 in fp32, for the complete process."""
    for owner, name, _ in _settings():
        setattr(owner, name, False if name == 'allow_tf32' else 'ieee')


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute fp32 in fp32 in this block.

    PyTorch has one setting for the process. So only one thread at a time is in such a block, and
    other threads compute without TF32 meanwhile.
    """
    with _changing:
        before = _settings()
        forbid_tf32()
        try:
            yield
        finally:
            for setting in before:
                setattr(*setting)


def _settings() -> list[tuple[Any, str, Any]]:
    """PyTorch's settings for TF32: object, name and value, in the order in which to set them.

    Since torch 2.9 there are newer settings, which the older ones change, but not completely. Both
    are set, since PyTorch raises errors if they contradict each other.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    settings = []
    for owner, default in ((cudnn, True), (matmul, False)):
        try:
            value = owner.allow_tf32
        except RuntimeError:  # a program has changed only the newer settings
            value = default
        settings.append((owner, 'allow_tf32', value))
    for owner in (getattr(cudnn, 'conv', None), getattr(cudnn, 'rnn', None), matmul):
        if hasattr(owner, 'fp32_precision'):
            settings.append((owner, 'fp32_precision', owner.fp32_precision))
    return settings
