"""What engines need to be installed, and what only building one needs."""

import os
from importlib import import_module
from importlib.util import find_spec
from shutil import which
from types import ModuleType

from . import EngineError

# What must be there to run a network, and to export it.
_MODULES = {
    'torch': (),
    'openvino': ('openvino', 'onnx'),
    'onnxruntime': ('onnxruntime', 'onnx'),
    'torch-compile': (),
}
# Slow to import, and not needed where the cache holds what they would build.
_TO_BUILD = ('onnx', 'nncf')


def require(engine: str, precision: str) -> None:
    """See that what an engine needs is installed, and that what runs it can be imported.

    Raises:
        EngineError: It is not, or cannot.
    """
    nncf = ['nncf'] if (engine, precision) == ('openvino', 'int8') else []
    for module in (*_MODULES[engine], *nncf):
        try:
            if module not in _TO_BUILD:
                import_module(module)
            elif find_spec(module) is None:
                raise ImportError(f'No module named {module!r}')
        except ImportError as error:
            extra = 'int8' if module == 'nncf' else engine
            raise EngineError(
                f'engine: {engine} needs {module}, which is not installed: '
                f"pip install 'mmpose-batch[{extra}]' ({error})"
            ) from error


def is_installed(name: str) -> bool:
    """Whether an engine's libraries, or its compiler, are there."""
    compiler = name != 'torch-compile' or any(map(which, (os.environ.get('CXX', 'g++'), 'clang++')))
    return compiler and all(find_spec(module) for module in _MODULES[name])


def import_onnx() -> ModuleType:
    """Import what reads and writes ONNX files.

    Raises:
        EngineError: It cannot be imported.
    """
    return _import_to_build('onnx', 'onnxruntime')


def import_nncf() -> ModuleType:
    """Import NNCF, and keep it from reporting to its makers that it is used, and how.

    It does not where it takes the machine for one of its own tests.

    Raises:
        EngineError: It cannot be imported.
    """
    os.environ.setdefault('NNCF_CI', '1')
    return _import_to_build('nncf', 'int8')


def _import_to_build(module: str, extra: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise EngineError(
            f'engine: {module}, which its files need, cannot be imported: {error}; '
            f"pip install 'mmpose-batch[{extra}]'"
        ) from error
