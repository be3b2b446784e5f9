"""The pretended CUDA device behaves like a GPU where that can be seen without one."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.pretended_cuda import PretendedCuda, pretended_cuda
from torch import Tensor, nn

FACTORIES = {
    'zeros': lambda device: torch.zeros(2, 3, device=device),
    'full': lambda device: torch.full((2,), 3.0, device=device),
    'arange': lambda device: torch.arange(1, 7, 2, device=device),
    'linspace': lambda device: torch.linspace(0, 1, 4, device=device),
    'eye': lambda device: torch.eye(3, device=device),
    'tensor': lambda device: torch.tensor([1.0, 2.0], device=device),
    'as_tensor': lambda device: torch.as_tensor(np.arange(3), device=device),
    'to': lambda device: torch.ones(2).to(device),
}
SYNCHRONISATIONS = {
    'item': lambda x: x.sum().item(),
    'if': lambda x: 1 if (x > 1).any() else 0,
    'tolist': lambda x: x.tolist(),
    'nonzero': lambda x: (x > 1).nonzero(),
    'where': lambda x: torch.where(x > 1),
    'unique': torch.unique,
    'masked_select': lambda x: x.masked_select(x > 1),
    'get by a mask': lambda x: x[x > 1],
    'set by a mask': lambda x: x.index_put_((x > 1,), x[0]),
    'get by an index on the CPU': lambda x: x[torch.tensor([0, 1])],
    'equal': lambda x: torch.equal(x, x),
    'to the CPU': Tensor.cpu,
    'copy_ to the CPU': lambda x: torch.empty(4).copy_(x),
    'from the CPU': lambda x: torch.ones(4).to(x.device),
    'from pageable memory, not blocking': lambda x: torch.ones(4).to(x.device, non_blocking=True),
    'from pinned memory, blocking': lambda x: torch.ones(4).pin_memory().to(x.device),
    'an event': lambda x: torch.cuda.Event().synchronize(),
    'the device': lambda x: torch.cuda.synchronize(),
}
NO_SYNCHRONISATIONS = {
    'arithmetic': lambda x: (x + 1) * x.amax(),
    'a number on the CPU': lambda x: x * torch.tensor(2.0),
    'a slice': lambda x: x[1:, None],
    'an index': lambda x: x[x.long() % 2],
    'a number, set by a mask': lambda x: x.clone().__setitem__(x > 1, 0),
    'where of three': lambda x: torch.where(x > 1, x, 0),
    'from pinned memory': lambda x: torch.ones(4).pin_memory().to(x.device, non_blocking=True),
    'to pinned memory': lambda x: x.to('cpu', non_blocking=True),
    'on the device': lambda x: x.to(x.device, torch.float16),
    'nothing': lambda x: x[:0].cpu(),
}
MIXES = {
    'sum': lambda x: x + torch.ones(4),
    'where': lambda x: torch.where(x > 1, x, torch.zeros(4)),
    'cat': lambda x: torch.cat([x, torch.ones(2)]),
    'CPU tensor by an index on the device': lambda x: torch.ones(4)[x.long()],
    'values on the CPU': lambda x: x.index_put_((x.long(),), torch.ones(4)),
    'network on the CPU': lambda x: nn.Linear(4, 2)(x),
}


# The first of this module, since it needs a machine without the device.
def test_afterwards_torch_is_as_before():
    before = torch.cuda.is_available, torch.empty, dict(vars(Tensor))
    with pretended_cuda():
        assert torch.cuda.is_available()
    assert (torch.cuda.is_available, torch.empty, dict(vars(Tensor))) == before
    with pytest.raises((NotImplementedError, AssertionError), match='CUDA'):
        torch.zeros(1, device='cuda:0')


@pytest.fixture
def x(cuda: PretendedCuda) -> Tensor:
    values = torch.arange(4.0).to(cuda.name)
    cuda.reset()
    return values


@pytest.mark.parametrize('name', FACTORIES)
def test_factories_create_real_numbers_on_the_device(cuda, name):
    found, expected = FACTORIES[name](cuda.name), FACTORIES[name]('cpu')
    assert str(found.device) == 'cuda:0'
    assert found.is_cuda
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize('name', SYNCHRONISATIONS)
def test_waiting_for_the_device_is_counted(cuda, x, name):
    SYNCHRONISATIONS[name](x)
    assert cuda.synchronisations.total() == 1
    (line,) = cuda.synchronisation_lines
    assert line.startswith('tests/devices/test_pretended_cuda.py:')


@pytest.mark.parametrize('name', NO_SYNCHRONISATIONS)
def test_what_does_not_wait_is_not_counted(cuda, x, name):
    NO_SYNCHRONISATIONS[name](x)
    assert not cuda.synchronisations


@pytest.mark.parametrize('name', MIXES)
def test_tensors_of_two_devices_are_refused(x, name):
    with pytest.raises(RuntimeError, match='Expected all tensors to be on the same device'):
        MIXES[name](x)


@pytest.mark.parametrize('convert', [lambda x: x.numpy(), np.asarray])
def test_an_array_of_the_device_is_refused(x, convert):
    with pytest.raises(TypeError, match=r'Use Tensor\.cpu\(\)'):
        convert(x)


def test_a_second_device_is_refused(cuda):
    with pytest.raises(torch.AcceleratorError, match='invalid device ordinal'):
        torch.empty(0, device='cuda:1')


def test_a_copy_that_is_not_awaited_has_wrong_values(cuda, x):
    found = x.to('cpu', non_blocking=True)
    assert found.isnan().all()
    torch.cuda.current_stream().synchronize()
    assert torch.equal(found, torch.arange(4.0))
    assert cuda.transfers == {'to the CPU': 1}


def test_operators_are_counted_by_name_and_line(cuda, x):
    (x + 1).sigmoid()
    assert cuda.operators == {'aten.add.Tensor': 1, 'aten.sigmoid.default': 1}
    assert all('test_pretended_cuda.py:' in line for line in cuda.operator_lines)
    assert 'aten.sigmoid.default' in cuda.report()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_autocast_follows_the_rules_of_cuda(x, dtype):
    layer = nn.Linear(4, 2).to(x.device)
    with torch.autocast('cuda', dtype=dtype):
        found = layer(x)
        assert found.dtype == dtype
        assert found.softmax(0).dtype == torch.float32  # on the CPU it stays in half precision
    torch.testing.assert_close(found.float(), layer(x), rtol=1e-2, atol=1e-2)


def test_a_shape_changes_in_place(x):
    column = x.unsqueeze_(1)
    assert x.shape == column.shape == (4, 1)
    assert x.transpose_(0, 1).tolist() == [[0, 1, 2, 3]]
    with pytest.raises(NotImplementedError, match='changes the shape'):
        x.resize_(2)


def test_numbers_in_half_precision_overflow(x):
    assert (x.half() * 60000).isinf().tolist() == [False, False, True, True]


@torch.no_grad()
def test_models_move_to_the_device_and_back(cuda):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    inputs = torch.randn(2, 3, 8, 8)
    expected, weight = model(inputs), model[0].weight
    model.to(cuda.name)
    assert model[0].weight is weight  # as on a GPU
    assert weight.requires_grad
    for each in (model, copy.deepcopy(model)):
        assert {str(t.device) for t in each.state_dict().values()} == {'cuda:0'}
        assert torch.equal(each(inputs.to(cuda.name)).cpu(), expected)
    assert torch.equal(model.cpu()(inputs), expected)


def test_all_threads_see_the_device(cuda, x):
    def compute(number: int) -> list[float]:
        return (torch.ones(2, device=cuda.name) * number + x[:2]).tolist()

    cuda.reset()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(compute, range(20)))
    assert found == [[number, number + 1] for number in range(20)]
    assert cuda.synchronisations == {'copy to the CPU': 20}
