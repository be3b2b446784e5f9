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
    """The steps of a config's test pipeline; raises ValueError if there are none."""
    steps = find_field(cfg, PIPELINE)
    if not isinstance(steps, list | tuple) or not steps:
        found = 'none' if steps is None else repr(steps)[:60]
        raise ValueError(f'{option}: expected a list of transforms as {PIPELINE}, found {found}')
    return list(steps)


def check_pipeline(cfg: AnyConfig) -> None:
    """Check that a config's test pipeline can be built and packs its results.

    Raises:
        ValueError: It cannot, or does not.
    """
    build_steps(cfg, 'model', 'mmpose')


def build_steps(cfg: AnyConfig, option: str, scope: str) -> list[Callable]:
    """Build the transforms of a config's test pipeline.

    Args:
        cfg: The config.
        option: Option that named it, for messages.
        scope: Registry scope if the config has none.

    Raises:
        ValueError: They cannot be built, or the last one does not pack.
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
    """Check that the last transform of a pipeline packs inputs, unless it is a third party's.

    Raises:
        ValueError: It is a transform of the libraries that does not pack.
    """
    last = type(transforms[-1])
    if last.__module__.split('.')[0] in ('mmpose', 'mmdet', 'mmcv') and 'Pack' not in last.__name__:
        raise ValueError(
            f'{option}: expected a last step in {PIPELINE} that packs inputs and data_samples, '
            f'such as PackPoseInputs or PackDetInputs, found {last.__name__}'
        )


def check_first_step(step: object) -> None:
    """Check that a test pipeline begins with a loader of images, unless it is a third party's.

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
    """Check that a loader's file backend and decoder are installed, with a tiny image.

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
