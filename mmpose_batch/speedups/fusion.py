"""Fewer and cheaper layers with equal outputs: folded batch norms, cached codes and priors."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import Conv2dAdaptivePadding, Swish, wrappers
from mmdet.models.task_modules import MlvlPointGenerator
from mmpose.models.utils import RepVGGBlock, SinePositionalEncoding
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval

from .base import InPlaceChange, apply_changes, register

# Number of input sizes for which position codes and priors are cached. The limit bounds the memory
# of runs with many input sizes.
CACHED_SIZES = 16

# Convolutions that use their weights unchanged; others, for instance, standardise them first.
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
    """Apply all :data:`FUSIONS` to a model in eval mode, in place."""
    apply_changes(model, FUSIONS)


def _change(
    name: str,
    find: Callable[[nn.Module], Iterator[tuple]],
    apply: Callable[..., object],
) -> InPlaceChange:
    """Register a change that applies ``apply`` to everything that ``find`` yields for a model."""

    def applies(model: nn.Module) -> bool:
        return isinstance(model, nn.Module) and next(find(model), None) is not None

    def apply_all(model: nn.Module) -> None:
        for place in list(find(model)):
            apply(*place)

    return register(InPlaceChange(name=name, applies=applies, apply=apply_all))


# ------------------------------------------------------------------- RepVGG, norms and Swish


def _rep_vgg_blocks(model: nn.Module) -> Iterator[tuple[RepVGGBlock]]:
    for module in model.modules():
        if isinstance(module, RepVGGBlock) and not getattr(module, 'deploy', False):
            yield (module,)


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Parents with the names of a convolution and the batch norm that follows it.

    Only pairs whose order is fixed by the type of their parent are yielded. mmcv's
    ``fuse_conv_bn`` relies on the order of registration instead, and folds the convolutions that
    RTMDet's heads share once for every level.
    """
    for module in model.modules():
        names = []
        if isinstance(module, ConvModule):
            order = ''.join(name[0] for name in module.order)  # conv, norm, act -> 'cna'
            if module.with_norm and 'cn' in order and not module.with_spectral_norm:
                names = [('conv', module.norm_name)]
        elif type(module) is nn.Sequential:
            names = pairwise(module._modules)
        elif f'{type(module).__module__}.{type(module).__name__}' in _NUMBERED_PAIRS:
            names = [(f'conv{i}', getattr(module, f'norm{i}_name', '')) for i in (1, 2, 3)]
        for conv, norm in names:
            if norm and _can_fold(getattr(module, conv, None), getattr(module, norm, None)):
                yield module, conv, norm


def _can_fold(conv: nn.Module | None, norm: nn.Module | None) -> bool:
    if not isinstance(norm, _BatchNorm) or norm.training or norm.running_var is None:
        return False
    if type(conv) not in _PLAIN_CONVOLUTIONS:
        return False
    # torch folds grouped transposed convolutions along the wrong axis.
    return not isinstance(conv, nn.ConvTranspose2d) or conv.groups == 1


def _fold(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    """Fold a batch norm, which in eval mode is a fixed scale and shift of each channel."""
    conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
    transposed = isinstance(conv, nn.ConvTranspose2d)
    # The fused convolution is a copy, so that a shared convolution does not change.
    setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm, transpose=transposed))
    setattr(parent, norm_name, nn.Identity())


def _swishes(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is Swish:
                yield parent, name


def _replace_swish(parent: nn.Module, name: str) -> None:
    """Replace mmcv's Swish, which runs two operations and allocates two outputs, by SiLU."""
    setattr(parent, name, nn.SiLU())


# ------------------------------------------------------------------ position codes and priors


class _CodeCache:
    """A forward hook that stores position codes in the attribute that the module reads.

    ``generate_pos_encoding`` returns the attribute ``pos_enc_{size}`` if it exists. Upstream sets
    it only for a size that the config names.

    A function that is being compiled reads the attribute, but does not set it: the new buffer would
    make PyTorch compile the function again at its next call, and in a CUDA graph its memory belongs
    to the graph, which overwrites it.
    """

    def __init__(self) -> None:
        self._sizes: set[str] = set()

    def __call__(
        self, module: SinePositionalEncoding, args: tuple, kwargs: dict, codes: Tensor
    ) -> None:
        if torch.compiler.is_compiling():
            return
        size = kwargs.get('size', args[0] if args else None)
        name = f'pos_enc_{size}'
        if size is not None and len(self._sizes) < CACHED_SIZES and not hasattr(module, name):
            self._sizes.add(name)
            module.register_buffer(name, codes, persistent=False)


def _position_codes(model: nn.Module) -> Iterator[tuple[SinePositionalEncoding]]:
    for module in model.modules():
        if isinstance(module, SinePositionalEncoding) and not module.learnable:
            hooks = module._forward_hooks.values()
            if not any(isinstance(hook, _CodeCache) for hook in hooks):
                yield (module,)


def _cache_position_codes(module: SinePositionalEncoding) -> None:
    module.register_forward_hook(_CodeCache(), with_kwargs=True)


def _prior_generators(model: nn.Module) -> Iterator[tuple[MlvlPointGenerator]]:
    for module in model.modules():
        generator = getattr(module, 'prior_generator', None)
        if isinstance(generator, MlvlPointGenerator) and 'grid_priors' not in vars(generator):
            yield (generator,)


def _cache_priors(generator: MlvlPointGenerator) -> None:
    """Cache a head's grid of priors for each size of its feature maps."""
    compute = generator.grid_priors
    cached: dict[Hashable, list[Tensor]] = {}

    def grid_priors(featmap_sizes: Sequence[Sequence[int]], *args: Any, **kwargs: Any) -> list:
        key = (tuple(map(tuple, featmap_sizes)), args, tuple(sorted(kwargs.items())))
        priors = cached.get(key)
        if priors is None:
            priors = compute(featmap_sizes, *args, **kwargs)
            if len(cached) < CACHED_SIZES:
                cached[key] = priors
        return list(priors)

    generator.grid_priors = grid_priors


#: Changes of a model in eval mode, in the order of application. Outputs are equal up to rounding.
FUSIONS = (
    _change('fold RepVGG branches', _rep_vgg_blocks, RepVGGBlock.switch_to_deploy),
    _change('cache position codes', _position_codes, _cache_position_codes),
    _change('cache priors', _prior_generators, _cache_priors),
    _change('Swish in one pass', _swishes, _replace_swish),
    _change('fold batch norms', _pairs, _fold),
)
