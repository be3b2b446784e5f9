"""What a config must have, checked before anything is built: each error is one line."""

import copy
import importlib.util
import os.path as osp
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from textwrap import shorten
from typing import Any

import cv2
import mmcv
import mmengine.fileio as fileio
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import DATASETS as ALL_DATASETS
from mmengine.registry import FUNCTIONS, MODELS, VISUALIZERS, DefaultScope
from mmpose.registry import DATASETS
from torch import nn

from ..errors import CheckpointError

AnyConfig = Config | ConfigDict | dict

PIPELINE = 'test_dataloader.dataset.pipeline'
# Those of MMPose, which need each of these parts.
_ESTIMATORS = ('TopdownPoseEstimator', 'BottomupPoseEstimator')
_PARTS = ('backbone', 'head')
# What MMPose asserts to be in a metainfo, without a text.
_METAINFO = ('dataset_name', 'keypoint_info', 'skeleton_info', 'joint_weights', 'sigmas')
_REGISTERED = 'check the name, install its package, or import its module by custom_imports'


def type_name(kind: str | type | None) -> str | None:
    """The name of what a config's ``type`` says: a name, maybe with a scope, or a class."""
    return kind.split('.')[-1] if isinstance(kind, str) else getattr(kind, '__name__', None)


def find_field(cfg: AnyConfig, path: str) -> Any:
    """The value at dotted keys of a config, None where one of them is missing."""
    value: Any = cfg
    for key in path.split('.'):
        value = value.get(key) if isinstance(value, Config | Mapping) else None
    return value


def reason(error: BaseException) -> str:
    """One line that says what failed, of an error of any library.

    It is the type and the text of the error. Where it has no text, as that of a bare
    ``assert``, it is the line of code that raised it.
    """
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = ' '.join(str(text).split())
    if found := re.search(r'(\S+) is not in the (\S+ registry)', text):
        return f'no {found[1].lstrip(chr(39))} in the {found[2]}; {_REGISTERED}'
    if 'must contain the key "type"' in text:
        return 'a part of it has no type'
    if not text and (frames := traceback.extract_tb(error.__traceback__)):
        text = f'{frames[-1].line} ({osp.basename(frames[-1].filename)}:{frames[-1].lineno})'
    kind = [] if type(error) is ValueError else [type(error).__name__]
    return shorten(': '.join(filter(None, [*kind, text])), 300, placeholder=' ...')


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn what a library raises inside into one line that begins with ``what``.

    Raises:
        ValueError: In place of any exception, which is its cause; out of memory excepted.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # a config is code, and registries pass on all that it raises
        raise ValueError(f'{what}: {reason(error)}') from error


def check_device(device: str | torch.device) -> None:
    """See that PyTorch has a device.

    Raises:
        ValueError: It has not, or does not know the name.
    """
    with naming(f'device: {device} cannot be used'):
        torch.empty(0, device=device)


# -------------------------------------------------------------------------------- both


def check_config(cfg: AnyConfig | None, option: str = 'model') -> None:
    """See that a config has a model.

    Raises:
        CheckpointError: None, from which upstream takes the config in the checkpoint.
        ValueError: Something else without a model.
    """
    if cfg is None:
        raise CheckpointError(
            f'{option}: expected a config or a model name; the config inside a checkpoint is '
            'Python code, which is never run from a weights file'
        )
    if 'model' not in cfg:
        found = 'one without' if cfg else 'an empty one'
        raise ValueError(f'{option}: expected a config with a model, found {found}')
    if not isinstance(cfg['model'], Mapping):
        raise ValueError(
            f'{option}: expected model=dict(type=...) in the config, '
            f'found {type(cfg["model"]).__name__}'
        )


def check_scope(cfg: AnyConfig, option: str = 'model') -> None:
    """See that the package of a config's models can be imported.

    Raises:
        ValueError: It is not installed.
    """
    scope = cfg.get('default_scope')
    if scope is None or scope in MODELS.children:
        return
    if importlib.util.find_spec(scope) is None:
        raise ValueError(
            f'{option}: the config has default_scope {scope!r}, a package that is not installed; '
            f'install {scope}, or import what registers it by custom_imports'
        )


