"""Weights in low precision that are cast once, instead of by autocast in every batch."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmcv.cnn.bricks import Conv2dAdaptivePadding, wrappers
from torch import Tensor, nn

from .base import InPlaceChange, apply_changes, register

# Layers whose forward uses its weights only in functions that autocast computes in low precision.
_LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(wrappers.Conv2d, wrappers.Conv3d, wrappers.ConvTranspose2d, wrappers.ConvTranspose3d),
    *(wrappers.Linear, Conv2dAdaptivePadding),
)


class CastLayer:
    """The ``forward`` of one layer, which under autocast uses weights that are cast only once.

    Autocast casts the weights of every layer in every batch: 166 of the 404 operators of RTMO-s.
    The outputs are identical to those of autocast. The parameters of the layer itself do not
    change; outside autocast, or with gradients, it computes with them. The copies in low precision
    take half the memory of the weights.

    Several threads may call it concurrently, all on the same CUDA stream, which PyTorch's threads
    use by default.

    Args:
        layer: A layer on its final device.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._device_type = next(layer.parameters()).device.type
        # Replaced as one object, so that no thread finds parts of two.
        self._cast: _Cast | None = None
        self._compiled: _Cast | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute as the ``forward`` of the layer's class does."""
        layer = self._layer
        if torch.is_autocast_enabled(self._device_type) and not torch.is_grad_enabled():
            layer = self._in(torch.get_autocast_dtype(self._device_type))
        return type(layer).forward(layer, *args, **kwargs)

    def prepare(self, dtype: torch.dtype) -> None:
        """Cast the weights now rather than in the first batch, for a compiler.

        Compiled code uses these weights even if the parameters change later. They are separate
        from those of later batches, since code is compiled again when objects that it uses change.
        """
        self._in(dtype)
        self._compiled = self._cast

    def _in(self, dtype: torch.dtype) -> nn.Module:
        if torch.compiler.is_compiling():
            cast = self._compiled
            return cast.layer if cast is not None and cast.dtype == dtype else self._layer
        cast = self._cast
        if cast is None or cast.dtype != dtype or not cast.is_current():
            cast = self._cast = _Cast(self._layer, dtype)
        return cast.layer


class _Cast:
    """A layer with weights in low precision, and the parameters that they were cast from."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._sources = [
            (module._parameters, name, parameter, parameter.data_ptr(), _version(parameter))
            for module in layer.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self.layer = _in_dtype(layer, dtype)

    def is_current(self) -> bool:
        """Return whether the parameters have not been replaced, moved or changed since."""
        return all(
            found.get(name) is source
            and source.data_ptr() == address
            and _version(source) == version
            for found, name, source, address, version in self._sources
        )


def _version(parameter: Tensor) -> int:
    """Number of changes in place, which PyTorch does not count in inference mode."""
    return 0 if parameter.is_inference() else parameter._version


@torch.no_grad()
def _in_dtype(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Make a shallow copy of a layer whose parameters are cast, in the same memory format."""
    own = copy.copy(layer)
    vars(own).pop('forward', None)
    own._parameters = {
        # As autocast, which does not cast double precision.
        name: source if source is None or source.dtype == torch.float64 else _cast(source, dtype)
        for name, source in layer._parameters.items()
    }
    own._modules = {name: _in_dtype(part, dtype) for name, part in layer._modules.items()}
    return own


def _cast(parameter: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(parameter.to(dtype), requires_grad=False)


def _cast_in_autocast(module: nn.Module) -> bool:
    if type(module) is nn.MultiheadAttention:
        # On a CPU its choice of an algorithm depends on the type of its weights. A bias of keys
        # and values is not cast by autocast.
        on_cuda = module.out_proj.weight.is_cuda
        return on_cuda and module.bias_k is None and module.bias_v is None
    plain = type(module) in _LAYERS and not module._modules
    return plain and module._parameters.get('weight') is not None


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Layers that compute under autocast with parameters that only they themselves change."""
    for module in model.modules():
        if 'forward' not in vars(module) and _cast_in_autocast(module):
            yield module


def _applies(model: nn.Module) -> bool:
    return isinstance(model, nn.Module) and next(_layers(model), None) is not None


def _apply(model: nn.Module) -> None:
    for layer in list(_layers(model)):
        layer.forward = CastLayer(layer)


CAST_ONCE = register(
    InPlaceChange(name='cast weights once', applies=_applies, apply=_apply),
)


def cast_now(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights of a model at once, before it is compiled for autocast.

    Args:
        model: A model on its final device, in its final memory format.
        dtype: Type of the weights, ``torch.float16`` or ``torch.bfloat16``.
    """
    apply_changes(model, (CAST_ONCE,))
    for module in model.modules():
        forward = vars(module).get('forward')
        if isinstance(forward, CastLayer):
            forward.prepare(dtype)
