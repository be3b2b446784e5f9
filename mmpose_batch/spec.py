"""What another process needs to build the same inferencer."""

import copy
import os.path as osp
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmengine.config import Config, ConfigDict
from mmengine.utils import import_modules_from_strings
from mmpose.registry import INFERENCERS

from .engines.warmup import outcome, restore
from .models.checks.detectors import check_detector_config

if TYPE_CHECKING:
    from .config import BatchOptions
    from .inferencer import BatchPose2DInferencer

_FILES = ('det_weights', 'engine_file')
_OF_DETECTOR = ('det_weights', 'det_cat_ids', 'det_batch_size', 'det_interval')


@dataclass(frozen=True, slots=True)
class BuiltParts:
    """The parts that the constructor of an inferencer built, and that users may replace.

    Attributes:
        pipeline: Test pipeline of the pose model.
        detector: The detector, if there is one.
        det_pipeline: Test pipeline of the detector.
    """

    pipeline: Any
    detector: Any
    det_pipeline: Any

    @classmethod
    def of(cls, inferencer: 'BatchPose2DInferencer') -> 'BuiltParts':
        """The parts that an inferencer has now."""
        detector = inferencer.detector
        return cls(inferencer.pipeline, detector, getattr(detector, 'pipeline', None))

    def replaced_pipelines(self, inferencer: 'BatchPose2DInferencer') -> list[str]:
        """Names of the pipelines of an inferencer that are not those that were built.

        Raises:
            TypeError: The detector is not the one that was built, so that it cannot be copied.
        """
        now = BuiltParts.of(inferencer)
        if now.detector is not None and now.detector is not self.detector:
            raise TypeError(
                'cannot copy an inferencer whose detector was replaced after construction; pass '
                'det_model instead'
            )
        names = ['pipeline'] if now.detector is None else ['pipeline', 'det_pipeline']
        return [name for name in names if getattr(now, name) is not getattr(self, name)]


@dataclass(frozen=True, slots=True)
class InferencerSpec:
    """Everything that another process needs to build the same inferencer; small and picklable.

    A spec is made of a plan (:attr:`mmpose_batch.factory.Plan.spec`) or of a built inferencer:
    ``InferencerSpec.of(inferencer).build()`` returns an inferencer with the same outputs, if the
    weights are those of the checkpoint. Weights that were changed in memory, and random weights,
    are only copied by :mod:`pickle` and :func:`copy.deepcopy`, as are changes within the test
    pipelines. Checkpoints and engine files are referenced by path, not contained.

    Attributes:
        kind: Class of the inferencer, whose constructor takes the arguments of
            :class:`BatchPose2DInferencer`.
        config: The config of the pose model, as plain dicts, lists and values.
        weights: Path or URL of its checkpoint; ``'none'`` and None for random weights.
        settings: The other arguments; missing ones have their defaults. In the spec of a built
            inferencer, the device and the number of threads are resolved, and the batch sizes
            too, unless an engine would then be built for latency instead of throughput, or the
            reverse.
        selected: The engines and batch sizes that its warm-up selected, to be selected
            again; see :func:`mmpose_batch.engines.warmup.outcome`.
    """

    kind: 'type[BatchPose2DInferencer]'
    config: dict[str, Any]
    weights: str | None
    settings: dict[str, Any]
    selected: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, inferencer: 'BatchPose2DInferencer') -> 'InferencerSpec':
        """The spec of a built inferencer.

        Raises:
            TypeError: A spec cannot describe it: its pipeline or its detector was replaced, or
                int8 was calibrated, which depends on images.
            ValueError: Its detector was set to categories that do not exist, or to none.
        """
        if names := inferencer.built.replaced_pipelines(inferencer):
            raise TypeError(
                f'cannot copy an inferencer by a spec after its {names[0]} was replaced; use '
                'copy.deepcopy or pickle'
            )
        if any(runner.calibration is not None for runner in inferencer.runners.values()):
            raise TypeError(
                'cannot copy an inferencer by a spec after int8 was calibrated; use copy.deepcopy '
                'or pickle'
            )
        spec = cls.without_state(inferencer)
        if inferencer.detector is not None:
            cat_ids = tuple(inferencer.detector.cat_ids)
            if cat_ids != spec.settings.get('det_cat_ids'):
                check_detector_config(spec.settings['det_model'], cat_ids)
                spec.settings['det_cat_ids'] = cat_ids
        return spec

    @classmethod
    def without_state(cls, inferencer: 'BatchPose2DInferencer') -> 'InferencerSpec':
        """The spec of a built inferencer, with the pipelines and categories it was built with."""
        config = plain_config(inferencer.cfg)
        config['visualizer'].pop('name', None)  # MMEngine generates it from the time
        own = {**inferencer.arguments, 'device': str(inferencer.device)}
        weights = own.pop('weights', None)
        own.update(_resolved(own, inferencer.options))
        if inferencer.detector is None and inferencer.built.detector is not None:  # removed since
            own.update(dict.fromkeys(_OF_DETECTOR), det_model='whole_image')
        return cls(
            type(inferencer),
            config,
            absolute(weights),
            plain_settings(own),
            outcome(inferencer.runners),
        )

    def arguments(self) -> dict[str, Any]:
        """Arguments of the class: new objects, which it may change."""
        own = copy.deepcopy(self.settings)
        if isinstance(own.get('det_model'), dict):
            own['det_model'] = Config(own['det_model'])
        return {'model': Config(copy.deepcopy(self.config)), 'weights': self.weights, **own}

    def import_modules(self) -> None:
        """Import the ``custom_imports`` of the config, which may register models or engines.

        Raises:
            ImportError: A module cannot be imported.
        """
        if custom := self.config.get('custom_imports'):
            import_modules_from_strings(**custom)

    def build(self) -> 'BatchPose2DInferencer':
        """Build the inferencer.

        Raises:
            ValueError: An option is not supported on this machine.
            CheckpointError: Weights cannot be loaded.
        """
        self.import_modules()
        inferencer = INFERENCERS.build({**self.arguments(), 'type': self.kind})
        if self.selected:
            restore(inferencer.runners, self.selected)
        return inferencer


def _resolved(given: dict[str, Any], options: 'BatchOptions') -> dict[str, Any]:
    """The resolved values of options that depend on the machine.

    Engines are built for latency if a batch size of 1 was given: one that was left out is only
    resolved if that does not change.
    """
    sizes = {'batch_size': options.batch_size, 'det_batch_size': options.det_batch_size}
    if given.get('batch_size') is None and options.batch_size == 1:
        sizes['batch_size'] = None
    latency = given.get('batch_size') == 1, options.det_batch_size == 1
    if given.get('det_batch_size') is None and latency[0] != latency[1]:
        sizes['det_batch_size'] = None
    return {**sizes, 'num_threads': options.num_threads}


def plain_config(config: Config | ConfigDict | dict) -> dict[str, Any]:
    """A config without its ``inferencer``, as a new dict."""
    plain = config.to_dict() if hasattr(config, 'to_dict') else config
    return {key: copy.deepcopy(value) for key, value in plain.items() if key != 'inferencer'}


def plain_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are not None, with absolute paths."""
    own = {name: value for name, value in settings.items() if value is not None}
    if isinstance(own.get('det_model'), dict | Config):
        own['det_model'] = plain_config(own['det_model'])
    return own | {name: absolute(own[name]) for name in _FILES if name in own}


def absolute(path: Any) -> Any:
    """The absolute path of an existing file; any other value as it is."""
    is_file = isinstance(path, str) and osp.isfile(path)
    return osp.abspath(path) if is_file else path
