"""Data preprocessors that stack a batch before normalising it, with identical outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures.bbox import BaseBoxes
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import BaseDataElement
from mmpose.models import PoseDataPreprocessor
from torch import Tensor, nn

from .base import InPlaceChange, register
from .samples import copy_sample


class PixelPreprocessor(BaseDataPreprocessor):
    """Stacks a batch of pixels without normalising it, for engines that include normalisation.

    A batch is copied to a GPU at once. Data samples stay on the CPU, unless they contain tensors
    that are not empty: MMPose's and MMDetection's own pipelines add none without annotations.

    Args:
        upstream: The data preprocessor of the model.
        divisor: Divisor of height and width; batches of other sizes are left to ``upstream``.
    """

    def __init__(self, upstream: nn.Module, divisor: int) -> None:
        super().__init__(upstream._non_blocking)
        self.upstream = upstream
        self.divisor = divisor
        self.to(upstream.device)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Stack inputs of one shape, uint8 (3, H, W) each; leave other inputs to upstream.

        Args:
            data: ``inputs`` and ``data_samples`` of each image.
            training: As upstream.

        Returns:
            ``inputs``, uint8 (N, 3, H, W), and ``data_samples``; what upstream returns for
            other inputs.
        """
        inputs = data['inputs']
        height, width = inputs[0].shape[-2:]
        alike = all(each.shape == inputs[0].shape and each.dtype == torch.uint8 for each in inputs)
        if not alike or height % self.divisor or width % self.divisor:
            return self.upstream(data, training)
        pixels = self._stack(inputs)
        samples = [self._own_sample(sample) for sample in data['data_samples']]
        for sample in samples:
            sample.set_metainfo(
                {'batch_input_shape': (height, width), 'pad_shape': (height, width)}
            )
        return {'inputs': pixels, 'data_samples': samples}

    def _stack(self, inputs: Sequence[Tensor]) -> Tensor:
        """Stack inputs of one shape to a batch on the device of the model."""
        if self.device.type != 'cuda' or any(each.device.type != 'cpu' for each in inputs):
            return torch.stack(self.cast_data(list(inputs)))
        # Only from pinned memory can a copy run while the CPU continues. The memory is new for each
        # batch, since PyTorch reuses pinned memory only when the copies from it are complete.
        shape = (len(inputs), *inputs[0].shape)
        pixels = torch.empty(shape, dtype=inputs[0].dtype, pin_memory=True)
        torch.stack(tuple(inputs), out=pixels)
        return pixels.to(self.device, non_blocking=True)

    def _own_sample(self, sample: BaseDataElement) -> BaseDataElement:
        """Copy a data sample; its tensors are on the device of the model, as upstream's are."""
        on_cpu = self.device.type == 'cpu' or not _has_tensors(sample)
        return copy_sample(sample) if on_cpu else self.cast_data(sample)


class StackedPreprocessor(PixelPreprocessor):
    """Stacks a batch before normalising it, with outputs identical to upstream's.

    Upstream normalises each input separately, in tensors too small to be fast, and then copies
    them into a batch.

    Args:
        upstream: The data preprocessor of the model.
    """

    def __init__(self, upstream: nn.Module) -> None:
        super().__init__(upstream, upstream.pad_size_divisor)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Stack and normalise inputs of one shape; leave other inputs to upstream.

        Args:
            data: ``inputs`` and ``data_samples`` of each image.
            training: As upstream.

        Returns:
            ``inputs``, normalised float32 (N, 3, H, W), and ``data_samples``.
        """
        data = super().forward(data, training)
        if data['inputs'].dtype == torch.uint8:
            data['inputs'] = self._normalize(data['inputs'])
        return data

    def _normalize(self, pixels: Tensor) -> Tensor:
        if self.upstream._channel_conversion:
            pixels = pixels.flip(1)
        if not self.upstream._enable_normalize:
            return pixels.float()
        mean, std = self.upstream.mean, self.upstream.std
        return pixels.to(torch.promote_types(torch.float32, mean.dtype)).sub_(mean).div_(std)


def _has_tensors(value: Any) -> bool:
    """Return whether a field is or contains something that is moved to a device and not empty."""
    if isinstance(value, BaseDataElement):
        return any(map(_has_tensors, value.values()))
    if isinstance(value, Tensor | BaseBoxes):
        return value.numel() > 0
    return hasattr(value, 'to')


def is_known_preprocessor(preprocessor: nn.Module | None) -> bool:
    """Return whether a data preprocessor is of upstream's classes that only normalise and pad."""
    return type(preprocessor) in (PoseDataPreprocessor, DetDataPreprocessor)


def _applies(model: nn.Module) -> bool:
    return is_known_preprocessor(getattr(model, 'data_preprocessor', None))


def _apply(model: nn.Module) -> None:
    model.data_preprocessor = StackedPreprocessor(model.data_preprocessor)


STACK_FIRST = register(
    InPlaceChange(name='stack, then normalise', applies=_applies, apply=_apply),
)
