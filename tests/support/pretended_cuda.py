"""A pretended CUDA device, for tests on machines without a GPU.

Tensors on it report ``cuda:0``, follow CUDA's autocast rules and refuse what a GPU refuses: CPU
tensors as other operands, and ``numpy()``. Their numbers are real and are computed on the CPU.
The device counts the operators that a GPU would launch and the synchronisations, in which the CPU
waits for the GPU.

What it cannot show: time, memory, streams that run concurrently, the rounding of a GPU's kernels,
and operators written in CUDA. ``resize_`` and other operators that change the number of elements of
a tensor in place are not supported.

It works in all threads: tensors dispatch by their class, and factories (``torch.zeros(...,
device='cuda:0')``) by kernels that are registered for CUDA while the device exists.
"""

import ctypes
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from weakref import WeakSet

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
CUDA = torch.device('cuda', 0)
CPU = torch.device('cpu')

# The CPU must know the number of results before it can go on.
_COUNTING = ('nonzero', '_unique', '_unique2', 'unique_dim', 'unique_consecutive', 'masked_select')
_COUNTING += ('bincount', 'equal', 'repeat_interleave')
_INDEXING = ('index', '_unsafe_index', 'index_put', 'index_put_', '_index_put_impl_')
# Computed in float32 and rounded, as a GPU does; the CPU's own kernels take up to 40 times longer.
_PRODUCTS = ('convolution', 'mm', 'addmm', 'bmm', 'baddbmm')
_HALVES = (torch.float16, torch.bfloat16)
# Operators whose CPU kernels create a tensor on the device.
_FACTORIES = (
    *('empty.memory_format', 'empty_strided', 'arange', 'arange.start', 'arange.start_step'),
    *('eye', 'eye.m', 'randperm'),
)
_RESHAPING = ('unsqueeze_', 'squeeze_', 't_', 'transpose_', 'as_strided_')
_PINNED_FACTORIES = ('empty', 'zeros', 'ones', 'full', 'empty_like', 'zeros_like')


class PretendedTensor(Tensor):
    """A tensor that reports ``cuda:0``.

    Attributes:
        numbers: The values, a tensor on the CPU.
        owner: The device.
    """

    numbers: Tensor
    owner: 'PretendedCuda'

    @staticmethod
    def __new__(cls, numbers: Tensor, owner: 'PretendedCuda') -> 'PretendedTensor':
        found = Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            layout=numbers.layout,
            device=CUDA,
        )
        found.numbers, found.owner = numbers, owner
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, operator: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        tensors = tree_leaves((args, kwargs))
        owner = next(leaf.owner for leaf in tensors if isinstance(leaf, PretendedTensor))
        return owner.run(operator, args, kwargs or {})

    def numpy(self, *, force: bool = False) -> np.ndarray:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            'Use Tensor.cpu() to copy the tensor to host memory first.'
        )

    def __array__(self, dtype: Any = None) -> np.ndarray:
        return self.numpy()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f'PretendedTensor({tuple(self.shape)}, {self.dtype})'


def _layout(tensor: Tensor) -> list[tuple[int, int]]:
    """Size and stride of each dimension; the stride along a single element does not matter."""
    both = zip(tensor.shape, tensor.stride(), strict=True)
    return [(size, stride if size > 1 else 1) for size, stride in both]


