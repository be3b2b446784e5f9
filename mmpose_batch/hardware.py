"""Precisions that the processor and the device support natively."""

import platform
from pathlib import Path

import torch

# Compute capabilities of NVIDIA GPUs: fp16 is fast since Volta (a GTX 10xx computes it at 1/64 of
# the rate of fp32), bf16 exists since Ampere.
_FAST_FP16_SINCE, _BF16_SINCE = (7, 0), (8, 0)


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
