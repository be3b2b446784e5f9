"""Finding the config and weights of a model, and building the model."""

import functools
import glob
import logging
import os.path as osp
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.infer import BaseInferencer
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from torch import nn

from ..errors import CheckpointError
from .checkpoint import load_checkpoint, load_weights
from .checks.configs import check_config
from .checks.fields import find_field, naming, type_name
from .checks.keypoints import check_dataset_meta, check_keypoints, check_pose_model
from .state import ModelState

# Short names of this package's configs.
ALIASES = {'demo': 'demo-rtmo'}

logger = logging.getLogger('mmpose_batch')


def config_folder() -> str:
    """Return the folder of this package's configs, in an installation or in a checkout."""
    package = osp.dirname(osp.dirname(osp.abspath(__file__)))
    installed = osp.join(package, 'configs')
    return installed if osp.isdir(installed) else osp.join(osp.dirname(package), 'configs')


def own_configs() -> dict[str, str]:
    """Return the paths of this package's configs by name, such as ``rtmo-s``."""
    paths = sorted(glob.glob(osp.join(config_folder(), '**', '[!_]*.py'), recursive=True))
    return {osp.splitext(osp.basename(path))[0]: path for path in paths}


def _own_names() -> dict[str, str]:
    own = own_configs()
    return own | {alias: own[name] for alias, name in ALIASES.items() if name in own}


def is_demo_model(model: str) -> bool:
    """Return whether a path or name is that of a demo model, which needs synthetic scenes."""
    folder = osp.dirname(osp.realpath(_own_names().get(model, model)))
    return folder == osp.realpath(osp.join(config_folder(), 'demo'))


def load_config(model: str, scope: str = 'mmpose') -> tuple[Config, str | None]:
    """Find the config and the weights of a model by its name, or read a config file.

    Args:
        model: Path of a config, a model name or alias of MMPose's metafiles
            (``human``, ``rtmo``, ``td-hm_hrnet-w32_8xb64-210e_coco-256x192``),
            or the name of one of this package's configs (``rtmo-s``, ``demo``).
        scope: Library whose metafiles are searched: ``'mmpose'`` or ``'mmdet'``.

    Returns:
        The config, and the path or URL of its weights, or None if it names no weights.

    Raises:
        ValueError: There is no such model or file, or the file is not a config.
    """
    option = 'det_model' if scope == 'mmdet' else 'model'
    own = _own_names()
    model = osp.expanduser(model)
    if osp.isfile(model) or model in own:
        path = model if osp.isfile(model) else own[model]
        with naming(f'{option}: {path} cannot be read as a config'):
            cfg = Config.fromfile(path)
        # A name of this package is only accepted in its own scope: not a pose model as a detector.
        if osp.isfile(model) or cfg.get('default_scope') == scope:
            return cfg, find_field(cfg, 'inferencer.weights')
    if model.endswith('.py') or osp.sep in model:
        raise ValueError(f'{option}: no such config file: {model}')
    folder = BaseInferencer._get_repo_or_mim_dir(scope)
    for entry in BaseInferencer._get_models_from_metafile(folder):
        aliases = entry.get('Alias', [])
        names = [entry['Name'], *([aliases] if isinstance(aliases, str) else aliases)]
        if model.lower() in (name.lower() for name in names):
            weights = entry['Weights']
            cfg = Config.fromfile(osp.join(folder, entry['Config']))
            return cfg, weights[0] if isinstance(weights, list) else weights
    added = [name for name in own if _scope_of(own[name]) == scope]
    raise ValueError(
        f'{option}: expected a config file or a name of {scope}, found {model!r} '
        f'(this package adds {", ".join(added)})'
    )


@functools.cache
def _scope_of(path: str) -> str | None:
    """The default scope of a config of this package; cached, since reading all takes seconds."""
    return Config.fromfile(path).get('default_scope')


def default_filters(cfg: Config) -> dict[str, Any]:
    """Return the thresholds that MMPose's ``inferencer_demo.py`` uses for a kind of model.

    A config can override them in ``default_filters=dict(...)``.

    Args:
        cfg: Config of a pose model.

    Returns:
        ``bbox_thr``, ``nms_thr`` and ``pose_based_nms``.

    Raises:
        ValueError: The config has unknown names in ``default_filters``.
    """
    head = type_name((cfg.model.get('head') or {}).get('type'))
    filters = {'bbox_thr': 0.3, 'nms_thr': 0.3, 'pose_based_nms': False}
    if head == 'RTMOHead':
        filters = {'bbox_thr': 0.1, 'nms_thr': 0.65, 'pose_based_nms': True}
    elif head == 'YOLOXPoseHead':
        filters = {'bbox_thr': 0.01, 'nms_thr': 0.65, 'pose_based_nms': True}
    own = cfg.get('default_filters') or {}
    if unknown := sorted(own.keys() - filters.keys()):
        raise ValueError(
            f'default_filters: expected some of {", ".join(filters)}, found {", ".join(unknown)}'
        )
    return {**filters, **own}


