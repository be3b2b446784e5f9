"""Optional packages: those that engines need to run, and those that only building one needs."""

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from ..errors import EngineError
from .base import EngineSpec

# The extra of a package that an engine needs for one precision only.
_EXTRAS = {'nncf': 'int8'}


def require(spec: EngineSpec, precision: str) -> None:
    """Check that what an engine needs is installed, and that what runs it can be imported.

    What only builds an engine is not imported: that takes seconds, and the cache may hold
    what it would build.

    Raises:
        EngineError: It is not, or cannot.
    """
    to_build = (*spec.build_modules, *spec.precision_modules.get(precision, ()))
    for module in (*spec.modules, *to_build):
        try:
            if module not in to_build:
                import_module(module)
            elif find_spec(module) is None:
                raise ImportError(f'No module named {module!r}')
        except ImportError as error:
            extra = _EXTRAS.get(module, spec.extra)
            hint = f": pip install 'mmpose-batch[{extra}]'" if extra else ''
            raise EngineError(
                f'engine: {spec.name} needs {module}, which is not installed{hint} ({error})'
            ) from error


def is_installed(spec: EngineSpec) -> bool:
    """Whether an engine's libraries, or its compiler, are there."""
    return spec.is_available() and all(map(find_spec, (*spec.modules, *spec.build_modules)))


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
