"""Check that a network returns no NaN, which thresholds would silently drop.

It changes heads in place, as described in :mod:`mmpose_batch.speedups.base`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .speedups.base import InPlaceChange, apply_changes, register

NAN_CAUSE = 'broken or random weights, or a precision that is too low?'


class NanCheck:
    """A head's ``forward`` that raises ValueError if the network returns NaN.

    Args:
        forward: The head's ``forward``.
    """

    def __init__(self, forward: Callable) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs of the network.

        Raises:
            ValueError: There is NaN in them.
        """
        outputs, highest = self.unchecked(*args, **kwargs)
        if highest is not None:
            fail_if_nan(highest)
        return outputs

    def unchecked(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor | None]:
        """Return outputs without waiting for them, for callers that copy them to the CPU anyway.

        Returns:
            The outputs of the network, and a float32 tensor (M,) on their device that
            :func:`fail_if_nan` has to check; None if there is nothing to check.
        """
        outputs = self._forward(*args, **kwargs)
        # The maximum is NaN if any value is, and is much faster than `isnan` on all values.
        highest = [
            leaf.detach().amax().float()
            for leaf in tree_leaves(outputs)
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()
        ]
        return outputs, torch.stack(highest) if highest else None


def fail_if_nan(highest: Tensor) -> None:
    """Check the outputs of a network, or the maximum of each of them.

    Raises:
        ValueError: One of them is NaN.
    """
    if highest.isnan().any():
        raise ValueError(f'expected numbers as outputs of the network, found NaN: {NAN_CAUSE}')


def reject_nan(model: nn.Module) -> None:
    """Make the heads of a model raise ValueError if their networks return NaN, in place.

    NaN exceeds no threshold, so detectors and one-stage models would silently detect nothing.
    With the error the batch fails, and eventually the images with these outputs. Infinite values
    are accepted, since heads convert them to finite numbers.

    Args:
        model: A pose estimator or a detector. Its network must not be replaced later.
    """
    apply_changes(model, (NAN_FAILS,))


def _unchecked_heads(model: nn.Module) -> Iterator[nn.Module]:
    """All heads of the model, including those of RoI heads, that do not check for NaN yet."""
    heads = [each for each in model.modules() if isinstance(each, BaseDenseHead | BBoxHead)]
    own = getattr(model, 'head', getattr(model, 'bbox_head', None))
    if own is not None and not any(each is own for each in heads):
        heads.append(own)
    return (head for head in heads if not isinstance(vars(head).get('forward'), NanCheck))


def _check_heads(model: nn.Module) -> None:
    for head in list(_unchecked_heads(model)):
        head.forward = NanCheck(head.forward)


NAN_FAILS = register(
    InPlaceChange(
        name='NaN fails',
        applies=lambda model: next(_unchecked_heads(model), None) is not None,
        apply=_check_heads,
    )
)
