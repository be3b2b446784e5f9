"""PyTorch as it is, with what is exact and free: channels_last, fused layers, autocast."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .fusion import fuse_layers

_DTYPES = {'fp16': torch.float16, 'bf16': torch.bfloat16}


def prepare_model(model: nn.Module, precision: str) -> None:
    """Make an MMPose or MMDetection model in eval mode ready for fast batches, in place.

    Batch norms and RepVGG branches are folded into their convolutions, weights
    and inputs become channels_last where that helps, and a lower precision is
    wrapped around the network alone: ``extract_feat`` and ``head.forward``
    compute under autocast and hand out fp32, so all decoding stays in fp32.

    Only this instance changes, no class does. Its state dict is no longer that
    of its config.

    Args:
        model: Any pose estimator, or a detector with ``extract_feat``.
        precision: ``'fp32'``, ``'fp16'`` or ``'bf16'``, see
            :func:`mmpose_batch.runtime.resolve_precision`.
    """
    fuse_layers(model)
    device = next(model.parameters()).device
    # On CUDA, tensor cores of half precision want channels_last; fp32 does not gain.
    channels_last = device.type == 'cpu' or precision != 'fp32'
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if hasattr(model, 'extract_feat'):
        model.extract_feat = _network_call(model.extract_feat, device, precision, channels_last)
    for name in ('head', 'bbox_head'):
        head = getattr(model, name, None)
        if head is not None and precision != 'fp32':
            head.forward = _network_call(head.forward, device, precision, channels_last=False)


def _network_call(
    function: Callable, device: torch.device, precision: str, channels_last: bool
) -> Callable:
    """Wrap one call of the network in autocast and memory format."""
    dtype = _DTYPES.get(precision)

    def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if channels_last and isinstance(inputs, torch.Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if dtype is None:
            return function(inputs, *args, **kwargs)
        with torch.autocast(device.type, dtype=dtype):
            outputs = function(inputs, *args, **kwargs)
        return _to_fp32(outputs)

    return call


def _to_fp32(outputs: Any) -> Any:
    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, list | tuple):
        return type(outputs)(_to_fp32(item) for item in outputs)
    if isinstance(outputs, dict):
        return {key: _to_fp32(value) for key, value in outputs.items()}
    return outputs
