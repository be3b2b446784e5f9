"""Checks of the keypoints of a pose model: their description, and its head."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmpose.registry import DATASETS
from torch import nn

from ...errors import CheckpointError
from .fields import AnyConfig, find_field, naming, type_name

# Fields of a metainfo that MMPose asserts without a message.
_METAINFO = ('dataset_name', 'keypoint_info', 'skeleton_info', 'joint_weights', 'sigmas')


def check_dataset_meta(cfg: AnyConfig, found: Any, source: str) -> tuple[Mapping, str]:
    """Check that the keypoints of a pose model are described, in its weights or its config.

    Args:
        cfg: The config, which describes them by its ``train_dataloader`` (upstream's rule).
        found: The ``dataset_meta`` of the weights; None if they have none.
        source: Name of the file that ``found`` is from.

    Returns:
        The ``dataset_meta`` that is used, and the file or field that it is from.

    Raises:
        CheckpointError: The weights describe them wrongly.
        ValueError: Neither does, or the config describes them wrongly.
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
            f'{source}: expected a whole number from 1 as num_keypoints in dataset_meta, '
            f'found {number!r}'
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
    # Its package imports this one's inferencer, which imports this module.
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
                f'{error} is missing, as a field or as a keypoint that swap or link names'
            ) from error
        except AssertionError as error:  # a bare one, of what a file or a dataset class has
            raise ValueError(
                f'expected {", ".join(_METAINFO)}; name a file with them by dict(from_file=...)'
            ) from error
    if meta is None:
        kind = find_field(cfg, 'train_dataloader.dataset.type')
        found = f'a dataset of type {type_name(kind)}, which is not known' if dataset else 'neither'
        raise ValueError(
            'dataset_meta: expected the keypoints in the weights, or in the config as '
            f'{field} (say dict(from_file="configs/_base_/datasets/coco.py")), found {found}'
        )
    return meta


def dataset_kind(cfg: AnyConfig) -> str:
    """The kind of data of a pose config, by which MMPose chooses default detectors: ``body``, ...

    Raises:
        ValueError: Its ``dataset_type`` is missing or unknown.
    """
    given = cfg.get('dataset_type')
    found = DATASETS.get(given) if isinstance(given, str) else given
    if not isinstance(found, type):
        raise ValueError(
            'dataset_type: expected a registered dataset in the pose config, by which the default '
            f'detector is chosen, found {given!r}; or name a det_model, whole_image for none'
        )
    return found.__module__.split('datasets.')[-1].split('.')[0].lower()


def check_pose_model(model: nn.Module) -> None:
    """Check that a pose model that was built can predict.

    Raises:
        ValueError: It has no head, or its head has no codec.
    """
    head = getattr(model, 'head', None)
    if head is None:
        raise ValueError(f'model.head: expected a model with a head, found none in {_name(model)}')
    if getattr(head, 'decoder', head) is None:
        raise ValueError(
            f'model.head.decoder: expected a codec, by which {_name(head)} decodes keypoints, '
            'found none'
        )


def check_keypoints(model: nn.Module, meta: Mapping, source: str) -> None:
    """Check that a pose model that was built has the keypoints that are described.

    Args:
        model: The model; only heads of MMPose are checked.
        meta: Its ``dataset_meta``. Models that output only some of their keypoints
            (``output_keypoint_indices``) may have another one.
        source: File or field that ``meta`` is from.

    Raises:
        CheckpointError: It has another number of keypoints.
    """
    head = model.head
    names = 'num_keypoints', 'num_joints', 'out_channels'
    number = next((getattr(head, name) for name in names if hasattr(head, name)), None)
    known = type(head).__module__.startswith('mmpose.') and isinstance(number, int)
    if not known or (model.test_cfg or {}).get('output_keypoint_indices') is not None:
        return
    if getattr(getattr(head, 'decoder', None), 'heatmap_type', None) == 'combined':
        number //= 3  # UDP has a heatmap and two of offsets for each keypoint
    if number != meta['num_keypoints']:
        raise CheckpointError(
            f'{source}: expected num_keypoints {number} in dataset_meta, as model.head has, '
            f'found {meta["num_keypoints"]}'
        )


def _name(thing: object) -> str:
    return type(thing).__name__
