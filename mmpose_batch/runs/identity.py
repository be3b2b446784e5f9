"""The identity of a run: everything that its output depends on; a resumed run must match it."""

import hashlib
import json
import os
import os.path as osp
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import cv2
import mmcv
import mmdet
import mmengine
import mmpose
import numpy as np
import PIL
import torch
from torch import nn

from ..config import BatchOptions, CallOptions, VideoOptions
from ..engines.cache import versions as engine_versions
from ..errors import RunError
from ..inferencer import BatchPose2DInferencer
from ..outputs import INFO_FILE
from ..sources.base import Frame
from ..sources.items import Items
from ..version import __version__
from ..writers.options import RunOptions
from ..writers.registry import specs


def of_inferencer(inferencer: BatchPose2DInferencer, call: CallOptions) -> dict[str, Any]:
    """What the outputs of an inferencer depend on, besides its inputs."""
    detector = inferencer.detector
    options = replace(inferencer.options, num_threads=torch.get_num_threads())
    cat_ids = None if detector is None else detector.cat_ids
    return {
        **of_models(inferencer),
        **of_call(call),
        **of_options(options, inferencer.device, cat_ids),
    }


def of_models(inferencer: BatchPose2DInferencer) -> dict[str, Any]:
    """Digests of the networks' configs and weights, and of the engine's external ONNX file."""
    detector = inferencer.detector
    return {
        'config': _digest(_config(inferencer.model)),
        'model': _digest(_tensors(inferencer.model)),
        'det_config': None if detector is None else _digest(_config(detector.model)),
        'detector': None if detector is None else _digest(_tensors(detector.model)),
        'engine_file': inferencer.runner.report.get('file'),
    }


def of_items(items: Items) -> dict[str, Any]:
    """Digests of the inputs' names, sizes and modification times, and of precomputed boxes.

    With videos, also which of their frames are used, and the version of their decoder.
    """
    boxes = (frame.bboxes for frame in items.images if frame.bboxes is not None)
    identity = {
        'inputs': _digest(map(_fingerprint, items.all)),
        'bboxes': _digest(box.tobytes() for box in boxes),
    }
    if items.videos:
        identity['videos'] = of_videos(items.options)
    return identity


def of_videos(options: VideoOptions) -> dict[str, Any]:
    """Which frames of videos are used, whether they are tracked, and versions of the packages."""
    start, end = options.seconds
    packages = ('av', 'trackers', 'supervision') if options.track else ('av',)
    return {
        'vid_stride': options.vid_stride,
        'start': start,
        'end': end,
        'track': options.track,
        **{name: version(name) for name in packages},
    }


def of_categories(
    of_label: Mapping[int, int] | None, frames: Sequence[Frame]
) -> dict[str, Any] | None:
    """Everything that categories of instances depend on; None if records have no categories."""
    if of_label is None:
        return None
    labels = (frame.labels for frame in frames if frame.labels is not None)
    return {
        'of_label': {str(label): category for label, category in of_label.items()},
        'labels': _digest(each.tobytes() for each in labels),
    }


def of_call(call: CallOptions) -> dict[str, Any]:
    """Options of the call, except those that are derived from the models and output formats."""
    values = asdict(replace(call, keep_images=False))
    del values['keep_labels']  # see `of_categories`
    return {**values, 'test_cfg': _digest([_to_json(values['test_cfg'])])}


def of_writers(options: RunOptions) -> dict[str, Any]:
    """Output formats that are written image by image, which a resumed run cannot add later."""
    entries: dict[str, Any] = {}
    for spec in specs().values():
        entries |= spec.identity(options)
    return entries