def _check_steps(cfg: AnyConfig, option: str) -> list[dict]:
    """The steps of a config's test pipeline; ValueError where there are none."""
    steps = find_field(cfg, PIPELINE)
    if not isinstance(steps, list | tuple) or not steps:
        found = 'none' if steps is None else repr(steps)[:60]
        raise ValueError(f'{option}: expected a list of transforms as {PIPELINE}, found {found}')
    return list(steps)


def check_visualizer(cfg: AnyConfig, option: str, draws_poses: bool = False) -> None:
    """See that the visualizer of a config is known, if it has one that is not None.

    Raises:
        ValueError: It is not, or it is none of MMPose's where poses are drawn.
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


# -------------------------------------------------------------------------------- pose


def check_pose_config(cfg: AnyConfig | None) -> None:
    """See that a config is one of a pose model, with what inference needs of it.

    Raises:
        CheckpointError: As :func:`check_config`.
        ValueError: Another config, or one without a part that is needed.
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
    if type_name(model['type']) in _ESTIMATORS:
        for part in _PARTS:
            if not isinstance(model.get(part), Mapping):
                raise ValueError(
                    f'model.{part}: expected dict(type=...), found {model.get(part)!r}'
                )
    check_scope(cfg)
    _check_steps(cfg, 'model')
    check_visualizer(cfg, 'model', draws_poses=True)
    collate = find_field(cfg, 'test_dataloader.collate_fn')
    if collate is not None and not (isinstance(collate, str) and FUNCTIONS.get(collate)):
        raise ValueError(
            'test_dataloader.collate_fn: expected the name of a registered function, found '
            f'{collate!r}; without it, samples are collated as usual'
        )


def check_pipeline(cfg: AnyConfig) -> None:
    """See that a config's test pipeline can be built and packs its results.

    Raises:
        ValueError: It cannot, or does not.
    """
    _build_steps(cfg, 'model', 'mmpose')


def _build_steps(cfg: AnyConfig, option: str, scope: str) -> list[Callable]:
    steps = copy.deepcopy(_check_steps(cfg, option))
    with (
        naming(f'{option}: {PIPELINE} cannot be built'),
        DefaultScope.overwrite_default_scope(cfg.get('default_scope') or scope),
    ):
        transforms = Compose(steps).transforms
    check_packs(transforms, option)
    return transforms


def check_packs(transforms: Sequence[Callable], option: str) -> None:
    """See that the last transform of a pipeline packs inputs, unless it is a third party's.

    Raises:
        ValueError: It is one of the libraries, and packs nothing.
    """
    last = type(transforms[-1])
    if last.__module__.split('.')[0] in ('mmpose', 'mmdet', 'mmcv') and 'Pack' not in last.__name__:
        raise ValueError(
            f'{option}: expected a last step in {PIPELINE} that packs inputs and data_samples, '
            f'such as PackPoseInputs or PackDetInputs, found {last.__name__}'
        )


def check_flip_test(cfg: AnyConfig, flip_test: bool | None) -> None:
    """See that a model does the flip test that an option switches on or off.

    Raises:
        ValueError: It has none.
    """
    if flip_test is not None and 'flip_test' not in (find_field(cfg, 'model.test_cfg') or {}):
        raise ValueError('flip_test: this model never tests mirrored images')


def check_first_step(step: object) -> None:
    """See that a test pipeline begins with what loads images, as far as it is known.

    Raises:
        ValueError: It begins with another step of the OpenMMLab packages.
    """
    known = type(step).__module__.split('.')[0] in ('mmpose', 'mmdet', 'mmcv')
    if known and not isinstance(step, LoadImageFromFile):
        raise ValueError(
            f'{PIPELINE}: expected LoadImage as the first step, which loads files, '
            f'found {type(step).__name__}'
        )


