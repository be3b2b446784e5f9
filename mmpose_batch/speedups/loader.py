"""MMPose's image loader instead of MMCV's: it also takes arrays, so images are decoded once."""

from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose
from mmpose.datasets.transforms import LoadImage

from .base import InPlaceChange, register


def _applies(pipeline: Compose) -> bool:
    steps = getattr(pipeline, 'transforms', ())
    return bool(steps) and type(steps[0]) is LoadImageFromFile


def _apply(pipeline: Compose) -> None:
    loader = LoadImage()
    vars(loader).update(vars(pipeline.transforms[0]))
    pipeline.transforms[0] = loader


ARRAYS_TOO = register(
    InPlaceChange(name='loader takes arrays', applies=_applies, apply=_apply),
)
