"""torch.compile: PyTorch's own compiler, with batches of constant shape."""

import os
from collections.abc import Callable
from shutil import which
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .base import AutoCase, Engine, EngineOptions, EngineSpec
from .network import Network, Normalization
from .padding import next_power_of_two, pad_batch
from .registry import register

if TYPE_CHECKING:
    from .builder import NetworkSource

# Every shape of inputs is compiled by itself; after eight of them PyTorch would go on in eager,
# with a line in its own log.
_MANY = {'recompile_limit': 10_000, 'accumulated_recompile_limit': 10_000}
# Batches of at least one in so many of a full one are padded to it.
_PADDED = 4
_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}


class TorchCompileEngine(Engine):
    """Runs a network as inductor compiles it; on CUDA with CUDA graphs.

    Args:
        network: On its device.
        normalization: Compiled into the network.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """

    def __init__(self, network: Network, normalization: Normalization, precision: str) -> None:
        self._largest = 0  # of the batches of a warm-up
        self._full: int | None = None
        self._device = next(network.parameters()).device
        self._dtype = _DTYPES.get(precision)
        on_cpu = self._device.type == 'cpu'
        compiling = {'options': {'freezing': True}} if on_cpu else {'mode': 'reduce-overhead'}
        self._pixels = torch.compile(
            lambda pixels: network(normalization(pixels)), dynamic=False, **compiling
        )
        self._floats = torch.compile(network, dynamic=False, **compiling)

    @property
    def description(self) -> str:
        """Version and compiler."""
        return f'PyTorch {torch.__version__} compiled by inductor on {self._device}'

    def warm_up(self, run: Callable[[], object]) -> None:
        """Compile for full batches, before one is waited for.

        Args:
            run: Runs one.
        """
        self.cool_down()
        run()
        self._full = self._largest

    def cool_down(self) -> None:
        """Pad to no full batch any more."""
        self._largest, self._full = 0, None

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Compute one batch; see :class:`mmpose_batch.engines.base.Engine`."""
        count = len(inputs)
        function: Callable = self._pixels if inputs.dtype == torch.uint8 else self._floats
        size = self._size(count)
        inputs = pad_batch(inputs, size)
        half = torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None)
        from torch._dynamo import config  # slow to import

        try:
            with half, config.patch(_MANY):
                outputs = function(inputs)
        except Exception:
            self._full = None  # it may be the memory: what is smaller is not to be padded
            raise
        self._largest = max(self._largest, size)
        # CUDA graphs write the next batch's outputs over this one's.
        return [output[:count].float().clone() for output in outputs]

    def _size(self, count: int) -> int:
        """What a batch is padded to: to a full one at most, rather than compiling for less."""
        size = next_power_of_two(count)
        full = self._full
        return full if full is not None and full // _PADDED <= size < full else size


def _build(source: 'NetworkSource', options: EngineOptions) -> TorchCompileEngine:
    return TorchCompileEngine(source.network, source.normalization, options.precision)


def _has_compiler() -> bool:
    return any(map(which, (os.environ.get('CXX', 'g++'), 'clang++')))


def _in_auto(case: AutoCase) -> bool:
    # Half a minute or more of compiling, for nothing where a CPU has another engine.
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
