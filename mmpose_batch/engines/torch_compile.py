"""torch.compile: PyTorch's own compiler, for batches of constant shape."""

import os
from collections.abc import Callable, Sequence
from shutil import which
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..speedups.casts import cast_now
from .base import AutoCase, Engine, EngineOptions, EngineSpec
from .device_thread import run_in_thread_of
from .network import Network, Normalization
from .padding import next_power_of_two, pad_batch
from .registry import register

if TYPE_CHECKING:
    from .builder import NetworkSource

# Every shape of inputs is compiled separately. With its default limits, PyTorch would run further
# shapes eagerly after eight of them, with no more than a line in its own log.
_RECOMPILE_LIMITS = {'recompile_limit': 10_000, 'accumulated_recompile_limit': 10_000}
# Batches of at least a full batch divided by this are padded to a full batch.
_PADDED = 4
_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}


class TorchCompileEngine(Engine):
    """Runs a network that is compiled by inductor; on CUDA with CUDA graphs.

    On CUDA all engines of one device compile and run in one thread.

    Args:
        network: Network, on its final device.
        normalization: Normalization that is compiled into the network.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """

    def __init__(self, network: Network, normalization: Normalization, precision: str) -> None:
        self._largest = 0  # size of the largest batch since the start of a warm-up
        self._full: int | None = None
        self._device = next(network.parameters()).device
        self._dtype = _DTYPES.get(precision)
        on_cpu = self._device.type == 'cpu'
        compiling = {'options': {'freezing': True}} if on_cpu else {'mode': 'reduce-overhead'}
        if not on_cpu and self._dtype is not None:  # on a CPU, freezing does so
            cast_now(network, self._dtype)
        self._pixels = torch.compile(
            lambda pixels: network(normalization(pixels)), dynamic=False, **compiling
        )
        self._floats = torch.compile(network, dynamic=False, **compiling)

    @property
    def description(self) -> str:
        """PyTorch's version, compiler and device."""
        return f'PyTorch {torch.__version__} compiled by inductor on {self._device}'

    def warm_up(self, run: Callable[[], object]) -> None:
        """Compile for full batches before the first result.

        Args:
            run: Runs one full batch through the model.
        """
        self.cool_down()
        run()
        self._full = self._largest

    def cool_down(self) -> None:
        """Stop padding batches to the size of a full batch."""
        self._largest, self._full = 0, None

    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        """Compute one batch; see :class:`mmpose_batch.engines.base.Engine`."""
        if self._device.type == 'cuda':
            return run_in_thread_of(self._device, self._compute, inputs)
        return self._compute(inputs)

    @torch.no_grad()
    def _compute(self, inputs: Tensor) -> list[Tensor]:
        count = len(inputs)
        function: Callable = self._pixels if inputs.dtype == torch.uint8 else self._floats
        size = self._size(count)
        inputs = pad_batch(inputs, size)
        half = torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None)
        from torch._dynamo import config  # slow to import

        try:
            with half, config.patch(_RECOMPILE_LIMITS):
                outputs = function(inputs)
        except Exception:
            self._full = None  # if memory ran out, smaller batches must not be padded
            raise
        self._largest = max(self._largest, size)
        # Cloned, since with CUDA graphs the next batch overwrites these outputs.
        return [output[:count].float().clone() for output in outputs]

    def _size(self, count: int) -> int:
        """Size that a batch is padded to: a full batch if it is large enough, to compile less."""
        size = next_power_of_two(count)
        full = self._full
        return full if full is not None and full // _PADDED <= size < full else size


def _build(source: 'NetworkSource', options: EngineOptions) -> TorchCompileEngine:
    return TorchCompileEngine(source.network, source.normalization, options.precision)


def _has_compiler() -> bool:
    return any(map(which, (os.environ.get('CXX', 'g++'), 'clang++')))


def _in_auto(case: AutoCase) -> bool:
    # Compiling takes 30 s or more, which does not pay on a CPU if another engine is installed.
    return case.on_cuda or not case.alternatives


register(
    EngineSpec(
        name='torch-compile',
        build=_build,
        precisions=('fp32', 'fp16', 'bf16'),
        compiles_for_batch=True,
        is_available=_has_compiler,
        in_auto=_in_auto,
    )
)
