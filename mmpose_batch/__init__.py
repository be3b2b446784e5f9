"""Batched, exact and safe pose inference for MMPose.

Importing this package registers :class:`BatchPose2DInferencer` with MMPose, right after MMPose's
own inferencers, whichever is imported first. PyTorch and MMPose are imported when a name below
needs them.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from wrapt import register_post_import_hook

from .version import __version__

if TYPE_CHECKING:
    from .errors import CheckpointError, EngineError, InputError, SourceError
    from .factory import InferencerSpec, build_inferencer
    from .inferencer import BatchPose2DInferencer
    from .results import ImageResult

__all__ = [
    'BatchPose2DInferencer',
    'CheckpointError',
    'EngineError',
    'ImageResult',
    'InferencerSpec',
    'InputError',
    'SourceError',
    '__version__',
    'build_inferencer',
]

_MODULES = {
    'BatchPose2DInferencer': 'inferencer',
    'CheckpointError': 'errors',
    'EngineError': 'errors',
    'ImageResult': 'results',
    'InferencerSpec': 'factory',
    'InputError': 'errors',
    'SourceError': 'errors',
    'build_inferencer': 'factory',
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        if not name.startswith('_') and find_spec(f'{__name__}.{name}') is not None:
            return import_module(f'.{name}', __name__)  # mmpose_batch.sources, say
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(import_module(f'.{_MODULES[name]}', __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _provide_torchvision(mmpose: ModuleType) -> None:
    from .models.compat import provide_torchvision

    provide_torchvision()


def _register(inferencers: ModuleType) -> None:
    import_module('.inferencer', __name__)


# Before MMPose's visualisers, which import torchvision.
register_post_import_hook(_provide_torchvision, 'mmpose')
# Looking up any inferencer in MMPose's registry imports this module of it.
register_post_import_hook(_register, 'mmpose.apis.inferencers')
