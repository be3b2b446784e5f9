"""Classification of errors: lack of memory, a lost device, and errors of single images."""

import pytest
import torch

from mmpose_batch.distributed import worker
from mmpose_batch.errors import EngineError, is_device_lost, is_fatal, is_out_of_memory

NO_MEMORY, LOST, FATAL, OTHER = 'no memory', 'device lost', 'fatal', 'other'


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (MemoryError(), NO_MEMORY),
        (torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB'), NO_MEMORY),
        (torch.AcceleratorError('CUDA error: out of memory\nCUDA kernel errors might'), NO_MEMORY),
        (RuntimeError('CUDA driver error: out of memory'), NO_MEMORY),
        (
            RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(h)`'),
            NO_MEMORY,
        ),
        (
            RuntimeError('CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`'),
            NO_MEMORY,
        ),
        (RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'), NO_MEMORY),
        (
            RuntimeError('cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED'),
            NO_MEMORY,
        ),
        (
            RuntimeError('GET was unable to find an engine to execute this computation'),
            NO_MEMORY,
        ),
        (torch.AcceleratorError('CUDA error: an illegal memory access was encountered'), LOST),
        (torch.AcceleratorError('CUDA error: unspecified launch failure'), LOST),
        (torch.AcceleratorError('CUDA error: device-side assert triggered'), LOST),
        (EngineError('engine: openvino cannot run this model'), FATAL),
        (RuntimeError('CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `g`'), OTHER),
        (ValueError('expected numbers as outputs of the network, found NaN'), OTHER),
    ],
    ids=lambda value: str(value)[:60],
)
def test_errors_of_memory_are_not_errors_of_the_device(error, expected):
    assert is_out_of_memory(error) == (expected == NO_MEMORY)
    assert is_device_lost(error) == (expected == LOST)
    assert is_fatal(error) == (expected in (LOST, FATAL))


class Failing:
    """A worker that raises an error for every chunk."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def infer(self, chunk: object) -> None:
        raise self.error

    survives = infer


class Ended(BaseException):
    """The process would have ended."""


@pytest.mark.parametrize('function', [worker.infer, worker.survives])
@pytest.mark.parametrize(
    ('text', 'ends'), [('CUDA error: out of memory', False), ('CUDA error: unknown error', True)]
)
def test_a_worker_process_ends_only_if_its_device_is_lost(monkeypatch, function, text, ends):
    def exit_(status: int) -> None:
        raise Ended(status)

    error = torch.AcceleratorError(text)
    monkeypatch.setattr(worker, '_worker', Failing(error), raising=False)
    monkeypatch.setattr(worker.os, '_exit', exit_)
    with pytest.raises(Ended if ends else torch.AcceleratorError) as found:
        function(None)
    assert found.value.args == ((worker.DEVICE_IS_LOST,) if ends else (text,))
