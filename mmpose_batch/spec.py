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
    """All that another process needs to build the same inferencer; plain, and small to send.

    It is what a :class:`mmpose_batch.factory.Plan` becomes, without what a plan is checked by,
    and what can be taken of an inferencer that is built:
    ``InferencerSpec.of(inferencer).build()`` gives another one with the same outputs, for the
    weights of its checkpoint. (Weights that were changed in memory, or are random, are copied by
    :mod:`pickle` and :func:`copy.deepcopy` only.) Checkpoints and files of engines are named,
    not contained.

    Attributes:
        kind: The class, whose constructor takes the arguments of
            :class:`BatchPose2DInferencer`.
        config: The config of the pose model, as plain dicts, lists and values.
        weights: Path or URL of its checkpoint; ``'none'`` and None for random weights.
        settings: The other arguments; those that are not there have their defaults. Of an
            inferencer that is built, the device, batch sizes and number of threads are those
            that it has.
        selected: The engines and batch sizes that its warm-up selected, which are selected
            again; see :func:`mmpose_batch.engines.warmup.outcome`.
    """

    kind: 'type[BatchPose2DInferencer]'
    config: dict[str, Any]
    weights: str | None
    settings: dict[str, Any]
    selected: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, inferencer: 'BatchPose2DInferencer') -> 'InferencerSpec':
        """The spec of an inferencer that is built."""
        config = plain_config(inferencer.cfg)
        config['visualizer'].pop('name', None)  # MMEngine names each one after the time
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
        """Arguments of the class, which may change them."""
        own = copy.deepcopy(self.settings)
        if isinstance(own.get('det_model'), dict):
            own['det_model'] = Config(own['det_model'])
        return {'model': Config(copy.deepcopy(self.config)), 'weights': self.weights, **own}

    def import_modules(self) -> None:
        """Import what the config asks for, which register models, transforms or engines.

        Raises:
            ImportError: One cannot be imported.
        """
        if custom := self.config.get('custom_imports'):
            import_modules_from_strings(**custom)

    def build(self) -> 'BatchPose2DInferencer':
        """Build the inferencer.

        Raises:
            ValueError: An option that is beyond this machine.
            CheckpointError: Weights that cannot be loaded.
        """
        self.import_modules()
        inferencer = INFERENCERS.build({**self.arguments(), 'type': self.kind})
        if self.selected:
            restore(inferencer.runners, self.selected)
        return inferencer


def plain_config(config: Config | ConfigDict | dict) -> dict[str, Any]:
    """A config without its ``inferencer``, as a dict of its own."""
    plain = config.to_dict() if hasattr(config, 'to_dict') else config
    return {key: copy.deepcopy(value) for key, value in plain.items() if key != 'inferencer'}


def plain_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that are given, with paths that hold in any folder."""
    own = {name: value for name, value in settings.items() if value is not None}
    if isinstance(own.get('det_model'), dict | Config):
        own['det_model'] = plain_config(own['det_model'])
    return own | {name: absolute(own[name]) for name in _FILES if name in own}


def absolute(path: Any) -> Any:
    """The absolute path of an existing file; any other value as it is."""
    is_file = isinstance(path, str) and osp.isfile(path)
    return osp.abspath(path) if is_file else path
