"""Outputs of a network that are no numbers, which thresholds would drop without a word."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import nn
from torch.utils._pytree import tree_leaves

from ..engines.network import head_of

_CAUSE = 'broken or random weights, or a precision that is too low?'


def reject_nan(model: nn.Module) -> None:
    """Have the heads of a model fail where their networks hand out NaN, in place.

    NaN is above no threshold, so the heads of detectors and of one-stage models would find
    nobody. What fails then is the batch, and of that the images whose outputs they are. Infinite
    values pass: heads make finite numbers of them.

    Args:
        model: A pose estimator or a detector. Its network must not be replaced later.
    """
    heads = [each for each in model.modules() if isinstance(each, BaseDenseHead | BBoxHead)]
    own = head_of(model)
    if own is not None and not any(each is own for each in heads):
        heads.append(own)
    for head in heads:
        head.forward = _without_nan(head.forward)


def _without_nan(forward: Callable) -> Callable:
    def checked(*args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        # The maximum of values with NaN is NaN, and is much faster than a mask of them.
        highest = [
            leaf.detach().amax().float()
            for leaf in tree_leaves(outputs)
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.numel()
        ]
        if highest and torch.stack(highest).isnan().any():
            raise ValueError(f'expected numbers as outputs of the network, found NaN: {_CAUSE}')
        return outputs

    return checked


def check_finite(fields: Mapping[str, Any]) -> None:
    """See that what was decoded is finite.

    Args:
        fields: Names, such as ``keypoints``, and arrays or tensors; those that hold no floats
            are ignored.

    Raises:
        ValueError: One holds NaN or an infinite value.
    """
    for name, values in sorted(fields.items()):  # of those that share an array, the same one
        if isinstance(values, torch.Tensor):
            values = values.detach().float().cpu() if values.is_floating_point() else ()
        values = np.asarray(values)
        if values.dtype.kind == 'f' and not np.isfinite(values).all():
            found = 'NaN' if np.isnan(values).any() else 'infinite ones'
            raise ValueError(f'expected finite {name}, found {found}: {_CAUSE}')
