"""From a config and what a user adds to it, to an inferencer that has what it needs."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmpose.registry import INFERENCERS

from .config import merge_settings
from .inferencer import BatchPose2DInferencer
from .models.checks import check_pose_config, naming, type_name
from .models.names import load_config
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
    """Find out what :func:`build_inferencer` would build, with the same arguments.

    Raises:
        ValueError: An unknown model, no weights, or an option that is of no use
            to the model.
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
        _refuse(_OF_TOP_DOWN, merged, 'of use to top-down models only')
    return Plan(cfg, weights, detector, merged, kind)


def build_inferencer(
    model: str | Config,
    weights: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    **settings: Any,
) -> BatchPose2DInferencer:
    """Build the inferencer that a config asks for in its ``inferencer=dict(...)``.

    Unlike the class it insists on weights, and on options that are of use.

    Args:
        model: Config, or path or name of one, see
            :func:`mmpose_batch.models.names.load_config`.
        weights: Path or URL; None takes the config's or the name's;
            ``'none'`` leaves the network random.
        cfg_options: Changes to the config, by dotted keys.
        **settings: Arguments of :class:`BatchPose2DInferencer`, which go before
            the config's where they are not None.

    Raises:
        ValueError: An unknown model, no weights, or an option that is of no use
            to the model. And whatever :class:`BatchPose2DInferencer` raises.
        CheckpointError: Weights that cannot be loaded.
    """
    return plan_inferencer(model, weights, cfg_options, **settings).build()


def _check_detector(given: dict[str, Any], merged: dict[str, Any]) -> None:
    """Refuse options of a detector that is not used, and one with random weights.

    Raises:
        ValueError: One of these.
    """
    det_model = merged.get('det_model')
    if det_model in WHOLE_IMAGE:
        # Those of the config belong to the detector that the config names.
        _refuse(_OF_DETECTORS, given, 'of use with a detector only')
        return
    if det_model is None or merged.get('det_weights'):
        return
    if not isinstance(det_model, str) or load_config(det_model, 'mmdet')[1] is None:
        raise ValueError("det_weights: name the detector's checkpoint, or 'none' for random ones")


def _refuse(names: Sequence[str], settings: dict[str, Any], reason: str) -> None:
    useless = [name for name in names if settings.get(name) is not None]
    if useless:
        raise ValueError(f'{", ".join(useless)}: {reason}')
