"""Checks of the configs of pose models, and of fields that detector configs share."""

import importlib.util
from collections.abc import Mapping, Sequence

import torch
from mmengine.registry import FUNCTIONS, MODELS, VISUALIZERS

from ...errors import CheckpointError
from .fields import AnyConfig, find_field, naming, type_name
from .pipelines import check_steps

# MMPose's pose estimators, and the parts that their configs must have.
ESTIMATORS = ('TopdownPoseEstimator', 'BottomupPoseEstimator')
_PARTS = ('backbone', 'head')


def check_device(device: str | torch.device) -> None:
    """Check that PyTorch can use a device.

    Raises:
        ValueError: The device is not available, or its name is unknown.
    """
    with naming(f'device: {device} cannot be used'):
        torch.empty(0, device=device)


def check_same_kind(devices: Sequence[str]) -> None:
    """Check that all devices can be used, and that results do not depend on which one computes.

    Raises:
        ValueError: A device cannot be used, or GPUs are different models.
    """
    models = set()
    for device in devices:
        if device.startswith('cuda'):  # this process does not use it, and must not allocate on it
            with naming(f'device: {device} cannot be used'):
                models.add(torch.cuda.get_device_name(device))
        else:
            check_device(device)
    if len(models) > 1:
        raise ValueError(
            'devices: expected equal GPUs, since results would depend on which of them infers an '
            f'image, found {" and ".join(sorted(models))}'
        )


def check_config(cfg: AnyConfig | None, option: str = 'model') -> None:
    """Check that there is a config, and that it has a model.

    Raises:
        CheckpointError: The config is None. Upstream then runs the config in the checkpoint.
        ValueError: The config has no model.
    """
    if cfg is None:
        raise CheckpointError(
            f'{option}: expected a config or a model name; the config inside a checkpoint is '
            'Python code, which is never run from a weights file'
        )
    if 'model' not in cfg:
        found = 'one without a model' if cfg else 'an empty one'
        raise ValueError(f'{option}: expected a config with a model, found {found}')
    if not isinstance(cfg['model'], Mapping):
        raise ValueError(
            f'{option}: expected model=dict(type=...) in the config, '
            f'found {type(cfg["model"]).__name__}'
        )


def check_scope(cfg: AnyConfig, option: str = 'model') -> None:
    """Check that the package of a config's ``default_scope`` is installed.

    Raises:
        ValueError: The package is not installed.
    """
    scope = cfg.get('default_scope')
    if scope is None or scope in MODELS.children:
        return
    if importlib.util.find_spec(scope) is None:
        raise ValueError(
            f'{option}: the config has default_scope {scope!r}, a package that is not installed; '
            f'install {scope}, or import what registers it by custom_imports'
        )


def check_visualizer(cfg: AnyConfig, option: str, draws_poses: bool = False) -> None:
    """Check that the visualizer of a config, if there is one, is registered.

    Args:
        cfg: The config.
        option: Option that named the config, for error messages.
        draws_poses: Whether the visualizer must be able to draw poses.

    Raises:
        ValueError: The visualizer is not registered, or cannot draw poses if it must.
    """
    if cfg.get('visualizer') is None:
        return
    given = find_field(cfg, 'visualizer.type')
    with VISUALIZERS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        found = registry.get(given) if isinstance(given, str) else given
    if not isinstance(found, type) or (draws_poses and not hasattr(found, 'set_dataset_meta')):
        expected = 'PoseLocalVisualizer' if draws_poses else 'DetLocalVisualizer'
        raise ValueError(
            f'{option}: expected a registered type, such as {expected}, as visualizer.type in the '
            f'config, or no visualizer, found {given!r}'
        )


def check_pose_config(cfg: AnyConfig | None) -> None:
    """Check that a config is that of a pose model and has all fields needed for inference.

    Raises:
        CheckpointError: As for :func:`check_config`.
        ValueError: The config is not that of a pose model, or a field is missing or invalid.
    """
    check_config(cfg)
    if cfg.get('data_mode') not in ('topdown', 'bottomup'):
        raise ValueError(
            'model: expected the config of a pose model, with data_mode topdown or bottomup, '
            f'found {cfg.get("data_mode")!r}'
        )
    for name in ('inferencer', 'default_filters'):
        if cfg.get(name) is not None and not isinstance(cfg.get(name), Mapping):
            raise ValueError(f'{name}: expected a dict, found {cfg.get(name)!r}')
    model = cfg['model']
    if model.get('type') is None:
        raise ValueError('model.type: expected the name of a pose estimator, found none')
    if type_name(model['type']) in ESTIMATORS:
        for part in _PARTS:
            if not isinstance(model.get(part), Mapping):
                raise ValueError(
                    f'model.{part}: expected dict(type=...), found {model.get(part)!r}'
                )
    check_scope(cfg)
    check_steps(cfg, 'model')
    check_visualizer(cfg, 'model', draws_poses=True)
    collate = find_field(cfg, 'test_dataloader.collate_fn')
    if collate is not None and not (isinstance(collate, str) and FUNCTIONS.get(collate)):
        raise ValueError(
            'test_dataloader.collate_fn: expected the name of a registered function, found '
            f'{collate!r}; without the field, the default function is used'
        )


def check_flip_test(cfg: AnyConfig, flip_test: bool | None) -> None:
    """Check that a model has a flip test, if an option switches it on or off.

    Raises:
        ValueError: The model has no flip test.
    """
    if flip_test is not None and 'flip_test' not in (find_field(cfg, 'model.test_cfg') or {}):
        raise ValueError('flip_test: this model has no flip test')
