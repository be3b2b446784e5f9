"""Device and precision: what a run may use, and where its time goes."""

import platform
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

Item = TypeVar('Item')

PRECISIONS = ('fp32', 'fp16', 'bf16', 'int8', 'auto')
# What each engine may be asked for; whether a device does it is another question.
PRECISIONS_OF = {
    'torch': ('fp32', 'fp16', 'bf16'),
    'torch-compile': ('fp32', 'fp16', 'bf16'),
    'onnxruntime': ('fp32', 'int8'),
    'openvino': ('fp32', 'fp16', 'bf16', 'int8'),
    'auto': ('fp32', 'fp16', 'bf16', 'int8'),
}


# PyTorch's CPU allocator, ONNX Runtime and CUDA libraries, OpenVINO and other C++.
_OUT_OF_MEMORY = (
    *("can't allocate memory", 'not enough memory', 'out of memory', 'bad_alloc'),
    'failed to allocate memory',
)


def resolve_precision(
    precision: str,
    device: str | torch.device,
    engine: str = 'torch',
    engine_device: str | None = None,
) -> str:
    """Check a precision against device and engine and settle ``auto``.

    ``auto`` is the fastest one that the hardware computes natively and that costs
    hardly any accuracy: fp16 on a GPU, bf16 on a CPU with bf16 instructions, fp32
    elsewhere.

    Args:
        precision: One of :data:`PRECISIONS`.
        device: Of PyTorch.
        engine: One of :data:`PRECISIONS_OF`.
        engine_device: Where the engine computes, if that is not where PyTorch does.

    Raises:
        ValueError: An unknown precision, or one that the engine or the device
            cannot do.
    """
    if precision not in PRECISIONS:
        raise ValueError(f'precision: expected one of {", ".join(PRECISIONS)}, found {precision!r}')
    kind = torch.device(device).type
    if engine == 'openvino':
        kind = 'cpu' if (engine_device or 'CPU') == 'CPU' else 'cuda'
    able = PRECISIONS_OF[engine]
    if precision == 'auto':
        native = {'cuda': 'fp16', 'cpu': 'bf16' if cpu_has_bf16() else 'fp32'}.get(kind, 'fp32')
        return native if native in able else 'fp32'
    if precision not in able:
        others = [name for name, precisions in PRECISIONS_OF.items() if precision in precisions]
        raise ValueError(
            f'precision: engine {engine} does {", ".join(able)}, not {precision}; '
            f'{", ".join(others)} may'
        )
    if precision == 'fp16' and kind == 'cpu':
        raise ValueError('precision: fp16 is not for a CPU; use bf16 there')
    return precision


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 natively (AVX512_BF16 or AMX).

    Without it oneDNN emulates bf16.
    """
    checks = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def cpu_has_vnni() -> bool:
    """Whether the processor adds products of int8 in 32 bits (VNNI, or ARM), not in 16."""
    if platform.machine().lower() not in ('x86_64', 'amd64', 'x86', 'i686'):
        return True
    if getattr(torch.cpu, '_is_vnni_supported', lambda: False)():  # AVX512_VNNI only
        return True
    try:
        return 'avx_vnni' in Path('/proc/cpuinfo').read_text().split()
    except OSError:
        return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the GPU or the machine, was too small.

    PyTorch's allocator for CPUs and other libraries have no class of their own for it.
    """
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in text for words in _OUT_OF_MEMORY
    )


class StageClock:
    """Seconds that the calling thread spent in each stage of a run."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside the ``with`` block to stage ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def waiting(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        """Iterate ``items``; the time until each comes adds to stage ``name``.

        Stages nest when a stream feeds on another: what an inner stage took
        meanwhile is counted there and not here.
        """
        while True:
            inner = sum(self.seconds.values())
            start = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                spent = time.perf_counter() - start
                self.seconds[name] += spent - (sum(self.seconds.values()) - inner)
            yield item
