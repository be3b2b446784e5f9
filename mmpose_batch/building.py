"""From a config and what a user adds to it, to an inferencer that has what it needs."""

import copy
import os.path as osp
from typing import Any

from mmengine.config import Config
from mmpose.registry import INFERENCERS

from .inferencer import BatchPose2DInferencer
from .models import check_config, load_config
from .options import merge_settings


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
            :func:`mmpose_batch.models.load_config`.
        weights: Path or URL; None takes the config's or the name's;
            ``'none'`` leaves the network random.
        cfg_options: Changes to the config, by dotted keys.
        **settings: Arguments of :class:`BatchPose2DInferencer`, which go before
            the config's where they are not None.

    Raises:
        ValueError: An unknown model or option, no weights, or a detector for a
            model that takes none.
        CheckpointError: Weights that cannot be loaded.
    """
    if isinstance(model, str):
        cfg, own_weights = load_config(model)
    else:
        cfg, own_weights = copy.deepcopy(model), None
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    check_config(cfg)
    merged = merge_settings(cfg.get('inferencer', {}), settings)
    weights = weights or merged.pop('weights', None) or own_weights
    if weights is None:
        raise ValueError("weights: the config names none; name a file, or 'none' for random ones")
    _check_detector(cfg, merged)
    kind = cfg.get('inferencer', {}).get('type', 'BatchPose2DInferencer')
    if not issubclass(INFERENCERS.get(kind) or object, BatchPose2DInferencer):
        raise ValueError(f'inferencer: expected type BatchPose2DInferencer, found {kind}')
    return INFERENCERS.build({**merged, 'weights': weights, 'model': cfg, 'type': kind})


def _check_detector(cfg: Config, settings: dict[str, Any]) -> None:
    """Refuse a detector that is not used, and one with random weights unless asked for.

    Raises:
        ValueError: One of these.
    """
    if cfg.get('data_mode', 'topdown') != 'topdown':
        useless = {key for key in settings if key.startswith('det_') and settings[key] is not None}
        if settings.get('det_model') == 'whole_image':
            useless.remove('det_model')
        if useless:
            raise ValueError(f'{", ".join(sorted(useless))}: only top-down models take a detector')
        return
    det_model = settings.get('det_model')
    if settings.get('det_weights') or not isinstance(det_model, str) or not osp.isfile(det_model):
        return
    if load_config(det_model, 'mmdet')[1] is None:
        raise ValueError("det_weights: name the detector's checkpoint, or 'none' for random ones")