class PretendedCuda:
    """The device, with its counters.

    Attributes:
        name: ``'cuda:0'``.
        operators: Number of calls of each operator on tensors of the device. Views and
            allocations, which launch nothing on a GPU, are included.
        synchronisations: Number of times that the CPU waits for the device, by cause: copies to
            the CPU and back, single values (``item``, ``if``), boolean masks as indices, operators
            whose number of results is not known before, and waiting for an event or a stream.
        transfers: Number of copies for which the CPU does not wait: copies with ``non_blocking``
            from pinned memory, and copies with ``non_blocking`` to the CPU. Until the next
            synchronisation, the values of the latter are wrong on purpose (NaN, or -1).
        cpu_operands: Number of times that an operator took a number from a CPU tensor without
            dimensions, by source line. It costs a GPU nothing, but ``torch.compile`` cannot record
            CUDA graphs of such a function.
        operator_lines, synchronisation_lines: The same counts by the innermost line of source
            outside of torch, as ``'mmpose_batch/speedups/onestage.py:120 aten.sigmoid'``.
    """

    name = str(CUDA)

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pinned: WeakSet = WeakSet()
        self._pending: list[tuple[Tensor, Tensor]] = []
        self.reset()

    def __deepcopy__(self, memo: dict) -> 'PretendedCuda':
        return self  # copies of tensors are on the same device

    def reset(self) -> None:
        """Set all counters to zero."""
        self.operators: Counter[str] = Counter()
        self.synchronisations: Counter[str] = Counter()
        self.transfers: Counter[str] = Counter()
        self.cpu_operands: Counter[str] = Counter()
        self.operator_lines: Counter[str] = Counter()
        self.synchronisation_lines: Counter[str] = Counter()

    def report(self, count: int = 20) -> str:
        """The counts, and the lines with most synchronisations and operators, as text."""
        lines = [
            f'{self.operators.total()} operators, {self.synchronisations.total()} synchronisations '
            f'{dict(self.synchronisations)}, transfers {dict(self.transfers)}'
        ]
        for counter in (self.synchronisation_lines, self.operator_lines):
            lines += [f'{number:>7} {line}' for line, number in counter.most_common(count)]
        return '\n'.join(lines)

    # ------------------------------------------------------------- waiting and copies

    def synchronise(self, cause: str) -> None:
        """Count a synchronisation, after which all copies to the CPU are complete."""
        with self._lock:
            self.synchronisations[cause] += 1
            self.synchronisation_lines[f'{_source_line()} {cause}'] += 1
            for target, values in self._pending:
                target.copy_(values)
            self._pending.clear()

    def pin(self, tensor: Tensor) -> Tensor:
        """Return a copy of a CPU tensor in memory that counts as pinned."""
        if isinstance(tensor, PretendedTensor):
            raise RuntimeError("cannot pin 'torch.cuda' tensors, only dense CPU tensors")
        if self.is_pinned(tensor):
            return tensor
        tensor = tensor.clone()
        self._pinned.add(tensor.untyped_storage())
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor is in memory that counts as pinned."""
        return not isinstance(tensor, PretendedTensor) and tensor.untyped_storage() in self._pinned

    def _upload(self, tensor: Tensor, non_blocking: bool) -> None:
        if non_blocking and self.is_pinned(tensor):
            self.transfers['to the device'] += 1
        elif tensor.numel():
            self.synchronise('copy to the device')

    def _download(self, target: Tensor, values: Tensor, non_blocking: bool) -> None:
        if non_blocking and self.is_pinned(target):
            with self._lock:
                self.transfers['to the CPU'] += 1
                self._pending.append((target, values.clone()))
                target.fill_(-1 if not target.is_floating_point() else float('nan'))
            return
        target.copy_(values)
        if target.numel():
            self.synchronise('copy to the CPU')

    # ---------------------------------------------------------------------- operators

    def run(self, operator: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run an operator that takes or returns tensors of the device."""
        name = operator.overloadpacket.__name__
        device = kwargs.get('device')
        leaves = tree_leaves((args, kwargs))
        ours = {id(leaf.numbers): leaf for leaf in leaves if isinstance(leaf, PretendedTensor)}
        with self._lock:
            self.operators[str(operator)] += 1
            self.operator_lines[f'{_source_line()} {operator}'] += 1
        if name == 'copy_':
            return self._copy(*args, **kwargs)
        if name == '_to_copy' and device is not None and torch.device(device).type == 'cpu':
            return self._to_cpu(*args, **kwargs)
        self._refuse_cpu_tensors(operator, args, leaves)
        self._count(name, args, kwargs)

        if name in _RESHAPING:
            with torch._C._DisableTorchDispatch():  # of the tensor without its numbers
                operator(*args)
        args, kwargs = tree_map_only(PretendedTensor, lambda t: t.numbers, (args, kwargs))
        if device is not None:
            if torch.device(device).index not in (None, CUDA.index):
                raise torch.AcceleratorError('CUDA error: invalid device ordinal')
            kwargs['device'] = CPU
        found = _compute(operator, name, args, kwargs)
        if device is not None and torch.device(device).type == 'cpu':
            return found
        return tree_map_only(Tensor, lambda t: self._wrap(t, ours, operator), found)

    def run_kernel(self, operator: Callable, /, *args: Any, **kwargs: Any) -> Any:
        """Run an operator as one of torch's kernels for the device."""
        return self.run(operator, args, kwargs)

    def _wrap(
        self, numbers: Tensor, ours: dict[int, PretendedTensor], operator: Callable
    ) -> Tensor:
        found = ours.get(id(numbers))  # of an operator that works in place
        if found is None:
            return PretendedTensor(numbers, self)
        if _layout(found) != _layout(numbers):
            raise NotImplementedError(f'{operator} changes the shape of a tensor in place')
        return found

    def _copy(self, target: Tensor, values: Tensor, non_blocking: bool = False) -> Tensor:
        to_device, from_device = (isinstance(t, PretendedTensor) for t in (target, values))
        if to_device and from_device:
            target.numbers.copy_(values.numbers)
        elif to_device:
            self._upload(values, non_blocking)
            target.numbers.copy_(values)
        else:
            self._download(target, values.numbers, non_blocking)
        return target

    def _to_cpu(self, values: PretendedTensor, non_blocking: bool = False, **kwargs: Any) -> Tensor:
        kwargs = {**kwargs, 'device': CPU, 'pin_memory': False}
        found = aten._to_copy.default(values.numbers, **kwargs)
        if non_blocking:  # torch returns pinned memory
            self._pinned.add(found.untyped_storage())
        self._download(found, found.clone() if non_blocking else found, non_blocking)
        return found

    def _refuse_cpu_tensors(self, operator: Callable, args: tuple, leaves: list) -> None:
        """Raise the error of torch for CPU tensors; numbers without dimensions are allowed."""
        allowed: list[Tensor] = []
        indexing = operator.overloadpacket.__name__ in _INDEXING
        if indexing and isinstance(args[0], PretendedTensor):
            allowed = [index for index in args[1] if index is not None]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for tensor in tensors:
            on_cpu = not isinstance(tensor, PretendedTensor)
            if not on_cpu or any(tensor is each for each in allowed):
                continue
            if not tensor.dim():
                self.cpu_operands[_source_line()] += 1
                continue
            raise RuntimeError(
                'Expected all tensors to be on the same device, but found at least two '
                f'devices, cuda:0 and cpu! (in {operator}, at {_source_line()})'
            )

    def _count(self, name: str, args: tuple, kwargs: dict[str, Any]) -> None:
        """Count the synchronisations of an operator that is no copy."""
        if name == '_local_scalar_dense':
            self.synchronise('item')
        elif name in _COUNTING and kwargs.get('output_size') is None:
            self.synchronise(name)
        elif name in _INDEXING and not _fills(name, args):
            for index in filter(lambda index: isinstance(index, Tensor), args[1]):
                if not isinstance(index, PretendedTensor):
                    self._upload(index, non_blocking=False)
                elif index.dtype in (torch.bool, torch.uint8):
                    self.synchronise('mask as index')


