"""Exceptions of this package, and classification of exceptions of other libraries."""

import torch

# Parts of messages of PyTorch's CPU allocator, ONNX Runtime, CUDA libraries, OpenVINO and other C++
# code, in lower case.
_OUT_OF_MEMORY = (
    *("can't allocate memory", 'not enough memory', 'out of memory', 'bad_alloc'),
    'failed to allocate memory',
    # CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED, CUFFT_ALLOC_FAILED, and cuDNN 9's
    # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED and ..._HOST_ALLOCATION_FAILED.
    *('alloc_failed', 'allocation_failed'),
    # cuBLAS allocates its workspace when a thread first uses it, and has only this code for a
    # failure then.
    'cublas_status_not_initialized',
    # PyTorch has tried all of cuDNN's algorithms, and skips those whose workspace does not fit.
    'unable to find an engine to execute this computation',
)

# Start of the error of a file whose reading ends the process: nothing may read it again.
READER_DIES = 'the process that reads it dies'


class ImageError(ValueError):
    """An input cannot be used. The message is one line: what was expected and what was found."""


class InputError(ValueError):
    """A bad input, raised if ``on_error='raise'``. The message names it and what is wrong."""


class SourceError(ValueError):
    """Inputs cannot be opened, or contain no images."""


class OutputError(RuntimeError):
    """An output folder cannot be used, or contains a file that a run would wrongly replace."""


class FolderInUse(RuntimeError):
    """Another process writes to the folder."""


class RunError(RuntimeError):
    """A run cannot start, continue or be resumed."""


class TooManyErrors(RunError):
    """A run ended because more images failed than ``max_errors``."""


class TrackingError(RunError):
    """Persons cannot be tracked, since a package is missing. The message is one line."""


class AnnotationError(ValueError):
    """An annotation or box file cannot be used."""


class CheckpointError(RuntimeError):
    """Weights cannot be loaded: they are missing, damaged, rejected, or of another model."""


class EngineError(RuntimeError):
    """An engine does not support what is requested. The message is one line."""


class OutputsDeviate(EngineError):
    """The outputs of an engine deviate from PyTorch's in fp32 beyond tolerance."""


class ExportError(EngineError):
    """A network cannot be exported to ONNX."""


# CUDA's errors outside of PyTorch's allocator. torch before 2.8 has no class for them.
_ACCELERATOR_ERROR = getattr(torch, 'AcceleratorError', ())


def is_device_lost(error: BaseException) -> bool:
    """Whether a GPU cannot be used any more, so that every later batch would fail too.

    CUDA reports a lack of memory by the same class, but a smaller batch may run after it.
    """
    return isinstance(error, _ACCELERATOR_ERROR) and not is_out_of_memory(error)


def is_fatal(error: BaseException) -> bool:
    """Whether an error ends the run, since it does not concern single images."""
    return isinstance(error, EngineError) or is_device_lost(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory, of the GPU or the machine, was too small.

    PyTorch's CPU allocator and other libraries have no exception class for it.
    """
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in text for words in _OUT_OF_MEMORY
    )


def one_line(error: BaseException) -> str:
    """An error as one line, which is not empty even if its message is."""
    text = ' '.join(str(error).split())
    if not text:
        return type(error).__name__
    return text if isinstance(error, ValueError) else f'{type(error).__name__}: {text}'
