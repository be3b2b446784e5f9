"""Builds inferencers from a config and settings, or from a spec in another process."""

import copy
import os.path as osp
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.registry import MODELS, DefaultScope
from mmpose.registry import INFERENCERS

from .config import BatchOptions, merge_settings
from .engines.external_onnx import ExternalFile
from .engines.optional import require
from .engines.registry import AUTO, get
from .images.read import image_loader, plain_loader
from .inferencer import BatchPose2DInferencer
from .models.checkpoint import cached_path, check_weights
from .models.checks.configs import check_device, check_flip_test, check_pose_config
from .models.checks.detectors import check_detector_config
from .models.checks.fields import PIPELINE, find_field, naming, type_name
from .models.checks.pipelines import check_first_step, check_loader, check_pipeline
from .models.names import load_config
from .spec import InferencerSpec, absolute, plain_config, plain_settings
from .speedups.rect import pad_to_stride
from .stages.detect import WHOLE_IMAGE, DetectorChoice, choose_detector

_OF_DETECTORS = ('det_weights', 'det_cat_ids', 'det_batch_size', 'det_interval')
_OF_TOP_DOWN = ('det_model', *_OF_DETECTORS, 'no_person')


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that an inferencer is built from; nothing is loaded or downloaded yet.

    Attributes:
        cfg: Config of the pose model.
        weights: Path or URL of its checkpoint; ``'none'`` for random weights.
        detector: The detector of a top-down model, if it has one.
        settings: Other arguments of the class; missing ones have their defaults.
        kind: Class of the inferencer.
    """

    cfg: Config
    weights: str
    detector: DetectorChoice | None
    settings: dict[str, Any]
    kind: type[BatchPose2DInferencer]

    @property
    def device(self) -> str:
        """Device of the networks."""
        return self.settings.get('device') or get_device()

    @property
    def options(self) -> BatchOptions:
        """Options of the inferencer, resolved for its device; batch sizes may be unresolved.

        Raises:
            ValueError: An option is out of range, or not supported by the device.
        """
        return _batch_options(self.settings).resolved(self.device)

    @property
    def spec(self) -> InferencerSpec:
        """The plan as a spec, for other processes."""
        settings = plain_settings(self.settings)
        return InferencerSpec(self.kind, plain_config(self.cfg), absolute(self.weights), settings)

    def check(self) -> None:
        """Check as much as possible without building the networks.

        Weights that are not downloaded yet are not checked.

        Raises:
            ValueError: A config, an option or the device cannot be used.
            CheckpointError: A checkpoint is missing or not usable.
            EngineError: An engine is not installed.
        """
        check_device(self.device)
        options = self.options
        _check_engine(options)
        check_flip_test(self.cfg, options.flip_test)
        _check_types(self.cfg)
        check_pipeline(self.cfg)
        pipelines = [_build_pipeline(self.cfg, 'mmpose')]
        check_first_step(pipelines[0].transforms[0])
        check_loader(image_loader(pipelines[0]) or plain_loader(pipelines[0]))
        weights = [(self.weights, 'weights')]
        if self.detector is not None:
            check_detector_config(self.detector.config, self.detector.cat_ids, self.device)
            pipelines.append(_build_pipeline(self.detector.config, 'mmdet'))
            weights.append((self.detector.weights, 'det_weights'))
        if options.rect:
            pad_to_stride(pipelines)
        for file, option in weights:
            if not is_to_be_downloaded(file):
                check_weights(file, option)

    def build(self) -> BatchPose2DInferencer:
        """Build the inferencer.

        Raises:
            ValueError: An option is not valid for the model, or not supported by the device.
            CheckpointError: Weights cannot be loaded.
        """
        arguments = {**self.settings, 'weights': self.weights, 'model': self.cfg}
        return INFERENCERS.build({**arguments, 'type': self.kind})


def plan_inferencer(
    model: str | Config,
    weights: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    **settings: Any,
) -> Plan:
    """Plan the inferencer that :func:`build_inferencer` builds from the same arguments.

    Raises:
        ValueError: The model is unknown, there are no weights, or an option has no effect on
            the model.
    """
    if isinstance(model, str):
        cfg, own_weights = load_config(model)
    else:
        cfg, own_weights = copy.deepcopy(model), None
    if cfg_options:
        with naming('cfg_options: cannot be merged into the config'):
            cfg.merge_from_dict(cfg_options)
    check_pose_config(cfg)
    own = cfg.pop('inferencer', {})
    kind = own.get('type', BatchPose2DInferencer)
    kind = kind if isinstance(kind, type) else INFERENCERS.get(kind)
    if not issubclass(kind or object, BatchPose2DInferencer):
        raise ValueError(
            f'inferencer: expected type BatchPose2DInferencer, found {type_name(own["type"])}'
        )
    merged = merge_settings(own, settings)
    _batch_options(merged)  # wrong values are reported before options that have no effect
    weights = weights or merged.pop('weights', None) or own_weights
    if weights is None:
        raise ValueError("weights: the config has none; pass a file, or 'none' for random weights")
    detector = None
    if cfg.data_mode == 'topdown':
        _check_detector(settings, merged)
        arguments = (merged.get(name) for name in ('det_model', 'det_weights', 'det_cat_ids'))
        detector = choose_detector(cfg, *arguments)
    else:
        if merged.get('det_model') in WHOLE_IMAGE:
            del merged['det_model']  # no detector, as for all models that are not top-down
        _reject(_OF_TOP_DOWN, merged, 'only valid for top-down models')
    return Plan(cfg, weights, detector, merged, kind)


def build_inferencer(
    model: str | Config,
    weights: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    **settings: Any,
) -> BatchPose2DInferencer:
    """Build the inferencer of a config, with the arguments in its ``inferencer=dict(...)``.

    Unlike the class, it rejects a model without weights, and options that have no effect.

    Args:
        model: Config, or its path or name, see
            :func:`mmpose_batch.models.names.load_config`.
        weights: Path or URL of the checkpoint; None selects the checkpoint of the config or
            the name, ``'none'`` random weights.
        cfg_options: Changes to the config, by dotted keys.
        **settings: Arguments of :class:`BatchPose2DInferencer`; those that are not None
            replace the arguments in the config.

    Raises:
        ValueError: The model is unknown, there are no weights, or an option has no effect on
            the model.
        CheckpointError: Weights cannot be loaded.
        Exception: Any exception of :class:`BatchPose2DInferencer`.
    """
    return plan_inferencer(model, weights, cfg_options, **settings).build()


def _batch_options(settings: dict[str, Any]) -> BatchOptions:
    names = BatchOptions.__slots__
    return BatchOptions(**{name: value for name, value in settings.items() if name in names})


def _check_detector(given: dict[str, Any], merged: dict[str, Any]) -> None:
    """Reject options of a detector that is not used, and a detector without weights.

    Raises:
        ValueError: There are such options, or no weights.
    """
    det_model = merged.get('det_model')
    if det_model in WHOLE_IMAGE:
        # Options in the config belong to the detector of the config.
        _reject(_OF_DETECTORS, given, 'only valid with a detector')
        return
    if det_model is None or merged.get('det_weights'):
        return
    if not isinstance(det_model, str) or load_config(det_model, 'mmdet')[1] is None:
        raise ValueError(
            "det_weights: pass the checkpoint of the detector, or 'none' for random weights"
        )


def _reject(names: Sequence[str], settings: dict[str, Any], reason: str) -> None:
    useless = [name for name in names if settings.get(name) is not None]
    if useless:
        raise ValueError(f'{", ".join(useless)}: {reason}')


def is_to_be_downloaded(weights: str | None) -> bool:
    """Whether weights are given by a URL and are not in the checkpoint cache."""
    scheme = urlparse(weights or '').scheme
    return scheme in ('http', 'https') and not osp.isfile(cached_path(weights))


def _check_engine(options: BatchOptions) -> None:
    """Check that an engine is installed, and that its external file is an ONNX file.

    Raises:
        EngineError, ValueError: The engine is not installed, or the file is not usable.
    """
    if options.engine != AUTO:
        require(get(options.engine), options.precision)
    if options.engine_file is not None:
        if options.precision == 'int8':
            raise ValueError('engine_file cannot be combined with int8')
        ExternalFile(options.engine_file)


def _check_types(cfg: Config) -> None:
    """Check that the classes of a pose model and its parts are registered.

    Raises:
        ValueError: A class is not registered.
    """
    parts = ('', '.data_preprocessor', '.backbone', '.neck', '.head')
    with (
        naming('model: cannot be built from this config'),
        MODELS.switch_scope_and_registry(cfg.get('default_scope', 'mmpose')) as registry,
    ):
        for name in (find_field(cfg, f'model{part}.type') for part in parts):
            if isinstance(name, str) and registry.get(name) is None:
                raise KeyError(f'{name} is not in the {registry.scope}::{registry.name} registry')


def _build_pipeline(cfg: Config | dict, scope: str) -> Compose:
    """The test pipeline of a config that has been checked."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', scope)):
        return Compose(copy.deepcopy(find_field(cfg, PIPELINE)))
