"""One thread per GPU, in which compiled networks run.

``torch.compile`` keeps its CUDA graphs per thread. An engine that many threads call would record
them, and allocate their memory, once in each of these threads.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Compute = Callable[[Tensor], Sequence[Tensor]]

_here = threading.local()
_starting = threading.Lock()
_pools: dict[torch.device, ThreadPoolExecutor] = {}


def run_in_thread_of(device: torch.device, compute: Compute, inputs: Tensor) -> Sequence[Tensor]:
    """Compute a batch in the thread of a GPU; in that thread itself, compute it directly.

    Settings of the caller's thread, such as ``torch.no_grad``, do not apply in the other one.

    Args:
        device: The GPU, with its index.
        compute: Computes the batch.
        inputs: Inputs on the GPU, which the current stream of the caller's thread computes.

    Returns:
        Outputs that the current stream of the caller's thread can use.

    Raises:
        Exception: Any error of ``compute``.
    """
    if getattr(_here, 'device', None) == device:
        return compute(inputs)
    stream = torch.cuda.current_stream(device)
    # The future must have no name here: its error would refer to this frame, and this frame to the
    # error, so that the tensors of a failed batch would be freed late.
    return _pool_of(device).submit(_run, device, stream, compute, inputs).result()


def _pool_of(device: torch.device) -> ThreadPoolExecutor:
    with _starting:
        if device not in _pools:
            _pools[device] = ThreadPoolExecutor(1, f'mmpose_batch-{device}', _enter, (device,))
        return _pools[device]


def _enter(device: torch.device) -> None:
    _here.device = device
    _allow_cuda_graphs()


def _allow_cuda_graphs() -> None:
    """Let this thread record CUDA graphs, which torch before 2.13 allows in one thread only.

    That is the thread which imports this module of PyTorch; in others it raises AssertionError
    (https://github.com/pytorch/pytorch/issues/123177).
    """
    from torch._inductor import cudagraph_trees as trees  # slow to import

    if not hasattr(trees, '_initialize_tls'):
        trees.local.tree_manager_containers = {}
        trees.local.tree_manager_locks = defaultdict(threading.Lock)


def _run(
    device: torch.device, caller: torch.cuda.Stream, compute: Compute, inputs: Tensor
) -> Sequence[Tensor]:
    with torch.cuda.device(device):
        own = torch.cuda.current_stream(device)
        if own == caller:
            return compute(inputs)
        own.wait_stream(caller)
        outputs = compute(inputs)
        caller.wait_stream(own)
        for output in outputs:  # allocated in one stream, used in the other
            output.record_stream(caller)
        return outputs
