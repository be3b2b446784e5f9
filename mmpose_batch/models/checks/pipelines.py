"""Checks of test pipelines and their image loaders."""

import copy
from collections.abc import Callable, Sequence

import cv2
import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from .fields import PIPELINE, AnyConfig, find_field, naming, reason


def check_steps(cfg: AnyConfig, option: str) -> list[dict]:
    """Return the steps of a config's test pipeline.

    Args:
        cfg: The config.
        option: Option that named the config, for error messages.

    Raises:
        ValueError: The config has no list of steps, or an empty one.
    """
    steps = find_field(cfg, PIPELINE)
    if not isinstance(steps, list | tuple) or not steps:
        found = 'none' if steps is None else repr(steps)[:60]
        raise ValueError(f'{option}: expected a list of transforms as {PIPELINE}, found {found}')
    return list(steps)


def check_pipeline(cfg: AnyConfig) -> None:
    """Check that a config's test pipeline can be built and packs its results.

    Raises:
        ValueError: The pipeline cannot be built, or its last step does not pack results.
    """
    build_steps(cfg, 'model', 'mmpose')


def build_steps(cfg: AnyConfig, option: str, scope: str) -> list[Callable]:
    """Build the transforms of a config's test pipeline.

    Args:
        cfg: The config.
        option: Option that named the config, for error messages.
        scope: Registry scope if the config has none.

    Raises:
        ValueError: A transform cannot be built, or the last one does not pack results.
    """
    steps = copy.deepcopy(check_steps(cfg, option))
    with (
        naming(f'{option}: {PIPELINE} cannot be built'),
        DefaultScope.overwrite_default_scope(cfg.get('default_scope') or scope),
    ):
        transforms = Compose(steps).transforms
    check_packs(transforms, option)
    return transforms


def check_packs(transforms: Sequence[Callable], option: str) -> None:
    """Check that the last transform of a pipeline packs inputs, unless it is a third-party one.

    Raises:
        ValueError: The last transform is one of the OpenMMLab packages and does not pack.
    """
    last = type(transforms[-1])
    if last.__module__.split('.')[0] in ('mmpose', 'mmdet', 'mmcv') and 'Pack' not in last.__name__:
        raise ValueError(
            f'{option}: expected a last step in {PIPELINE} that packs inputs and data_samples, '
            f'such as PackPoseInputs or PackDetInputs, found {last.__name__}'
        )


def check_first_step(step: object) -> None:
    """Check that the first step of a test pipeline loads images, unless it is a third-party one.

    Raises:
        ValueError: The step is one of the OpenMMLab packages and does not load images.
    """
    known = type(step).__module__.split('.')[0] in ('mmpose', 'mmdet', 'mmcv')
    if known and not isinstance(step, LoadImageFromFile):
        raise ValueError(
            f'{PIPELINE}: expected LoadImage as the first step, which loads files, '
            f'found {type(step).__name__}'
        )


def check_loader(loader: LoadImageFromFile) -> None:
    """Check that the file backend and the decoder of a loader work, with a tiny image.

    Raises:
        ValueError: The file backend or the decoder is not installed or unknown.
    """
    old, args = getattr(loader, 'file_client_args', None), loader.backend_args
    if old or args:
        what = f'backend_args {dict(args or old)}; use None for local files'
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
        if "'NoneType'" in found:  # MMCV sets modules that it could not import to None
            found = 'it is not installed'
        raise ValueError(
            f'{PIPELINE}: the loader cannot decode images with imdecode_backend {decoder!r} and '
            f'color_type {loader.color_type!r}: {found}'
        ) from error
