"""Precisions that the processor and the device support natively."""

import platform
from pathlib import Path

import torch


def native_precision(kind: str) -> str:
    """The fastest precision that a device type supports natively at hardly any loss."""
    if kind == 'cuda':
        return 'fp16'
    return 'bf16' if kind == 'cpu' and cpu_has_bf16() else 'fp32'


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
