"""Eager PyTorch with fused layers, channels_last and autocast."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..speedups.base import InPlaceChange, apply_changes
from ..speedups.casts import CAST_ONCE
from ..speedups.registry import MODEL
from .base import Engine, EngineOptions, EngineSpec
from .network import Network, Normalization
from .registry import register
from .wrapping import COMPUTE_IN, NetworkCall, to_fast_layout

if TYPE_CHECKING:
    from .builder import NetworkSource


def prepare_model(model: nn.Module, precision: str) -> None:
    """Prepare an MMPose or MMDetection model in eval mode for fast batches, in place.

    All speedups for models are applied. The network runs in the given precision, decoding stays
    in fp32. Since layers are fused, the names in the state dict differ from those of a new model.

    Args:
        model: A pose estimator, or a detector with ``extract_feat``.
        precision: ``'fp32'``, ``'fp16'`` or ``'bf16'``, see
            :func:`mmpose_batch.engines.registry.resolve_precision`.
    """
    apply_changes(model, (*MODEL, *_casts(precision), COMPUTE_IN[precision]))


class TorchEngine(Engine):
    """Runs a network in eager PyTorch.

    Args:
        network: Network, on its final device; changed in place to channels_last if that is
            faster. Below fp32, its layers get copies of their weights in low precision, half the
            memory of the weights; outside this engine they compute with their weights.
        normalization: Normalization of its inputs.
        precision: As for :func:`prepare_model`.
    """

    def __init__(self, network: Network, normalization: Normalization, precision: str) -> None:
        self._normalization = normalization
        self._device = next(network.parameters()).device
        channels_last = to_fast_layout(network, precision)
        apply_changes(network, _casts(precision))
        self._run = NetworkCall(network, self._device, precision, channels_last)

    @property
    def description(self) -> str:
        """PyTorch's version and device."""
        return f'PyTorch {torch.__version__} on {self._device}'

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Compute one batch; see :class:`mmpose_batch.engines.base.Engine`."""
        if inputs.dtype == torch.uint8:
            inputs = self._normalization(inputs)
        return [output.contiguous() for output in self._run(inputs)]


def _casts(precision: str) -> tuple[InPlaceChange, ...]:
    return () if precision == 'fp32' else (CAST_ONCE,)


def _build(source: 'NetworkSource', options: EngineOptions) -> TorchEngine:
    return TorchEngine(source.network, source.normalization, options.precision)


register(
    EngineSpec(
        name='torch',
        build=_build,
        precisions=('fp32', 'fp16', 'bf16'),
    )
)
