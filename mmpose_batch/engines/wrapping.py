"""Wrappers of a network that runs in PyTorch: precision, memory format, device.

They change models in place, as described in :mod:`mmpose_batch.speedups.base`. Decoding is not
wrapped and stays in fp32.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d
from torch import Tensor, nn

from ..speedups.base import InPlaceChange, apply_changes, register
from .overlap import Turn

_DTYPES = {'fp32': None, 'fp16': torch.float16, 'bf16': torch.bfloat16}


# ----------------------------------------------------------- precision and memory format


class NetworkCall:
    """A function of a network, computed in a precision and memory format.

    Args:
        function: Computes the network or one of its parts; its first argument is the inputs.
        device: Device of the network.
        precision: ``'fp32'``, ``'fp16'`` or ``'bf16'``.
        channels_last: Whether batches (N, C, H, W) are converted to channels_last.
        turn: Held during a call, so that other calls wait; None for no limit.
    """

    def __init__(
        self,
        function: Callable,
        device: torch.device,
        precision: str,
        channels_last: bool,
        turn: Turn | None = None,
    ) -> None:
        self._function, self._device, self._channels_last = function, device, channels_last
        self._dtype = _DTYPES[precision]
        self._turn = turn or nullcontext()

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the function under autocast; its outputs are fp32."""
        with self._turn:
            return self._compute(inputs, *args, **kwargs)

    def _compute(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self._channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if self._dtype is None:
            return self._function(inputs, *args, **kwargs)
        with torch.autocast(self._device.type, dtype=self._dtype):
            outputs = self._function(inputs, *args, **kwargs)
        return map_tensors(_to_fp32, outputs)


def to_fast_layout(network: nn.Module, precision: str) -> bool:
    """Convert weights to channels_last, in place, if that is faster; returns whether it is."""
    device = next(network.parameters()).device
    # On CUDA, channels_last is faster in half precision (tensor cores) but not in fp32.
    # mmcv's deformable convolutions do not support it.
    faster = (device.type == 'cpu' or precision != 'fp32') and not any(
        isinstance(module, DeformConv2d | ModulatedDeformConv2d) for module in network.modules()
    )
    if faster:
        network.to(memory_format=torch.channels_last)
    return faster


def _applies_to_network(model: nn.Module) -> bool:
    own = vars(model)
    return next(model.parameters(), None) is not None and not (
        isinstance(own.get('extract_feat'), NetworkCall)
        or any(isinstance(vars(head).get('forward'), NetworkCall) for head in _own_heads(model))
    )


def _wrap_network(model: nn.Module, precision: str) -> None:
    device = next(model.parameters()).device
    channels_last = to_fast_layout(model, precision)
    # If the kernels of two batches alternated, both batches would be complete only at the end.
    turn = None if device.type == 'cpu' else Turn()
    if hasattr(model, 'extract_feat'):
        model.extract_feat = NetworkCall(model.extract_feat, device, precision, channels_last, turn)
    for head in _own_heads(model):
        # Decoding views the outputs with other shapes, which requires contiguous tensors.
        forward = _Contiguous(head.forward) if channels_last else head.forward
        head.forward = NetworkCall(forward, device, precision, channels_last=False, turn=turn)


#: Changes of a model whose network is not replaced, by precision: ``extract_feat`` and
#: ``head.forward`` compute in the precision and return fp32 in upstream's memory format.
COMPUTE_IN = {
    precision: register(
        InPlaceChange(
            name=f'compute in {precision}',
            applies=_applies_to_network,
            apply=partial(_wrap_network, precision=precision),
        )
    )
    for precision in _DTYPES
}


class _Contiguous:
    def __init__(self, forward: Callable) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return map_tensors(Tensor.contiguous, self._forward(*args, **kwargs))


def _to_fp32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def map_tensors(function: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    """Apply a function to every tensor in nested lists, tuples and dicts."""
    if isinstance(outputs, Tensor):
        return function(outputs)
    if isinstance(outputs, list | tuple):
        return type(outputs)(map_tensors(function, item) for item in outputs)
    if isinstance(outputs, dict):
        return {key: map_tensors(function, value) for key, value in outputs.items()}
    return outputs


# --------------------------------------------------------------------------------- device


class _OnCpu:
    """A head's ``forward`` that returns its outputs on the CPU."""

    def __init__(self, forward: Callable) -> None:
        self._forward = forward

    def __call__(self, *args: Any) -> Any:
        return map_tensors(Tensor.cpu, self._forward(*args))


def decode_on_cpu(head: nn.Module) -> None:
    """Make a head return its outputs on the CPU, so that they are decoded there, in place.

    This is for an mmcv that was compiled without CUDA operators, whose NMS rejects tensors on
    a GPU.
    """
    apply_changes(head, (OUTPUTS_ON_CPU,))


def _own_heads(model: nn.Module) -> list[nn.Module]:
    heads = (getattr(model, name, None) for name in ('head', 'bbox_head'))
    return [head for head in heads if head is not None]


def _move_outputs(head: nn.Module) -> None:
    head.forward = _OnCpu(head.forward)


OUTPUTS_ON_CPU = register(
    InPlaceChange(
        name='outputs on the CPU',
        applies=lambda head: not isinstance(vars(head).get('forward'), _OnCpu),
        apply=_move_outputs,
    )
)
