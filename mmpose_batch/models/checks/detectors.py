"""Checks of the configs of detectors."""

from numbers import Integral
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import DATASETS as ALL_DATASETS
from mmengine.registry import MODELS

from .configs import ESTIMATORS, check_config, check_scope, check_visualizer
from .fields import PIPELINE, REGISTERED, AnyConfig, find_field, type_name
from .pipelines import build_steps, check_steps


def check_detector_config(
    cfg: AnyConfig, det_cat_ids: Any = None, device: str | torch.device = 'cpu'
) -> None:
    """Check that a config is that of a detector and has all fields needed for inference.

    Args:
        cfg: The config.
        det_cat_ids: Detector category id or ids to keep; None for 0.
        device: Device of the detector.

    Raises:
        CheckpointError: The config is None.
        ValueError: The config is not that of a detector, a field is missing or invalid, a
            category id does not exist, or the installed mmcv cannot run the detector on the
            device.
    """
    option = 'det_model'
    check_config(cfg, option)
    model, dataset = cfg['model'], find_field(cfg, 'test_dataloader.dataset.type')
    if type_name(model.get('type')) in ESTIMATORS:
        raise ValueError(
            'det_model: expected the config of an MMDetection model, found one of a pose model, '
            f'{type_name(model["type"])}'
        )
    check_scope(cfg, option)
    steps = check_steps(cfg, option)
    check_visualizer(cfg, option)
    build_steps(cfg, option, 'mmdet')
    if not any(step.get('type') in ('LoadImageFromFile', LoadImageFromFile) for step in steps):
        raise ValueError(f'det_model: expected LoadImageFromFile in {PIPELINE}, found none')
    known = (('model.type', model.get('type'), MODELS),)
    known += (('test_dataloader.dataset.type', dataset, ALL_DATASETS),)
    for field, name, root in known:
        with root.switch_scope_and_registry(cfg.get('default_scope') or 'mmdet') as registry:
            if not isinstance(name, type) and (name is None or registry.get(name) is None):
                raise ValueError(
                    f'det_model: {field}: expected one of the {registry.scope}::{registry.name} '
                    f'registry, found {name!r}; {REGISTERED}'
                )
    _check_labels(cfg, [0] if det_cat_ids is None else det_cat_ids)
    if 'roi_head' in model and lacks_operators(device):
        raise ValueError(
            f'det_model: {type_name(model["type"])} is a two-stage detector, which needs CUDA '
            f'operators on {torch.device(device)}, and the installed mmcv has none; use a '
            'single-stage detector, such as rtmdet-m, or an mmcv with CUDA operators'
        )


def lacks_operators(device: str | torch.device) -> bool:
    """Return whether a device is an NVIDIA GPU and mmcv was compiled without CUDA operators."""
    from mmcv.ops import get_compiling_cuda_version  # slow to import

    is_gpu = torch.device(device).type == 'cuda'
    return is_gpu and get_compiling_cuda_version() == 'not available'


def _check_labels(cfg: AnyConfig, labels: Any) -> None:
    """Check that the detector category ids to keep exist."""
    labels = list(labels) if np.ndim(labels) else [labels]
    found = ', '.join(map(str, labels)) or 'none'
    integers = all(isinstance(each, Integral) and not isinstance(each, bool) for each in labels)
    if not labels or not integers or min(labels) < 0:
        raise ValueError(f'det_cat_ids: expected integers >= 0, found {found}')
    heads = ('model.bbox_head', 'model.roi_head.bbox_head')
    counts = [find_field(cfg, f'{head}.num_classes') for head in heads]
    classes = next((count for count in counts if isinstance(count, int)), None)
    if classes is not None and max(labels) >= classes:
        raise ValueError(
            f'det_cat_ids: expected integers < {classes}, the number of classes of the detector, '
            f'found {found}'
        )
