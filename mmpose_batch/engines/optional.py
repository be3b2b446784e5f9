"""Optional packages: those that engines need to run, and those needed only to build engines."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from ..errors import EngineError
from .base import EngineSpec

# Extras of this distribution for packages that an engine needs for one precision only.
_EXTRAS = {'nncf': 'int8'}


def require(spec: EngineSpec, precision: str) -> None:
    """Check that the packages of an engine are installed, and import those that it needs to run.

    Packages that only build an engine are not imported, since that takes seconds and the cache
    may hold the built engine.

    Args:
        spec: The engine.
        precision: Requested precision.

    Raises:
        EngineError: A package is not installed, or cannot be imported.
    """
    to_build = (*spec.build_modules, *spec.precision_modules.get(precision, ()))
    for module in (*spec.modules, *to_build):
        try:
            if module not in to_build:
                with without_telemetry():
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
    """Return whether the packages and other requirements of an engine, as a compiler, are met."""
    return spec.is_available() and all(map(find_spec, (*spec.modules, *spec.build_modules)))


def import_onnx() -> ModuleType:
    """Import the package ``onnx``, which reads and writes ONNX files.

    Raises:
        EngineError: The package cannot be imported.
    """
    return _import_to_build('onnx', 'onnxruntime')


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Import packages in this block without that they send usage statistics.

    OpenVINO sends them when it is imported, from a process that it forks in a thread. It sends none
    if the environment variable ``CI`` marks the machine as one that runs tests, as it does here.
    """
    before = os.environ.get('CI')
    os.environ['CI'] = 'true'
    try:
        yield
    finally:
        if before is None:
            del os.environ['CI']
        else:
            os.environ['CI'] = before


def import_nncf() -> ModuleType:
    """Import NNCF with its telemetry switched off.

    NNCF sends no telemetry if the environment variable ``NNCF_CI`` marks the machine as one
    that runs NNCF's own tests.

    Raises:
        EngineError: The package cannot be imported.
    """
    os.environ.setdefault('NNCF_CI', '1')
    return _import_to_build('nncf', 'int8')


def _import_to_build(module: str, extra: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise EngineError(
            f'engine: {module}, which is needed to build engines, cannot be imported: {error}; '
            f"pip install 'mmpose-batch[{extra}]'"
        ) from error
