"""Padding of batches for engines that run batches of certain sizes only."""

import torch
from torch import Tensor


def next_power_of_two(count: int) -> int:
    """Return the smallest power of two that is at least ``count``."""
    return 1 << (count - 1).bit_length()


def pad_batch(inputs: Tensor, count: int) -> Tensor:
    """Repeat the last input of a batch (N, 3, H, W) until the batch has ``count`` inputs."""
    if len(inputs) == count:
        return inputs
    return torch.cat((inputs, inputs[-1:].expand(count - len(inputs), *inputs.shape[1:])))
