"""Exceptions of this package, and classification of exceptions of other libraries."""

import torch

# Messages of PyTorch's CPU allocator, ONNX Runtime, CUDA libraries, OpenVINO and other C++ code.
_OUT_OF_MEMORY = (
    *("can't allocate memory", 'not enough memory', 'out of memory', 'bad_alloc'),
    'failed to allocate memory',
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


# The device is lost, so every later batch fails too. torch before 2.8 has no class for that.
DEVICE_LOST = getattr(torch, 'AcceleratorError', ())
# Errors that do not concern a single image.
FATAL = (EngineError, DEVICE_LOST) if DEVICE_LOST else (EngineError,)


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
