"""Copies of inferencers by ``copy.deepcopy`` and ``pickle``: spec, weights and attributes."""

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from .engines.warmup import restore
from .models.state import ModelState
from .spec import BuiltParts, InferencerSpec

if TYPE_CHECKING:
    from .inferencer import BatchPose2DInferencer

# Identifies this process, also among those of other machines and containers.
_PROCESS = uuid.uuid4().hex
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

    Raises:
        TypeError: The detector was replaced by an object that cannot be copied.
    """
    detector = inferencer.detector
    replaced = inferencer.built.replaced_pipelines(inferencer)
    calibrations = {name: runner.calibration for name, runner in inferencer.runners.items()}
    own = {'_own', *own}
    return {
        'spec': InferencerSpec.without_state(inferencer),
        'process': _PROCESS,
        'num_threads': inferencer.arguments.get('num_threads'),
        'pipeline': inferencer.pipeline,
        'det_pipeline': None if detector is None else detector.pipeline,
        'replaced': replaced,
        'cat_ids': None if detector is None else detector.cat_ids,
        'calibrations': {name: inputs for name, inputs in calibrations.items() if inputs},
        'model': ModelState.of(inferencer.model),
        'detector': None if detector is None else ModelState.of(detector.model),
        'show_progress': inferencer.show_progress,
        'visualizer': _settings(inferencer.visualizer),
        'attributes': {name: value for name, value in vars(inferencer).items() if name not in own},
    }


def build_on(
    kind: 'type[BatchPose2DInferencer]', state: Mapping[str, Any], device: str
) -> 'BatchPose2DInferencer':
    """Build a copy on another device, for example in another process.

    Args:
        kind: Class of the original.
        state: State of the original, as :mod:`pickle` takes it.
        device: Device of the copy.

    Raises:
        ValueError, EngineError: This machine lacks the device or the engine.
    """
    spec = state['spec']
    copied = kind.__new__(kind)
    settings = {**spec.settings, 'device': device}
    copied.__setstate__({**state, 'spec': replace(spec, settings=settings)})
    return copied


def build_copy(
    inferencer: 'BatchPose2DInferencer', construct: Callable[..., None], state: dict[str, Any]
) -> None:
    """Initialize a new object as a copy, from the state of the original.

    Engines are built, and the engine that ``auto`` selected is selected again. The constructor
    of a subclass is not called: the copy receives the attributes of the original. A number of
    threads that was not given is only set in another process: here, it would change the number
    of the whole process.

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
    if state['process'] == _PROCESS:
        arguments['num_threads'] = state['num_threads']
    with torch.random.fork_rng(devices=[]):  # layers are initialized before the weights are set
        construct(inferencer, **arguments)
    inferencer.arguments.update(weights=spec.weights, det_weights=spec.settings.get('det_weights'))
    inferencer.show_progress = state['show_progress']
    vars(inferencer.visualizer).update(state['visualizer'])
    _set_pipelines(inferencer, state)
    restore(inferencer.runners, spec.selected)
    for name, inputs in state['calibrations'].items():
        inferencer.runners[name].calibrate_with(inputs)


def _set_pipelines(inferencer: 'BatchPose2DInferencer', state: dict[str, Any]) -> None:
    inferencer.pipeline = state['pipeline']
    if inferencer.detector is not None:
        inferencer.detector.pipeline = state['det_pipeline']
        inferencer.detector.cat_ids = state['cat_ids']
    # A pipeline that the original did not build counts as replaced in the copy, too.
    unknown = dict.fromkeys(state['replaced'])
    inferencer.built = replace(BuiltParts.of(inferencer), **unknown)


def _settings(visualizer: Any) -> dict[str, Any]:
    return {name: getattr(visualizer, name) for name in _VISUALIZER if hasattr(visualizer, name)}
