"""Rectangular inputs: images padded to the next stride instead of to a square."""

from mmdet.datasets.transforms import Pad
from mmengine.dataset import Compose
from mmpose.datasets.transforms import BottomupResize

# Of the coarsest feature maps of the networks that pad to a square.
STRIDE = 32


class RectangularResize(BottomupResize):
    """Resizes as ``BottomupResize`` to fit, and pads no further than to the next multiple."""

    def _get_input_size(
        self, img_size: tuple[int, int], input_size: tuple[int, int]
    ) -> tuple[tuple[float, float], tuple[int, int]]:
        actual, padded = super()._get_input_size(img_size, input_size)
        if self.resize_mode == 'fit':
            sides = tuple(round(side, 3) for side in actual)  # 480.0000001 is 480
            padded = self._ceil_to_multiple(sides, self.size_factor)
        return actual, padded


def pad_to_stride(pipeline: Compose) -> bool:
    """Have a test pipeline pad to the next stride instead of to one size, in place.

    The network sees less grey and answers a little differently, since it sees
    the grey.

    Args:
        pipeline: Of a one-stage pose model or a detector.

    Returns:
        Whether the pipeline has a step that pads to one size.
    """
    changed = False
    for index, step in enumerate(pipeline.transforms):
        if type(step) is BottomupResize and step.resize_mode == 'fit':
            rectangular = RectangularResize.__new__(RectangularResize)
            rectangular.__dict__.update(step.__dict__)
        elif type(step) is Pad and step.size is not None:
            rectangular = Pad(
                size_divisor=STRIDE, pad_val=step.pad_val, padding_mode=step.padding_mode
            )
        else:
            continue
        pipeline.transforms[index] = rectangular
        changed = True
    return changed
