"""Batched, exact and safe pose inference for MMPose.

Importing this package registers :class:`BatchPose2DInferencer` with MMPose.
"""

from .compat import provide_torchvision

provide_torchvision()

from .building import build_inferencer  # noqa: E402
from .checkpoint import CheckpointError  # noqa: E402
from .engines import EngineError  # noqa: E402
from .inferencer import BatchPose2DInferencer  # noqa: E402
from .results import ImageResult, InputError  # noqa: E402
from .sources import SourceError  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = [
    'BatchPose2DInferencer',
    'CheckpointError',
    'EngineError',
    'ImageResult',
    'InputError',
    'SourceError',
    '__version__',
    'build_inferencer',
]