def build_model(
    cfg: Config | ConfigDict,
    weights: str | ModelState | None,
    device: str,
    finish: Callable,
    option: str = 'weights',
) -> nn.Module:
    """Build a model and load its weights, as ``BaseInferencer._init_model`` but safely.

    Args:
        cfg: The complete config.
        weights: Path or URL of a checkpoint, or the state of another model. None leaves the
            weights random; ``'none'`` makes them random but identical at every start.
        device: Device of the model.
        finish: The inferencer's ``_load_weights_to_model``, which also attaches
            ``dataset_meta``.
        option: Name of the weights' option in error messages.

    Returns:
        The model in eval mode. Its ``load_notes`` are lines that report which of several
        entries of the checkpoint are used.

    Raises:
        CheckpointError: The weights cannot be loaded, or describe the keypoints of another model.
        ValueError: The model cannot be built from the config, or the config lacks fields.
    """
    check_config(cfg)
    if weights == 'none':
        torch.manual_seed(0)  # random, but identical at every start
        weights = None
    checkpoint, meta, notes = None, {}, []
    # Not the state itself: the text of its tensors takes seconds.
    place = option if isinstance(weights, ModelState) else f'{option}: {weights}'
    if isinstance(weights, ModelState):
        meta = {'dataset_meta': weights.dataset_meta}
    elif weights is not None:
        checkpoint = load_checkpoint(weights, option)
        meta, notes = _read_meta(checkpoint, place)
    if 'data_mode' in cfg:  # a pose model
        described = check_dataset_meta(cfg, meta.get('dataset_meta'), place)
    if cfg.model.get('pretrained') is not None:
        del cfg.model.pretrained
    model = _build(cfg)
    if 'data_mode' in cfg:
        check_pose_model(model)
        check_keypoints(model, *described)
    model.cfg = cfg
    model.load_notes = notes
    if checkpoint is not None:
        load_weights(model, checkpoint, weights, option)
        # The weights are loaded. Upstream's function reads the meta, and copies the weights again.
        checkpoint = {'meta': meta, 'state_dict': model.state_dict()}
    if isinstance(weights, ModelState):
        weights.load_into(model)
    else:
        finish(model, checkpoint, cfg)
    return model.to(device).eval()


def _build(cfg: Config | ConfigDict) -> nn.Module:
    part = 'model' if 'data_mode' in cfg else 'det_model'
    with naming(f'{part}: cannot be built from this config'):
        model = MODELS.build(cfg.model)
    if type(getattr(model, 'data_preprocessor', None)) is BaseDataPreprocessor:
        raise ValueError(
            f'{part}: expected model.data_preprocessor, which normalizes and stacks the inputs, '
            'in the config, found none'
        )
    return model


def _read_meta(checkpoint: dict, source: str) -> tuple[dict[str, Any], list[str]]:
    """The meta of a checkpoint including its ``dataset_meta``, and notes on the entries used.

    ``dataset_meta`` may also be at the top level of the checkpoint, where the error message of a
    rejected file advises to save it.

    Raises:
        CheckpointError: ``dataset_meta`` is not a dict.
    """
    meta = checkpoint.get('meta')
    meta = dict(meta) if isinstance(meta, dict) else {}
    notes = []
    if 'ema_state_dict' in checkpoint and 'state_dict' in checkpoint:
        notes.append(
            f'{source}: using state_dict, in which the EMAHook of MMEngine saves the averaged '
            'weights, and not ema_state_dict'
        )
    top = checkpoint.get('dataset_meta')
    if top is not None and meta.get('dataset_meta') is None:
        meta['dataset_meta'] = top
        notes.append(f'{source}: using dataset_meta from the top level of the file')
    elif top is not None and _differ(top, meta['dataset_meta']):
        logger.warning(
            '%s: dataset_meta at the top level of the file differs from that in meta; using the '
            'latter',
            source,
        )
    for note in notes:
        logger.info(note)
    found = meta.get('dataset_meta')
    if found is None:
        meta.pop('dataset_meta', None)  # that of the config is used
    elif not isinstance(found, dict):
        raise CheckpointError(
            f'{source}: expected a dict as dataset_meta, found {type(found).__name__}'
        )
    return meta, notes


def _differ(one: Any, other: Any) -> bool:
    """Whether two values, made of plain data and arrays, differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() != other.keys() or any(_differ(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) != len(other) or any(map(_differ, one, other))
    return not np.array_equal(one, other)
