"""State that heads keep between calls, for each batch its own."""

import copy

from torch import nn

# Of MMPose's estimators and of MMDetection's single-stage detectors.
_HEADS = ('head', 'bbox_head')


def with_own_head(model: nn.Module) -> nn.Module:
    """A shallow copy of a model for one batch: weights are shared, what its head assigns is not.

    ``RTMOHead`` and ``YOLOXPoseHead`` keep the priors of the last input's size, and then that
    size, while they predict. Of two concurrent batches one could compare the size of before and
    take the priors of the other. With a head of its own each batch computes them, as upstream
    does for its first image.

    Args:
        model: A pose estimator or a detector.

    Returns:
        The copy. What is assigned to it or to its head stays there.
    """
    own = copy.copy(model)
    own._modules = dict(model._modules)
    for name in _HEADS:
        if own._modules.get(name) is not None:
            own._modules[name] = copy.copy(own._modules[name])
    return own
