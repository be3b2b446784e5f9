"""Copies to the CPU: packed into one, with equal values."""

import numpy as np
import pytest
import torch
from support.pretended_cuda import PretendedCuda
from torch.utils._python_dispatch import TorchDispatchMode

from mmpose_batch.speedups.transfer import to_cpu, to_device

TENSORS = [
    torch.randn(3, 17, 2),
    torch.tensor([float('nan'), float('inf'), -0.0]),
    torch.tensor([0, 5, 2**24 - 1]),
    torch.empty(0, 4),
    torch.tensor(2.5),
    torch.randn(4, 6).t(),
]


def test_tensors_are_copied_in_one_transfer(cuda: PretendedCuda):
    tensors = [tensor.to(cuda.name) for tensor in TENSORS]
    cuda.reset()
    found = to_cpu(tensors)
    assert cuda.synchronisations == {'copy to the CPU': 1}
    for one, other in zip(found, TENSORS, strict=True):
        assert one.device.type == 'cpu'
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_tensors_on_the_cpu_are_not_copied():
    for one, other in zip(to_cpu(TENSORS), TENSORS, strict=True):
        assert one is other


@pytest.mark.parametrize('indices', [np.arange(3), np.arange(0)], ids=len)
def test_indices_are_copied_to_a_device_without_waiting(cuda: PretendedCuda, indices):
    cuda.reset()
    found = to_device(indices, torch.device(cuda.name))
    assert str(found.device) == cuda.name
    assert not cuda.synchronisations
    assert found.tolist() == indices.tolist()
    on_cpu = to_device(indices, torch.device('cpu'))
    assert on_cpu.tolist() == indices.tolist()


class Copies(TorchDispatchMode):
    """Notes whether each copy to a device may still read its source when it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[bool] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operator is torch.ops.aten._to_copy.default:
            self.found.append(bool(kwargs.get('non_blocking')))
        return operator(*args, **kwargs)


def test_a_copy_to_another_kind_of_device_is_complete_when_it_returns():
    """Pinned memory is kept for CUDA only, other sources may be overwritten at once."""
    with Copies() as copies:
        to_device(np.arange(3), torch.device('meta'))
    assert copies.found == [False]
