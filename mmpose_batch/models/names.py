"""From a model's name or config to a model with weights."""

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
    """The folder of this package's config overrides, installed or in a checkout."""
    package = osp.dirname(osp.dirname(osp.abspath(__file__)))
    installed = osp.join(package, 'configs')
    return installed if osp.isdir(installed) else osp.join(osp.dirname(package), 'configs')


def own_configs() -> dict[str, str]:
    """Names of this package's config overrides, such as ``rtmo-s``, and their paths."""
    paths = sorted(glob.glob(osp.join(config_folder(), '**', '[!_]*.py'), recursive=True))
    return {osp.splitext(osp.basename(path))[0]: path for path in paths}


def _own_names() -> dict[str, str]:
    own = own_configs()
    return own | {alias: own[name] for alias, name in ALIASES.items() if name in own}


def is_demo_model(model: str) -> bool:
    """Whether a path or name is that of a demo model's config, which knows drawn scenes only."""
    folder = osp.dirname(osp.realpath(_own_names().get(model, model)))
    return folder == osp.realpath(osp.join(config_folder(), 'demo'))


def load_config(model: str, scope: str = 'mmpose') -> tuple[Config, str | None]:
    """Find the config and the weights that a model's name stands for.

    Args:
        model: Path of a config, a model name or alias of MMPose's metafiles
            (``human``, ``rtmo``, ``td-hm_hrnet-w32_8xb64-210e_coco-256x192``),
            or the name of one of this package's configs (``rtmo-s``, ``demo``).
        scope: Whose metafiles to search: ``'mmpose'`` or ``'mmdet'``.

    Returns:
        The config, and the path or URL of the weights it names, if any.

    Raises:
        ValueError: Nothing goes by that name, or the file is no config.
    """
    option = 'det_model' if scope == 'mmdet' else 'model'
    own = _own_names()
    model = osp.expanduser(model)
    if osp.isfile(model) or model in own:
        path = model if osp.isfile(model) else own[model]
        with naming(f'{option}: {path} cannot be read as a config'):
            cfg = Config.fromfile(path)
        if osp.isfile(model) or cfg.get('default_scope') == scope:  # no pose model as a detector
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
    """Whose models a config of this package has; reading all of them takes seconds."""
    return Config.fromfile(path).get('default_scope')


def default_filters(cfg: Config) -> dict[str, Any]:
    """The thresholds that MMPose's ``inferencer_demo.py`` takes for a kind of model.

    A config names others in ``default_filters=dict(...)``.

    Raises:
        ValueError: The config names something else there.
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
        cfg: The whole config.
        weights: Path or URL of a checkpoint, or the state of another model; None leaves the
            model random, and ``'none'`` makes it the same at every start.
        device: Where the model goes.
        finish: The inferencer's ``_load_weights_to_model``, which also attaches
            ``dataset_meta``.
        option: What the errors call the weights.

    Returns:
        The model. Its ``load_notes`` are lines that report which of several entries
        of the checkpoint are used.

    Raises:
        CheckpointError: The weights cannot be loaded, or describe keypoints of another model.
        ValueError: The config cannot be built.
    """
    check_config(cfg)
    if weights == 'none':
        torch.manual_seed(0)  # random, but the same at every start
        weights = None
    checkpoint, meta, notes = None, {}, []
    if isinstance(weights, ModelState):
        meta = {'dataset_meta': weights.dataset_meta}
    elif weights is not None:
        checkpoint = load_checkpoint(weights, option)
        meta, notes = _read_meta(checkpoint, f'{option}: {weights}')
    if 'data_mode' in cfg:  # of a pose model
        described = check_dataset_meta(cfg, meta.get('dataset_meta'), f'{option}: {weights}')
    if cfg.model.get('pretrained') is not None:
        del cfg.model.pretrained
    part = 'model' if 'data_mode' in cfg else 'det_model'
    with naming(f'{part}: cannot be built from this config'):
        model = MODELS.build(cfg.model)
    if type(getattr(model, 'data_preprocessor', None)) is BaseDataPreprocessor:
        raise ValueError(
            f'{part}: expected model.data_preprocessor, which normalizes and stacks the inputs, '
            'in the config, found none'
        )
    if 'data_mode' in cfg:
        check_pose_model(model)
        check_keypoints(model, *described)
    model.cfg = cfg
    model.load_notes = notes
    if checkpoint is not None:
        load_weights(model, checkpoint, weights, option)
        # The weights are in place; upstream takes the meta and copies them onto themselves.
        checkpoint = {'meta': meta, 'state_dict': model.state_dict()}
    if isinstance(weights, ModelState):
        weights.load_into(model)
    else:
        finish(model, checkpoint, cfg)
    return model.to(device).eval()


def _read_meta(checkpoint: dict, source: str) -> tuple[dict[str, Any], list[str]]:
    """The meta of a checkpoint with its ``dataset_meta``, and what to report of its entries.

    A ``dataset_meta`` is also read at the top of the checkpoint, where the error of a
    rejected file advises to save it.

    Raises:
        CheckpointError: Its ``dataset_meta`` is no dict.
    """
    meta = checkpoint.get('meta')
    meta = dict(meta) if isinstance(meta, dict) else {}
    notes = []
    if 'ema_state_dict' in checkpoint and 'state_dict' in checkpoint:
        notes.append(
            f'{source}: state_dict is used, where the EMAHook of MMEngine saves the averaged '
            'weights, and not ema_state_dict'
        )
    top = checkpoint.get('dataset_meta')
    if top is not None and meta.get('dataset_meta') is None:
        meta['dataset_meta'] = top
        notes.append(f'{source}: dataset_meta is read from the top of the file')
    elif top is not None and _differ(top, meta['dataset_meta']):
        logger.warning(
            '%s: dataset_meta at the top of the file differs from that in meta, which is used',
            source,
        )
    for note in notes:
        logger.info(note)
    found = meta.get('dataset_meta')
    if found is None:
        meta.pop('dataset_meta', None)  # the config's is taken
    elif not isinstance(found, dict):
        raise CheckpointError(
            f'{source}: expected a dict as dataset_meta, found {type(found).__name__}'
        )
    return meta, notes


def _differ(one: Any, other: Any) -> bool:
    """Whether two values of plain data and arrays are not the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() != other.keys() or any(_differ(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) != len(other) or any(map(_differ, one, other))
    return not np.array_equal(one, other)