def check_loader(loader: LoadImageFromFile) -> None:
    """See that a loader's file backend and decoder are installed, by a tiny image.

    Raises:
        ValueError: One of them is not, or is unknown.
    """
    old, args = getattr(loader, 'file_client_args', None), loader.backend_args
    if old or args:
        what = f'backend_args {dict(args or old)}; None is for local files'
        with naming(f'{PIPELINE}: the loader cannot read files with {what}'):
            if args:
                fileio.get_file_backend(backend_args=args)
            else:
                fileio.FileClient.infer_client(old)
    decoder = loader.imdecode_backend
    if (decoder, loader.color_type) == ('cv2', 'color'):  # the defaults work everywhere
        return
    suffix = '.tif' if decoder == 'tifffile' else '.jpg'
    data = cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    try:
        mmcv.imfrombytes(data, flag=loader.color_type, backend=decoder)
    except Exception as error:
        found = reason(error)
        if "'NoneType'" in found:  # MMCV's stand-in for a module that it could not import
            found = 'it is not installed'
        raise ValueError(
            f'{PIPELINE}: the loader cannot decode images with imdecode_backend {decoder!r} and '
            f'color_type {loader.color_type!r}: {found}'
        ) from error


def check_dataset_meta(cfg: AnyConfig, found: Any, source: str) -> tuple[Mapping, str]:
    """See that the keypoints of a pose model are described, in its weights or its config.

    Args:
        cfg: The config, which describes them by its ``train_dataloader`` (upstream's rule).
        found: The ``dataset_meta`` of the weights; None if they have none.
        source: Where ``found`` is from.

    Returns:
        The ``dataset_meta`` that is used, and where it is from.

    Raises:
        CheckpointError: The weights describe them wrongly.
        ValueError: Nothing does, or the config does it wrongly.
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
    """The kind of data of a pose config, as MMPose has its default detectors by: ``body``, ...

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
    """See that a pose model that was built can predict.

    Raises:
        ValueError: It has no head, or its head no codec.
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
    """See that a pose model that was built has the keypoints that are described.

    Args:
        model: With one of MMPose's heads; others are not checked.
        meta: Its ``dataset_meta``. Models that hand out some of their keypoints only
            (``output_keypoint_indices``) may have another one.
        source: Where ``meta`` is from.

    Raises:
        CheckpointError: It has others.
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


# ---------------------------------------------------------------------------- detector


def check_detector_config(cfg: AnyConfig, det_cat_ids: Any = None) -> None:
    """See that a config is one of a detector, with what inference needs of it.

    Raises:
        CheckpointError, ValueError: It is not.
    """
    option = 'det_model'
    check_config(cfg, option)
    model, dataset = cfg['model'], find_field(cfg, 'test_dataloader.dataset.type')
    if type_name(model.get('type')) in _ESTIMATORS:
        raise ValueError(
            'det_model: expected the config of an MMDetection model, found one of a pose model, '
            f'{type_name(model["type"])}'
        )
    check_scope(cfg, option)
    steps = _check_steps(cfg, option)
    check_visualizer(cfg, option)
    _build_steps(cfg, option, 'mmdet')
    if not any(step.get('type') in ('LoadImageFromFile', LoadImageFromFile) for step in steps):
        raise ValueError(f'det_model: expected LoadImageFromFile in {PIPELINE}, found none')
    known = (('model.type', model.get('type'), MODELS),)
    known += (('test_dataloader.dataset.type', dataset, ALL_DATASETS),)
    for field, name, root in known:
        with root.switch_scope_and_registry(cfg.get('default_scope') or 'mmdet') as registry:
            if not isinstance(name, type) and (name is None or registry.get(name) is None):
                raise ValueError(
                    f'det_model: {field}: expected one of the {registry.scope}::{registry.name} '
                    f'registry, found {name!r}; {_REGISTERED}'
                )
    _check_labels(cfg, [0] if det_cat_ids is None else det_cat_ids)


def _check_labels(cfg: AnyConfig, labels: Any) -> None:
    """See that a detector may find each of the labels that are kept."""
    labels = list(labels) if np.ndim(labels) else [labels]
    found = ', '.join(map(str, labels)) or 'none'
    whole = all(isinstance(each, Integral) and not isinstance(each, bool) for each in labels)
    if not labels or not whole or min(labels) < 0:
        raise ValueError(f'det_cat_ids: expected whole numbers from 0, found {found}')
    heads = ('model.bbox_head', 'model.roi_head.bbox_head')
    counts = [find_field(cfg, f'{head}.num_classes') for head in heads]
    classes = next((count for count in counts if isinstance(count, int)), None)
    if classes is not None and max(labels) >= classes:
        raise ValueError(
            f'det_cat_ids: expected labels below {classes}, the classes of the detector, '
            f'found {found}'
        )
