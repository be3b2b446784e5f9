"""Padding of batches for engines that are compiled for a fixed batch size."""

import torch
from torch import Tensor


def next_power_of_two(count: int) -> int:
    """The smallest power of two that is at least ``count``."""
    return 1 << (count - 1).bit_length()


def pad_batch(inputs: Tensor, count: int) -> Tensor:
    """Repeat the last input of a batch until there are ``count``."""
    if len(inputs) == count:
        return inputs
    return torch.cat((inputs, inputs[-1:].expand(count - len(inputs), *inputs.shape[1:])))
