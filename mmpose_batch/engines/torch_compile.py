"""torch.compile: PyTorch's own compiler, with batches of constant shape."""

from collections import defaultdict
from collections.abc import Callable

import torch
import torch._dynamo.config
from torch import Tensor

from .batches import fill_up, next_power_of_two
from .seam import Network, Normalization

# Every shape of inputs is compiled by itself; after eight of them PyTorch would go on in eager,
# with a line in its own log.
_MANY = {'recompile_limit': 10_000, 'accumulated_recompile_limit': 10_000}
_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}


class TorchCompileEngine:
    """Runs a network as inductor compiles it; on CUDA with CUDA graphs.

    Args:
        network: On its device.
        normalization: Compiled into the network.
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Attributes:
        keep_sizes: Whether a smaller batch is filled up to a size that is compiled,
            rather than to the next power of two, which may have to be.
    """

    name = 'torch-compile'
    parallel = 1

    def __init__(self, network: Network, normalization: Normalization, precision: str) -> None:
        self.keep_sizes = False
        self._compiled: defaultdict[tuple, set[int]] = defaultdict(set)
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

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Compute one batch; see :class:`mmpose_batch.engines.seam.Engine`."""
        count = len(inputs)
        function: Callable = self._pixels if inputs.dtype == torch.uint8 else self._floats
        compiled = self._compiled[inputs.dtype, *inputs.shape[1:]]
        size = next_power_of_two(count)
        if self.keep_sizes:
            size = min((other for other in compiled if other >= count), default=size)
        inputs = fill_up(inputs, size)
        compiled.discard(size)  # until it has run: memory may not hold it any more
        half = torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None)
        with half, torch._dynamo.config.patch(_MANY):
            outputs = function(inputs)
        compiled.add(size)
        # CUDA graphs write the next batch's outputs over this one's.
        return [output[:count].float().clone() for output in outputs]
