"""Copies between the CPU and a GPU that wait for the GPU as rarely as possible."""

from collections.abc import Sequence

import numpy as np
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


def to_device(indices: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device, without waiting for it if it is an NVIDIA GPU."""
    tensor = torch.from_numpy(indices)
    if device.type != 'cuda':  # only CUDA's copies keep their source, if it is pinned
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
