"""Copies of inferencers by ``copy.deepcopy`` and ``pickle``: spec, weights and attributes."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from .engines.warmup import restore
from .models.state import ModelState
from .spec import InferencerSpec

if TYPE_CHECKING:
    from .inferencer import BatchPose2DInferencer

# Settings of MMPose's visualizer that calls do not set.
_VISUALIZER = (
    *('bbox_color', 'kpt_color', 'link_color', 'text_color', 'skeleton', 'line_width', 'radius'),
    *('alpha', 'show_keypoint_weight'),
)


def take_state(inferencer: 'BatchPose2DInferencer', own: Iterable[str]) -> dict[str, Any]:
    """State from which a copy of an inferencer is built.

    Args:
        inferencer: Inferencer to copy.
        own: Names of the attributes that this package's class sets; the others, of a
            subclass or a user, are copied.
    """
    detector = inferencer.detector
    own = {'_own', *own}
    return {
        'spec': InferencerSpec.of(inferencer),
        'model': ModelState.of(inferencer.model),
        'detector': None if detector is None else ModelState.of(detector.model),
        'show_progress': inferencer.show_progress,
        'visualizer': _settings(inferencer.visualizer),
        'attributes': {name: value for name, value in vars(inferencer).items() if name not in own},
    }


def build_copy(
    inferencer: 'BatchPose2DInferencer', construct: Callable[..., None], state: dict[str, Any]
) -> None:
    """Initialize a new object as a copy, from the state of the original.

    Engines are built, and the engine that ``auto`` selected is selected again. The constructor
    of a subclass is not called: the copy receives the attributes of the original.

    Args:
        inferencer: The new object.
        construct: The constructor of :class:`BatchPose2DInferencer`.
        state: As :func:`take_state` returned it.

    Raises:
        ValueError, EngineError: This machine lacks the device or the engine.
    """
    spec = state['spec']
    spec.import_modules()
    vars(inferencer).update(state['attributes'])
    arguments = {**spec.arguments(), 'weights': state['model']}
    if state['detector'] is not None:
        arguments['det_weights'] = state['detector']
    with torch.random.fork_rng(devices=[]):  # layers are initialized before the weights are set
        construct(inferencer, **arguments)
    inferencer.arguments.update(weights=spec.weights, det_weights=spec.settings.get('det_weights'))
    inferencer.show_progress = state['show_progress']
    vars(inferencer.visualizer).update(state['visualizer'])
    restore(inferencer.runners, spec.selected)


def _settings(visualizer: Any) -> dict[str, Any]:
    return {name: getattr(visualizer, name) for name in _VISUALIZER if hasattr(visualizer, name)}
