"""Folding layers that compute the same as one convolution into that convolution."""

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Any

from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import Conv2dAdaptivePadding, Swish, wrappers
from mmdet.models.task_modules import MlvlPointGenerator
from mmpose.models.utils import RepVGGBlock, SinePositionalEncoding
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval

# Images of ever new sizes must not fill the memory with position codes and priors.
KEPT_SIZES = 16

# Convolutions that use their weights as they are; others standardise them first.
_PLAIN_CONVOLUTIONS = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    wrappers.Conv2d,
    wrappers.ConvTranspose2d,
    Conv2dAdaptivePadding,
)

# Modules whose forward is known to call conv1, norm1, conv2, norm2, ... in pairs.
_NUMBERED_PAIRS = {
    f'{package}.models.backbones.{name}'
    for package in ('mmpose', 'mmdet')
    for name in (
        'resnet.ResNet',
        'resnet.ResNetV1d',
        'resnet.BasicBlock',
        'resnet.Bottleneck',
        'hrnet.HRNet',
    )
}


def fuse_layers(model: nn.Module) -> None:
    """Fold RepVGG branches, batch norms and Swish into fewer passes, in place.

    Position codes and priors are computed once for each size.

    Exact up to rounding: in eval mode a batch norm is a fixed scale and shift
    of each channel. Only pairs whose order is fixed by their module's type are
    folded; mmcv's ``fuse_conv_bn`` goes by registration order instead, and
    folds the convolutions that RTMDet's heads share once for every level.

    Args:
        model: In eval mode.
    """
    for module in list(model.modules()):
        if isinstance(module, RepVGGBlock):
            module.switch_to_deploy()
        elif isinstance(module, SinePositionalEncoding):
            _keep_position_codes(module)
        elif isinstance(getattr(module, 'prior_generator', None), MlvlPointGenerator):
            _keep_priors(module.prior_generator)
    for module in list(model.modules()):
        _replace_swish(module)
        if isinstance(module, ConvModule):
            _fuse_conv_module(module)
        elif type(module) is nn.Sequential:
            names = list(module._modules)
            for first, second in pairwise(names):
                _fuse_pair(module, first, second)
        elif f'{type(module).__module__}.{type(module).__name__}' in _NUMBERED_PAIRS:
            for i in (1, 2, 3):
                _fuse_pair(module, f'conv{i}', getattr(module, f'norm{i}_name', ''))


def _fuse_conv_module(module: ConvModule) -> None:
    order = ''.join(name[0] for name in module.order)  # conv, norm, act -> 'cna'
    if module.with_norm and 'cn' in order and not module.with_spectral_norm:
        _fuse_pair(module, 'conv', module.norm_name)


def _fuse_pair(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    conv = getattr(parent, conv_name, None)
    norm = getattr(parent, norm_name, None) if norm_name else None
    if not isinstance(norm, _BatchNorm) or norm.training or norm.running_var is None:
        return
    if type(conv) not in _PLAIN_CONVOLUTIONS:
        return
    transposed = isinstance(conv, nn.ConvTranspose2d)
    if transposed and conv.groups != 1:  # torch folds these along the wrong axis
        return
    # The fused convolution is a copy, so one that is shared stays as it was.
    setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm, transpose=transposed))
    setattr(parent, norm_name, nn.Identity())


def _replace_swish(parent: nn.Module) -> None:
    """Compute ``x * sigmoid(x)`` in one pass; mmcv's Swish takes two and keeps both results."""
    for name, child in parent.named_children():
        if type(child) is Swish:
            setattr(parent, name, nn.SiLU())


def _keep_position_codes(module: SinePositionalEncoding) -> None:
    """Store position codes at the first use of a size, where the module looks for them.

    ``generate_pos_encoding`` returns an attribute ``pos_enc_{size}`` if there is
    one; upstream fills it only for a size named in the config.
    """
    sizes: set[str] = set()

    def keep(module: SinePositionalEncoding, args: tuple, kwargs: dict, codes: Tensor) -> None:
        size = kwargs.get('size', args[0] if args else None)
        name = f'pos_enc_{size}'
        if size is not None and len(sizes) < KEPT_SIZES and not hasattr(module, name):
            sizes.add(name)
            module.register_buffer(name, codes, persistent=False)

    if not module.learnable:
        module.register_forward_hook(keep, with_kwargs=True)


def _keep_priors(generator: Any) -> None:
    """Compute a head's grid of priors once for each size of its feature maps."""
    compute = generator.grid_priors
    kept: dict[Hashable, list[Tensor]] = {}

    def grid_priors(featmap_sizes: Sequence[Sequence[int]], *args: Any, **kwargs: Any) -> list:
        key = (tuple(map(tuple, featmap_sizes)), args, tuple(sorted(kwargs.items())))
        priors = kept.get(key)
        if priors is None:
            priors = compute(featmap_sizes, *args, **kwargs)
            if len(kept) < KEPT_SIZES:
                kept[key] = priors
        return list(priors)

    generator.grid_priors = grid_priors
