"""What another process needs to build the same inferencer."""

import copy
import os.path as osp
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmengine.config import Config, ConfigDict
from mmengine.utils import import_modules_from_strings
from mmpose.registry import INFERENCERS

from .engines.warmup import outcome, restore

if TYPE_CHECKING:
    from .inferencer import BatchPose2DInferencer

_FILES = ('det_weights', 'engine_file')


@dataclass(frozen=True, slots=True)
class InferencerSpec:
    """Everything that another process needs to build the same inferencer; small and picklable.

    A spec is made of a plan (:attr:`mmpose_batch.factory.Plan.spec`) or of a built inferencer:
    ``InferencerSpec.of(inferencer).build()`` returns an inferencer with the same outputs, if the
    weights are those of the checkpoint. Weights that were changed in memory, and random weights,
    are only copied by :mod:`pickle` and :func:`copy.deepcopy`. Checkpoints and engine files are
    referenced by path, not contained.

    Attributes:
        kind: Class of the inferencer, whose constructor takes the arguments of
            :class:`BatchPose2DInferencer`.
        config: The config of the pose model, as plain dicts, lists and values.
        weights: Path or URL of its checkpoint; ``'none'`` and None for random weights.
        settings: The other arguments; missing ones have their defaults. In the spec of a built
            inferencer, the device, the batch sizes and the number of threads are resolved.
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
        """The spec of a built inferencer."""
        config = plain_config(inferencer.cfg)
        config['visualizer'].pop('name', None)  # MMEngine generates it from the time
        own = {**inferencer.arguments, 'device': str(inferencer.device)}
        weights = own.pop('weights', None)
        for name in ('batch_size', 'det_batch_size', 'num_threads'):
            own[name] = getattr(inferencer.options, name)
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
