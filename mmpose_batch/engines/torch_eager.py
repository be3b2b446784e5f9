"""Eager PyTorch, with what is exact and free: channels_last, fused layers, autocast."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d
from torch import Tensor, nn

from ..speedups.fusion import fuse_layers
from .base import Engine, EngineOptions, EngineSpec
from .network import Network, Normalization, StackedPreprocessor, is_known_preprocessor
from .registry import register

if TYPE_CHECKING:
    from .builder import NetworkSource

_DTYPES = {'fp16': torch.float16, 'bf16': torch.bfloat16}


def prepare_model(model: nn.Module, precision: str) -> None:
    """Make an MMPose or MMDetection model in eval mode ready for fast batches, in place.

    Batch norms and RepVGG branches are folded into their convolutions, a batch is
    normalised as a whole, weights and inputs become channels_last where that
    helps, and a lower precision is wrapped around the network alone:
    ``extract_feat`` and ``head.forward`` compute under autocast and hand out fp32,
    so all decoding stays in fp32. What the head hands out is contiguous again,
    since decoding takes views of it.

    Only this instance changes, no class does. Its state dict is no longer that
    of its config.

    Args:
        model: Any pose estimator, or a detector with ``extract_feat``.
        precision: ``'fp32'``, ``'fp16'`` or ``'bf16'``, see
            :func:`mmpose_batch.engines.registry.resolve_precision`.
    """
    fuse_layers(model)
    if is_known_preprocessor(getattr(model, 'data_preprocessor', None)):
        model.data_preprocessor = StackedPreprocessor(model.data_preprocessor)
    device = next(model.parameters()).device
    channels_last = _likes_channels_last(model, device, precision)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if hasattr(model, 'extract_feat'):
        model.extract_feat = _network_call(model.extract_feat, device, precision, channels_last)
    for name in ('head', 'bbox_head'):
        head = getattr(model, name, None)
        if head is not None:
            forward = _network_call(head.forward, device, precision, channels_last=False)
            head.forward = _contiguous_call(forward) if channels_last else forward


class TorchEngine(Engine):
    """Eager PyTorch, as fast as a model whose network is not replaced.

    Args:
        network: On its device; changed in place to channels_last where that helps.
        normalization: Of its inputs.
        precision: As for :func:`prepare_model`.
    """

    def __init__(self, network: Network, normalization: Normalization, precision: str) -> None:
        self._normalization = normalization
        self._device = next(network.parameters()).device
        channels_last = _likes_channels_last(network, self._device, precision)
        if channels_last:
            network.to(memory_format=torch.channels_last)
        self._run = _network_call(network, self._device, precision, channels_last)

    @property
    def description(self) -> str:
        """Version and device."""
        return f'PyTorch {torch.__version__} on {self._device}'

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Compute one batch; see :class:`mmpose_batch.engines.base.Engine`."""
        if inputs.dtype == torch.uint8:
            inputs = self._normalization(inputs)
        return [output.contiguous() for output in self._run(inputs)]


def _likes_channels_last(model: nn.Module, device: torch.device, precision: str) -> bool:
    # On CUDA, tensor cores of half precision want channels_last; fp32 does not gain.
    # Deformable convolutions of mmcv refuse it.
    return (device.type == 'cpu' or precision != 'fp32') and not any(
        isinstance(module, DeformConv2d | ModulatedDeformConv2d) for module in model.modules()
    )


def _network_call(
    function: Callable, device: torch.device, precision: str, channels_last: bool
) -> Callable:
    """Wrap one call of the network in autocast and memory format."""
    dtype = _DTYPES.get(precision)

    def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if channels_last and isinstance(inputs, torch.Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if dtype is None:
            return function(inputs, *args, **kwargs)
        with torch.autocast(device.type, dtype=dtype):
            outputs = function(inputs, *args, **kwargs)
        return _to_fp32(outputs)

    return call


def _contiguous_call(function: Callable) -> Callable:
    """Wrap a head so that its outputs are laid out as upstream's."""
    return lambda *args, **kwargs: map_tensors(torch.Tensor.contiguous, function(*args, **kwargs))


def _to_fp32(outputs: Any) -> Any:
    return map_tensors(
        lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, outputs
    )


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], outputs: Any) -> Any:
    """Apply a function to every tensor in nested lists, tuples and dicts."""
    if isinstance(outputs, torch.Tensor):
        return function(outputs)
    if isinstance(outputs, list | tuple):
        return type(outputs)(map_tensors(function, item) for item in outputs)
    if isinstance(outputs, dict):
        return {key: map_tensors(function, value) for key, value in outputs.items()}
    return outputs


def _build(source: 'NetworkSource', options: EngineOptions) -> TorchEngine:
    return TorchEngine(source.network, source.normalization, options.precision)


register(
    EngineSpec(
        name='torch',
        build=_build,
        precisions=('fp32', 'fp16', 'bf16'),
    )
)