def _fills(name: str, args: tuple) -> bool:
    """Whether ``x[mask] = number`` is ``x.masked_fill_(mask, number)``, as in torch."""
    if 'put' not in name or (len(args) > 3 and args[3]):  # accumulates
        return False
    masks = [index for index in args[1] if index is not None]
    values = args[2]
    is_number = values.numel() == 1 and not isinstance(values, PretendedTensor)
    return is_number and len(masks) == 1 and masks[0].dtype in (torch.bool, torch.uint8)


def _compute(operator: Callable, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
    if name in ('_softmax', '_log_softmax') and args[2]:  # half_to_float, only in CUDA's kernels
        return operator(args[0].float(), args[1], False)
    dtype = args[0].dtype if args and isinstance(args[0], Tensor) else None
    if name in _PRODUCTS and dtype in _HALVES:
        args = tree_map_only(Tensor, Tensor.float, args)
        return operator(*args, **kwargs).to(dtype)
    return operator(*args, **kwargs)


def _source_line() -> str:
    """The innermost line outside of torch and this module."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        if path != __file__ and '/torch/' not in path:
            break
        frame = frame.f_back
    return f'{"/".join(Path(frame.f_code.co_filename).parts[-3:])}:{frame.f_lineno}'


# ------------------------------------------------------------------ what torch sees of it


@contextmanager
def pretended_cuda() -> Iterator[PretendedCuda]:
    """Pretend in this block that the machine has one CUDA device; returns the device.

    Afterwards everything is as before, except that torch reports the lack of CUDA with another
    error. Blocks cannot be nested.
    """
    if torch.version.cuda is not None:
        pytest.skip('this PyTorch is built for real CUDA devices, whose operators it would replace')
    device = PretendedCuda()
    kernels = torch.library.Library('aten', 'IMPL')
    others = torch.library.Library('_', 'IMPL', 'CUDA')
    try:
        for name in (*_FACTORIES, 'copy_'):
            packet, _, overload = name.partition('.')
            operator = getattr(getattr(aten, packet), overload or 'default')
            kernels.impl(name, partial(device.run_kernel, operator), 'CUDA')
        others.fallback(device.run_kernel)
        with device_guard(), _functions_of_torch(device), _methods_of_tensors(device):
            yield device
    finally:
        kernels._destroy()
        others._destroy()


@contextmanager
def device_guard() -> Iterator[None]:
    """Install torch's device guard that does nothing, which ``FakeTensorMode`` uses too.

    torch installs it only in place of a guard that counts no devices, and a PyTorch for CPUs has
    none at all. So one is lent to it: an object whose methods all return 0.
    """
    path = Path(torch.__file__).parent / 'lib' / 'libc10.so'
    if not path.exists():
        pytest.skip('the device guards of PyTorch are only known on Linux')
    library = ctypes.CDLL(str(path))
    slots = (ctypes.c_void_p * 2).in_dll(library, '_ZN3c104impl26device_guard_impl_registryE')
    method = ctypes.CFUNCTYPE(ctypes.c_int64)(lambda: 0)
    address = ctypes.cast(method, ctypes.c_void_p).value
    methods = (ctypes.c_void_p * 64)(*[address] * 64)
    guard = ctypes.c_void_p(ctypes.addressof(methods))
    before, slots[1] = slots[1], ctypes.addressof(guard)
    try:
        torch._C._ensureCUDADeviceGuardSet()
        assert slots[1] != ctypes.addressof(guard), 'torch has not replaced the guard'
        yield
    finally:
        slots[1] = before


class _Waiting:
    """A stream or an event: all work is done at once, but the CPU may not know before it waits."""

    device: PretendedCuda  # set in a subclass for each device

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def synchronize(self) -> None:
        self.device.synchronise(f'{type(self).__name__}.synchronize')

    def query(self) -> bool:
        return True

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        """Order of work on the device, which needs no waiting of the CPU."""

    record = wait = wait_stream = wait_event = record_event = _ignore


@contextmanager
def _functions_of_torch(device: PretendedCuda) -> Iterator[None]:
    streams = type('Stream', (_Waiting,), {'device': device})
    stand_ins = {
        '_lazy_init': lambda: None,
        'is_available': lambda: True,
        'is_bf16_supported': lambda *_, **__: True,
        'device_count': lambda: 1,
        'current_device': lambda: 0,
        'set_device': lambda *_: None,
        'device': lambda *_: nullcontext(),
        'get_device_name': lambda *_: 'Pretended CUDA device',
        'get_device_capability': lambda *_: (9, 0),
        'get_device_properties': lambda *_: SimpleNamespace(
            name='Pretended CUDA device', major=9, minor=0, total_memory=2**36
        ),
        'mem_get_info': lambda *_: (2**36, 2**36),
        'empty_cache': lambda: None,
        'synchronize': lambda *_: device.synchronise('torch.cuda.synchronize'),
        'Stream': streams,
        'Event': type('Event', (_Waiting,), {'device': device}),
        'current_stream': lambda *_: streams(),
        'stream': lambda *_: nullcontext(),
    }
    with ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        for name in _PINNED_FACTORIES:
            pinning = _pinning(device, getattr(torch, name))
            stack.enter_context(mock.patch.object(torch, name, pinning))
        yield


def _pinning(device: PretendedCuda, create: Callable) -> Callable:
    def create_pinned(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        tensor = create(*args, **kwargs)
        return device.pin(tensor) if pin_memory else tensor

    return create_pinned


@contextmanager
def _methods_of_tensors(device: PretendedCuda) -> Iterator[None]:
    """Replace methods of all tensors that ask for a GPU's driver, or for memory of a tensor."""
    plain = torch._C.TensorBase

    def set_data(tensor: Tensor, values: Tensor) -> None:
        if not any(isinstance(each, PretendedTensor) for each in (tensor, values)):
            plain.data.__set__(tensor, values)
            return
        values = values.detach()
        if isinstance(tensor, nn.Parameter):
            values = nn.Parameter(values, tensor.requires_grad)
        torch.utils.swap_tensors(tensor, values)

    methods = {
        'data': property(plain.data.__get__, set_data),
        'pin_memory': lambda tensor, *_: device.pin(tensor),
        'is_pinned': lambda tensor, *_: device.is_pinned(tensor),
    }
    for name, method in methods.items():
        setattr(Tensor, name, method)  # shadows that of `plain`
    try:
        yield
    finally:
        for name in methods:
            delattr(Tensor, name)
