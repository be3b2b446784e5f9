"""Errors of the whole package, and what an error of another library means."""

import torch

# PyTorch's CPU allocator, ONNX Runtime and CUDA libraries, OpenVINO and other C++.
_OUT_OF_MEMORY = (
    *("can't allocate memory", 'not enough memory', 'out of memory', 'bad_alloc'),
    'failed to allocate memory',
)


class ImageError(ValueError):
    """An input that cannot be used. Its message is one line: what was expected and found."""


class InputError(ValueError):
    """Raised for a bad input with ``on_error='raise'``: names it and what is wrong."""


class SourceError(ValueError):
    """Inputs that name nothing usable."""


class OutputError(RuntimeError):
    """An output folder holds a file that a run would replace and that no run wrote."""


class FolderInUse(RuntimeError):
    """A folder that another process writes to."""


class RunError(RuntimeError):
    """A run that cannot start or go on."""


class TooManyErrors(RunError):
    """A run that ended since more images failed than ``max_errors``."""


class AnnotationError(ValueError):
    """An annotation or box file that cannot be used."""


class CheckpointError(RuntimeError):
    """Weights that cannot be loaded: missing, broken, refused, or of another model."""


class EngineError(RuntimeError):
    """An engine that cannot do what is asked. Its message is one line."""


class OutputsDeviate(EngineError):
    """An engine that runs, and whose outputs deviate too much from PyTorch's in fp32."""


class ExportError(EngineError):
    """A network that cannot be written as ONNX."""


# The device is lost, and every later batch with it. torch before 2.8 has no name for that.
DEVICE_LOST = getattr(torch, 'AcceleratorError', ())
# No fault of one image.
FATAL = (EngineError, DEVICE_LOST) if DEVICE_LOST else (EngineError,)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the GPU or the machine, was too small.

    PyTorch's allocator for CPUs and other libraries have no class of their own for it.
    """
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in text for words in _OUT_OF_MEMORY
    )


def one_line(error: BaseException) -> str:
    """An error as one line that says something even if its text is empty."""
    text = ' '.join(str(error).split())
    if not text:
        return type(error).__name__
    return text if isinstance(error, ValueError) else f'{type(error).__name__}: {text}'
