"""Counting casts of tensors to another type."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class CountCasts(TorchDispatchMode):
    """Counts the casts in a block.

    Args:
        module: Casts of its parameters are counted separately.

    Attributes:
        all: Number of casts.
        of_parameters: Number of casts of parameters.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._parameters = set(map(id, module.parameters()))
        self.all = self.of_parameters = 0

    def __torch_dispatch__(
        self, operator: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if operator is torch.ops.aten._to_copy.default:
            self.all += 1
            self.of_parameters += id(args[0]) in self._parameters
        return operator(*args, **(kwargs or {}))
