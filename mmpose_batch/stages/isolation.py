"""Copies of a model for each batch, since some heads assign attributes to themselves.

The model itself is not changed.
"""

import copy

from torch import nn

# Heads of MMPose's estimators and of MMDetection's single-stage detectors.
_HEADS = ('head', 'bbox_head')


def with_own_head(model: nn.Module) -> nn.Module:
    """Make a shallow copy of a model for one batch: weights are shared, head attributes are not.

    ``RTMOHead`` and ``YOLOXPoseHead`` store the priors of the last input's size, and then that
    size, while they predict. Of two concurrent batches, one could find its own size next to the
    priors of the other. With a separate head each batch computes its own priors, as upstream
    does for its first image.

    Args:
        model: A pose estimator or a detector.

    Returns:
        The copy. Assigning to it or to its head does not change ``model``.
    """
    own = copy.copy(model)
    own._modules = dict(model._modules)
    for name in _HEADS:
        if own._modules.get(name) is not None:
            own._modules[name] = copy.copy(own._modules[name])
    return own