def of_options(
    options: BatchOptions, device: str | torch.device, det_cat_ids: Sequence[int] | None
) -> dict[str, Any]:
    """The options of an inferencer, resolved for its device, and the versions of packages."""
    return {
        'det_cat_ids': None if det_cat_ids is None else list(det_cat_ids),
        'det_batch_size': options.det_batch_size,
        # None, as in runs from before the option, which can be resumed.
        'det_interval': options.det_interval if options.det_interval > 1 else None,
        'precision': options.precision,
        'engine': options.engine,
        'engine_device': options.engine_device,
        'calib_images': options.calib_images,
        'rect': options.rect,
        'no_person': options.no_person,
        **of_device(torch.device(device), options),
        'threads': options.num_threads,
        'versions': versions(),
        'engine_versions': {} if options.engine == 'torch' else engine_versions(),
    }


def of_device(device: torch.device, options: BatchOptions) -> dict[str, Any]:
    """The type of a device; with an NVIDIA GPU also its name, its libraries and TF32."""
    if device.type != 'cuda' or not torch.cuda.is_available():
        return {'device': device.type}
    return {
        'device': device.type,
        'gpu': {
            'name': torch.cuda.get_device_name(device),
            'cuda': torch.version.cuda,
            'cudnn': torch.backends.cudnn.version(),
        },
        # None for the default, as in runs from before the option.
        'tf32': False if options.tf32 is False else None,
    }


def check_identity(
    out_dir: str, identity: Mapping[str, Any], complete: bool = True
) -> dict[str, Any]:
    """Check that a run can resume the one that a folder holds.

    Args:
        out_dir: The folder.
        identity: Identity of the resumed run.
        complete: Whether this is the complete identity, or only the part known without models.

    Returns:
        The content of ``run.json``.

    Raises:
        RunError: It cannot, since the identity differs or ``run.json`` is damaged.
    """
    try:
        with open(osp.join(out_dir, INFO_FILE), encoding='utf-8') as file:
            info = json.load(file)
        before = dict(info['identity'])
        dict(info['settled'])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            'cannot resume: run.json, which identifies the earlier run, is missing or damaged'
        ) from error
    check_same(before, identity, complete)
    return info


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], complete: bool = True) -> None:
    """Check that two identities are the same.

    The GPU is not compared with a run from before it was part of the identity.

    Args:
        before: That of the earlier run, or a part of it.
        now: That of the resumed run.
        complete: Whether ``before`` must not have more than ``now``.

    Raises:
        RunError: They differ.
    """
    now = json.loads(json.dumps(now))
    keys = {*before, *now} if complete else {*now}
    keys -= {'gpu'} - before.keys()
    if changed := [key for key in sorted(keys) if before.get(key) != now.get(key)]:
        raise RunError(
            f'cannot resume: changed since the earlier run: {", ".join(changed)} '
            '(results would be mixed); use the same arguments or another folder'
        )


def versions() -> dict[str, str]:
    """Versions of all packages that results depend on."""
    modules = [mmpose, mmdet, mmengine, mmcv, torch, np, cv2, PIL]
    if find_spec('pillow_heif'):  # decodes HEIC
        modules.append(import_module('pillow_heif'))
    return {
        'mmpose_batch': __version__,
        'python': platform.python_version(),
        **{module.__name__: module.__version__ for module in modules},
    }


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, 'big') + part)
    return digest.hexdigest()


def _to_json(value: Any) -> bytes:
    return json.dumps(value, default=str, sort_keys=True).encode()


def _config(model: nn.Module) -> Iterator[bytes]:
    config = model.cfg.to_dict()
    config.pop('visualizer', None)  # MMEngine may name it by the time of day
    yield _to_json(config)


def _tensors(model: nn.Module) -> Iterator[bytes]:
    for name, tensor in model.state_dict().items():
        yield name.encode()
        yield tensor.cpu().numpy().tobytes()


def _fingerprint(frame: Frame) -> bytes:
    """Name, size and modification time of a file; its content is not read."""
    try:
        info = os.stat(frame.path)
        state = f'{info.st_size} {info.st_mtime_ns}'
    except (OSError, ValueError):  # no such file: its failure record reports it
        state = ''
    return f'{frame.name} {state}'.encode()
