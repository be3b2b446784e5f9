"""Checks of a pose model's keypoints: their description in ``dataset_meta``, and the head."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmpose.registry import DATASETS
from torch import nn

from ...errors import CheckpointError
from .fields import AnyConfig, find_field, naming, type_name

# Fields of a metainfo that MMPose requires by assertions without a message.
_METAINFO = ('dataset_name', 'keypoint_info', 'skeleton_info', 'joint_weights', 'sigmas')


def check_dataset_meta(cfg: AnyConfig, found: Any, source: str) -> tuple[Mapping, str]:
    """Check that the weights or the config of a pose model describe its keypoints.

    Args:
        cfg: The config, whose ``train_dataloader`` describes the keypoints (upstream's rule).
        found: The ``dataset_meta`` of the weights; None if they have none.
        source: Name of the file that contains ``found``.

    Returns:
        The ``dataset_meta`` that is used, and the file or field that contains it.

    Raises:
        CheckpointError: The ``dataset_meta`` is invalid.
        ValueError: There is no description of the keypoints, or that of the config is invalid.
    """
    if found is None:
        found = _meta_of_config(cfg)
        source = 'train_dataloader.dataset.metainfo'
    needed = ['num_keypoints']
    if find_field(cfg, 'model.test_cfg.flip_test'):
        needed.append('flip_indices')
    if missing := [name for name in needed if name not in found]:
        raise CheckpointError(
            f'{source}: expected {", ".join(needed)} in dataset_meta, found no {", ".join(missing)}'
        )
    number = found['num_keypoints']
    if not isinstance(number, Integral) or isinstance(number, bool) or number < 1:
        raise CheckpointError(
            f'{source}: expected an integer >= 1 as num_keypoints in dataset_meta, found {number!r}'
        )
    for name in ('flip_indices', 'sigmas'):
        values = found.get(name)
        if values is not None and np.size(values) not in (0, number):
            raise CheckpointError(
                f'{source}: expected as many {name} as num_keypoints in dataset_meta, {number}, '
                f'found {np.size(values)}'
            )
    return found, source


def _meta_of_config(cfg: AnyConfig) -> dict:
    # Imported here, since mmpose.apis imports this package's inferencer, which imports this module.
    from mmpose.apis.inference import dataset_meta_from_config

    dataset = find_field(cfg, 'train_dataloader.dataset')
    metainfo = find_field(cfg, 'train_dataloader.dataset.metainfo')
    field = 'train_dataloader.dataset.metainfo'
    if metainfo is not None and not isinstance(metainfo, Mapping):
        raise ValueError(f'{field}: expected a dict, found {metainfo!r}')
    own = metainfo is not None and 'from_file' not in metainfo
    missing = [name for name in _METAINFO if own and name not in metainfo]
    if missing:
        raise ValueError(f'{field}: expected {", ".join(_METAINFO)}, found no {", ".join(missing)}')
    with naming(f'{field}: cannot be used'):
        config = cfg if isinstance(cfg, Config | ConfigDict) else ConfigDict(cfg)
        try:
            meta = dataset_meta_from_config(config, dataset_mode='train')
        except KeyError as error:
            raise ValueError(
                f'{error} is missing, as a field or as a keypoint that swap or link refer to'
            ) from error
        except AssertionError as error:  # has no message; raised for a file or dataset class
            raise ValueError(
                f'expected {", ".join(_METAINFO)}; pass a file with them by dict(from_file=...)'
            ) from error
    if meta is None:
        kind = find_field(cfg, 'train_dataloader.dataset.type')
        found = f'a dataset of unknown type {type_name(kind)}' if dataset else 'neither'
        raise ValueError(
            'dataset_meta: expected a description of the keypoints in the weights, or in the '
            f'config as {field}, for instance '
            f'dict(from_file="configs/_base_/datasets/coco.py"), found {found}'
        )
    return meta


def dataset_kind(cfg: AnyConfig) -> str:
    """Return the kind of data of a pose config, by which MMPose selects default detectors.

    Returns:
        The name of a folder of MMPose's datasets, such as ``body`` or ``hand``.

    Raises:
        ValueError: The ``dataset_type`` of the config is missing or unknown.
    """
    given = cfg.get('dataset_type')
    found = DATASETS.get(given) if isinstance(given, str) else given
    if not isinstance(found, type):
        raise ValueError(
            'dataset_type: expected a registered dataset in the pose config, by which the default '
            f'detector is selected, found {given!r}; or pass a det_model (whole_image for none)'
        )
    return found.__module__.split('datasets.')[-1].split('.')[0].lower()


def check_pose_model(model: nn.Module) -> None:
    """Check that a built pose model has the parts needed to predict.

    Raises:
        ValueError: The model has no head, or its head has no codec.
    """
    head = getattr(model, 'head', None)
    if head is None:
        raise ValueError(f'model.head: expected a model with a head, found none in {_name(model)}')
    if getattr(head, 'decoder', head) is None:
        raise ValueError(
            f'model.head.decoder: expected a codec, with which {_name(head)} decodes keypoints, '
            'found none'
        )


def check_keypoints(model: nn.Module, meta: Mapping, source: str) -> None:
    """Check that a built pose model has as many keypoints as its ``dataset_meta`` describes.

    Args:
        model: The model. Only heads of MMPose are checked, and only if the model outputs all of
            its keypoints (no ``output_keypoint_indices``).
        meta: Its ``dataset_meta``.
        source: File or field that contains ``meta``.

    Raises:
        CheckpointError: The numbers of keypoints differ.
    """
    head = model.head
    names = 'num_keypoints', 'num_joints', 'out_channels'
    number = next((getattr(head, name) for name in names if hasattr(head, name)), None)
    known = type(head).__module__.startswith('mmpose.') and isinstance(number, int)
    if not known or (model.test_cfg or {}).get('output_keypoint_indices') is not None:
        return
    if getattr(getattr(head, 'decoder', None), 'heatmap_type', None) == 'combined':
        number //= 3  # UDP has one heatmap and two offset maps for each keypoint
    if number != meta['num_keypoints']:
        raise CheckpointError(
            f'{source}: expected num_keypoints {number} in dataset_meta, as model.head has, '
            f'found {meta["num_keypoints"]}'
        )


def _name(thing: object) -> str:
    return type(thing).__name__
