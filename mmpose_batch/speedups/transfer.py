"""Copies from a GPU: several tensors at once, since each copy waits for the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors of one device to the CPU, in one transfer.

    Args:
        tensors: Tensors of any shapes with float32 values, or with integers below 2**24.

    Returns:
        Tensors with the same values, shapes and dtypes; those on the CPU are not copied.
    """
    if tensors[0].device.type == 'cpu':
        return list(tensors)
    packed = torch.cat([tensor.reshape(-1).float() for tensor in tensors]).cpu()
    parts = packed.split([tensor.numel() for tensor in tensors])
    return [
        part.view(tensor.shape).to(tensor.dtype)
        for part, tensor in zip(parts, tensors, strict=True)
    ]
