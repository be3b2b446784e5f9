"""Precisions that the processor and the device support natively, and TF32."""

import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

# Compute capabilities of NVIDIA GPUs: fp16 is fast since Volta (a GTX 10xx computes it at 1/64 of
# the rate of fp32), bf16 and TF32 exist since Ampere.
_FAST_FP16_SINCE, _BF16_SINCE, _TF32_SINCE = (7, 0), (8, 0), (8, 0)
_changing_tf32 = threading.RLock()


def native_precision(kind: str, card: torch.device | None = None) -> str:
    """The fastest precision that a device type supports natively at hardly any loss.

    Args:
        kind: Type of the device, such as ``cpu``.
        card: The NVIDIA GPU, where that is the device.
    """
    if kind == 'cuda':
        capability = compute_capability(card)
        return 'fp32' if capability is not None and capability < _FAST_FP16_SINCE else 'fp16'
    return 'bf16' if kind == 'cpu' and cpu_has_bf16() else 'fp32'


def compute_capability(card: torch.device | None) -> tuple[int, int] | None:
    """The compute capability of an NVIDIA GPU; None without one, or where there is no driver."""
    if card is None or card.type != 'cuda' or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_capability(card)


def check_bf16(card: torch.device | None) -> None:
    """Check that an NVIDIA GPU, if there is one, computes bf16 natively.

    Raises:
        ValueError: PyTorch would emulate it, slower than fp32.
    """
    capability = compute_capability(card)
    if capability is not None and capability < _BF16_SINCE:
        others = 'fp32' if capability < _FAST_FP16_SINCE else 'fp16 or fp32'
        raise ValueError(
            f'precision: bf16 is not supported on {torch.cuda.get_device_name(card)} (compute '
            f'capability {capability[0]}.{capability[1]}); use {others}'
        )


def cpu_has_bf16() -> bool:
    """Whether the processor supports bf16 natively (AVX512_BF16 or AMX).

    Otherwise oneDNN emulates bf16.
    """
    checks = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def cpu_has_vnni() -> bool:
    """Whether the processor accumulates int8 products in 32 bits (VNNI, or ARM), not in 16."""
    if platform.machine().lower() not in ('x86_64', 'amd64', 'x86', 'i686'):
        return True
    if getattr(torch.cpu, '_is_vnni_supported', lambda: False)():  # AVX512_VNNI only
        return True
    try:
        return 'avx_vnni' in Path('/proc/cpuinfo').read_text().split()
    except OSError:
        return False


def convolves_in_tf32(device: torch.device) -> bool:
    """Whether PyTorch computes fp32 convolutions in TF32 on a device, as it does by default.

    TF32 rounds the inputs of products to the 10 bits of mantissa that fp16 has. NVIDIA GPUs have
    it since Ampere.
    """
    capability = compute_capability(device)
    return capability is not None and capability >= _TF32_SINCE and tf32_is_allowed()


def tf32_is_allowed() -> bool:
    """Whether PyTorch may compute fp32 convolutions in TF32 in this process."""
    with _changing_tf32:  # not while another thread is in `without_tf32`
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
    for owner, name, _ in _tf32_settings():
        setattr(owner, name, False if name == 'allow_tf32' else 'ieee')


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute fp32 in fp32 in this block.

    PyTorch has one setting for the process. So only one thread at a time is in such a block, and
    other threads compute without TF32 meanwhile.
    """
    with _changing_tf32:
        before = _tf32_settings()
        forbid_tf32()
        try:
            yield
        finally:
            for setting in before:
                setattr(*setting)


def _tf32_settings() -> list[tuple[Any, str, Any]]:
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
