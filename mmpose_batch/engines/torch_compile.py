"""torch.compile: PyTorch's own compiler, with batches of constant shape."""

from collections.abc import Callable

import torch
import torch._dynamo.config
from torch import Tensor

from .network import Network, Normalization
from .padding import fill_up, next_power_of_two

# Every shape of inputs is compiled by itself; after eight of them PyTorch would go on in eager,
# with a line in its own log.
_MANY = {'recompile_limit': 10_000, 'accumulated_recompile_limit': 10_000}
# Batches of at least this part of a full one are filled up to it.
_FILL_UP = 4
_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}


class TorchCompileEngine:
    """Runs a network as inductor compiles it; on CUDA with CUDA graphs.

    Args:
        network: On its device.
        normalization: Compiled into the network.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """

    name = 'torch-compile'
    parallel = 1

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
        """Fill up to no full batch any more."""
        self._largest, self._full = 0, None

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Compute one batch; see :class:`mmpose_batch.engines.network.Engine`."""
        count = len(inputs)
        function: Callable = self._pixels if inputs.dtype == torch.uint8 else self._floats
        size = self._size(count)
        inputs = fill_up(inputs, size)
        half = torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None)
        try:
            with half, torch._dynamo.config.patch(_MANY):
                outputs = function(inputs)
        except Exception:
            self._full = None  # it may be the memory: what is smaller is not to be filled up
            raise
        self._largest = max(self._largest, size)
        # CUDA graphs write the next batch's outputs over this one's.
        return [output[:count].float().clone() for output in outputs]

    def _size(self, count: int) -> int:
        """What a batch is filled up to: to a full one at most, rather than compiling for less."""
        size = next_power_of_two(count)
        full = self._full
        return full if full is not None and full // _FILL_UP <= size < full else size
