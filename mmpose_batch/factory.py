"""Builds inferencers: from a config and a user's settings, or from a spec in another process."""

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

_OF_DETECTORS = ('det_weights', 'det_cat_ids', 'det_batch_size')
_OF_TOP_DOWN = ('det_model', *_OF_DETECTORS, 'no_person')


@dataclass(frozen=True, slots=True)
class Plan:
    """What an inferencer is built from, before anything is loaded or downloaded.

    Attributes:
        cfg: Config of the pose model.
        weights: Path or URL of its checkpoint; ``'none'`` for random weights.
        detector: The detector of a top-down model, if it has one.
        settings: Arguments of the class; those that are not there have its defaults.
        kind: The class.
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
        """Options of the inferencer, resolved for its device; batch sizes may be open.

        Raises:
            ValueError: One is out of range, or beyond the device.
        """
        names = BatchOptions.__slots__
        own = {name: value for name, value in self.settings.items() if name in names}
        return BatchOptions(**own).resolved(self.device)

    @property
    def spec(self) -> InferencerSpec:
        """The same, in a plain form for other processes."""
        settings = plain_settings(self.settings)
        return InferencerSpec(self.kind, plain_config(self.cfg), absolute(self.weights), settings)

    def check(self) -> None:
        """Check that all parts can be built, as far as possible without building the networks.

        Weights that are not downloaded yet are not checked.

        Raises:
            ValueError: A config, an option or the device cannot be used.
            CheckpointError: Weights are missing, or of another kind.
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
            check_detector_config(self.detector.config, self.detector.cat_ids)
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
            ValueError: An option that is of no use to the model, or beyond the device.
            CheckpointError: Weights that cannot be loaded.
        """
        arguments = {**self.settings, 'weights': self.weights, 'model': self.cfg}
        return INFERENCERS.build({**arguments, 'type': self.kind})


def plan_inferencer(
    model: str | Config,
    weights: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    **settings: Any,
) -> Plan:
    """Plan what :func:`build_inferencer` builds from the same arguments.

    Raises:
        ValueError: An unknown model, no weights, or an option that has no effect on the
            model.
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
    weights = weights or merged.pop('weights', None) or own_weights
    if weights is None:
        raise ValueError("weights: the config names none; name a file, or 'none' for random ones")
    detector = None
    if cfg.data_mode == 'topdown':
        _check_detector(settings, merged)
        arguments = (merged.get(name) for name in ('det_model', 'det_weights', 'det_cat_ids'))
        detector = choose_detector(cfg, *arguments)
    else:
        if merged.get('det_model') in WHOLE_IMAGE:
            del merged['det_model']  # no detector, which is what other models have
        _reject(_OF_TOP_DOWN, merged, 'of use to top-down models only')
    return Plan(cfg, weights, detector, merged, kind)


def build_inferencer(
    model: str | Config,
    weights: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    **settings: Any,
) -> BatchPose2DInferencer:
    """Build the inferencer that a config asks for in its ``inferencer=dict(...)``.

    Unlike the class it rejects a model without weights, and options that have no effect.

    Args:
        model: Config, or path or name of one, see
            :func:`mmpose_batch.models.names.load_config`.
        weights: Path or URL; None takes the config's or the name's;
            ``'none'`` leaves the network random.
        cfg_options: Changes to the config, by dotted keys.
        **settings: Arguments of :class:`BatchPose2DInferencer`; those that are not None
            replace the config's.

    Raises:
        ValueError: An unknown model, no weights, or an option that has no effect on the
            model.
        CheckpointError: Weights that cannot be loaded.
        Exception: As :class:`BatchPose2DInferencer` raises.
    """
    return plan_inferencer(model, weights, cfg_options, **settings).build()


def _check_detector(given: dict[str, Any], merged: dict[str, Any]) -> None:
    """Reject options of a detector that is not used, and a detector with random weights.

    Raises:
        ValueError: There are some.
    """
    det_model = merged.get('det_model')
    if det_model in WHOLE_IMAGE:
        # Those of the config belong to the detector that the config names.
        _reject(_OF_DETECTORS, given, 'of use with a detector only')
        return
    if det_model is None or merged.get('det_weights'):
        return
    if not isinstance(det_model, str) or load_config(det_model, 'mmdet')[1] is None:
        raise ValueError("det_weights: name the detector's checkpoint, or 'none' for random ones")


def _reject(names: Sequence[str], settings: dict[str, Any], reason: str) -> None:
    useless = [name for name in names if settings.get(name) is not None]
    if useless:
        raise ValueError(f'{", ".join(useless)}: {reason}')


def is_to_be_downloaded(weights: str | None) -> bool:
    """Whether weights are named by a URL and are not in the checkpoint cache."""
    scheme = urlparse(weights or '').scheme
    return scheme in ('http', 'https') and not osp.isfile(cached_path(weights))


def _check_engine(options: BatchOptions) -> None:
    """Check that an engine is installed, and that its external file is an ONNX file.

    Raises:
        EngineError, ValueError: One is not.
    """
    if options.engine != AUTO:
        require(get(options.engine), options.precision)
    if options.engine_file is not None:
        if options.precision == 'int8':
            raise ValueError('engine_file: int8 is for networks that are exported here')
        ExternalFile(options.engine_file)


def _check_types(cfg: Config) -> None:
    """Check that a pose model and its parts are registered.

    Raises:
        ValueError: One is not.
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
    """The test pipeline of a config that was checked."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', scope)):
        return Compose(copy.deepcopy(find_field(cfg, PIPELINE)))
