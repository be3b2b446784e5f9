"""From a model's name or config to a model with weights."""

import functools
import glob
import os.path as osp
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.infer import BaseInferencer
from mmengine.registry import MODELS
from torch import nn

from .checkpoint import CheckpointError, load_checkpoint, load_weights

# Short names of this package's configs.
ALIASES = {'demo': 'demo-rtmo'}


def config_folder() -> str:
    """The folder of this package's config overrides, installed or in a checkout."""
    package = osp.dirname(osp.abspath(__file__))
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
        ValueError: Nothing goes by that name.
    """
    own = _own_names()
    if osp.isfile(model) or model in own:
        cfg = Config.fromfile(model if osp.isfile(model) else own[model])
        if osp.isfile(model) or cfg.get('default_scope') == scope:  # no pose model as a detector
            return cfg, cfg.get('inferencer', {}).get('weights')
    if model.endswith('.py') or osp.sep in model:
        raise ValueError(f'model: no such config file: {model}')
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
        f'model: expected a config file or a name of {scope}, found {model!r} '
        f'(this package adds {", ".join(added)})'
    )


@functools.cache
def _scope_of(path: str) -> str | None:
    """Whose models a config of this package has; reading all of them takes seconds."""
    return Config.fromfile(path).get('default_scope')


def check_config(cfg: Config | ConfigDict | dict | None) -> None:
    """See that a config has a model.

    Raises:
        CheckpointError: None, from which stock takes the config in the checkpoint.
        ValueError: Something else without a model.
    """
    if not cfg:
        raise CheckpointError(
            'model: expected a config or a model name; the config inside a checkpoint is '
            'Python code, which is never run from a weights file'
        )
    if 'model' not in cfg:
        raise ValueError('model: expected a config with a model, found one without')


def check_pose_config(cfg: Config | ConfigDict | dict | None) -> None:
    """See that a config is one of a pose model.

    Raises:
        CheckpointError, ValueError: As :func:`check_config`, and ValueError
            without a ``data_mode``.
    """
    check_config(cfg)
    if cfg.get('data_mode') not in ('topdown', 'bottomup'):
        raise ValueError(
            'model: expected the config of a pose model, with data_mode topdown or bottomup, '
            f'found {cfg.get("data_mode")!r}'
        )


def type_name(kind: str | type | None) -> str | None:
    """The name of what a config's ``type`` says: a name, maybe with a scope, or a class."""
    return kind.split('.')[-1] if isinstance(kind, str) else getattr(kind, '__name__', None)


def default_filters(cfg: Config) -> dict[str, Any]:
    """The thresholds that MMPose's ``inferencer_demo.py`` takes for a kind of model.

    A config names others in ``default_filters=dict(...)``.

    Raises:
        ValueError: The config names something else there.
    """
    head = type_name(cfg.model.get('head', {}).get('type'))
    filters = {'bbox_thr': 0.3, 'nms_thr': 0.3, 'pose_based_nms': False}
    if head == 'RTMOHead':
        filters = {'bbox_thr': 0.1, 'nms_thr': 0.65, 'pose_based_nms': True}
    elif head == 'YOLOXPoseHead':
        filters = {'bbox_thr': 0.01, 'nms_thr': 0.65, 'pose_based_nms': True}
    own = cfg.get('default_filters', {})
    if unknown := sorted(own.keys() - filters.keys()):
        raise ValueError(
            f'default_filters: expected some of {", ".join(filters)}, found {", ".join(unknown)}'
        )
    return {**filters, **own}


def build_model(
    cfg: Config | ConfigDict, weights: str | None, device: str, finish: Callable
) -> nn.Module:
    """Build a model and load its weights, as ``BaseInferencer._init_model`` but safely.

    Args:
        cfg: The whole config.
        weights: Path or URL of a checkpoint; None leaves the model random, and
            ``'none'`` makes it the same at every start.
        device: Where the model goes.
        finish: The inferencer's ``_load_weights_to_model``, which also attaches
            ``dataset_meta``.

    Raises:
        CheckpointError: The weights cannot be loaded.
    """
    check_config(cfg)
    if weights == 'none':
        torch.manual_seed(0)  # random, but the same at every start
        weights = None
    checkpoint = load_checkpoint(weights) if weights is not None else None
    if cfg.model.get('pretrained') is not None:
        del cfg.model.pretrained
    model = MODELS.build(cfg.model)
    model.cfg = cfg
    if checkpoint is not None:
        load_weights(model, checkpoint, weights)
        meta = dict(checkpoint.get('meta') or {})
        if 'dataset_meta' in checkpoint:  # as the error of a rejected file advises to save it
            meta.setdefault('dataset_meta', checkpoint['dataset_meta'])
        # The weights are in place; upstream takes the meta and copies them onto themselves.
        checkpoint = {'meta': meta, 'state_dict': model.state_dict()}
    finish(model, checkpoint, cfg)
    return model.to(device).eval()
