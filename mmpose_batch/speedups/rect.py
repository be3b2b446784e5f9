"""Rectangular inputs: images are padded to a multiple of the stride instead of to a square."""

from collections.abc import Iterable

from mmdet.datasets.transforms import Pad
from mmengine.dataset import Compose
from mmpose.datasets.transforms import BottomupResize

from .base import InPlaceChange, apply_changes, register

# Stride in pixels of the coarsest feature maps of networks whose pipelines pad to a square.
STRIDE = 32


class RectangularResize(BottomupResize):
    """Resizes as ``BottomupResize``, but pads only to the next multiple of its size factor."""

    def _get_input_size(
        self, img_size: tuple[int, int], input_size: tuple[int, int]
    ) -> tuple[tuple[float, float], tuple[int, int]]:
        actual, padded = super()._get_input_size(img_size, input_size)
        if self.resize_mode == 'fit':
            sides = tuple(round(side, 3) for side in actual)  # 480.0000001 is 480
            padded = self._ceil_to_multiple(sides, self.size_factor)
        return actual, padded


def pad_to_stride(pipelines: Iterable[Compose]) -> None:
    """Make test pipelines pad to the next multiple of the stride instead of to a square, in place.

    Unlike the speedups, this changes outputs, since the network gets less padding.

    Args:
        pipelines: Test pipelines of a pose model and, if there is one, its detector.

    Raises:
        ValueError: None of the pipelines pads to a fixed size.
    """
    if not any([apply_changes(pipeline, (RECTANGLES,)) for pipeline in pipelines]):
        raise ValueError('rect: has no effect, neither the model nor its detector pads to a square')


def _applies(pipeline: Compose) -> bool:
    return any(map(_is_square, getattr(pipeline, 'transforms', ())))


def _apply(pipeline: Compose) -> None:
    steps = pipeline.transforms
    steps[:] = [_rectangular(step) if _is_square(step) else step for step in steps]


RECTANGLES = register(
    InPlaceChange(name='pad to the next stride', applies=_applies, apply=_apply),
)


def _is_square(step: object) -> bool:
    if type(step) is BottomupResize:
        return step.resize_mode == 'fit'
    return type(step) is Pad and step.size is not None


def _rectangular(step: BottomupResize | Pad) -> RectangularResize | Pad:
    if isinstance(step, Pad):
        return Pad(size_divisor=STRIDE, pad_val=step.pad_val, padding_mode=step.padding_mode)
    rectangular = RectangularResize.__new__(RectangularResize)
    vars(rectangular).update(vars(step))
    return rectangular
