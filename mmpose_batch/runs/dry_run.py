"""What a run would read and write and which models it would take, without building any."""

import os.path as osp
from collections.abc import Iterator, Sequence
from urllib.parse import urlparse

from mmengine.device import get_device

from ..config import BatchOptions
from ..factory import Plan
from ..models.checkpoint import cached_path, check_weights
from ..models.checks import type_name
from ..stages.detect import DetectorChoice
from ..writers.jsonl import read_records
from .run import RunOptions, holds_run


def describe_run(paths: Sequence[str], plan: Plan, options: RunOptions) -> Iterator[str]:
    """What a run over some images comes to, in lines.

    Args:
        paths: Of the images.
        plan: Of the inferencer.
        options: Of the run.

    Yields:
        Lines such as ``inputs    3 images, from a.jpg to c.jpg``.

    Raises:
        CheckpointError: Weights that are no URL are missing, or are of another kind.
        ValueError: An option is beyond the device.
    """
    size = sum(osp.getsize(path) for path in paths if osp.isfile(path))
    yield f'inputs    {len(paths)} images, {size / 2**20:.1f} MiB, from {paths[0]} to {paths[-1]}'
    yield f'pose      {_kind(plan.cfg)}, weights: {_weights(plan.weights, "weights")}'
    if plan.detector is not None:
        yield f'detector  {_detector(plan.detector)}'
    elif plan.cfg.data_mode == 'topdown':
        yield 'detector  none: each image is one person, or persons have precomputed boxes'
    names = BatchOptions.__slots__
    own = {name: value for name, value in plan.settings.items() if name in names}
    chosen = BatchOptions(**own).resolved(plan.settings.get('device') or get_device())
    yield (
        f'runs on   {plan.settings.get("device") or get_device()}, engine {chosen.engine}, '
        f'{chosen.precision}, threads: {chosen.num_threads} for the networks, '
        f'{chosen.num_workers} to read and prepare'
    )
    yield from _writes(options, len(paths))


def _kind(cfg: dict) -> str:
    """The model of a config, and the file that it is from."""
    name = getattr(cfg, 'filename', None)
    return type_name(cfg['model'].get('type')) + (f' of {name}' if name else '')


def _detector(choice: DetectorChoice) -> str:
    labels = ', '.join(map(str, choice.cat_ids))
    weights = _weights(choice.weights, 'det_weights')
    return f'{_kind(choice.config)}, weights: {weights}, category ids kept: {labels}'


def _weights(weights: str | None, option: str) -> str:
    if weights in (None, 'none'):
        return 'random'
    if not urlparse(weights).scheme.startswith('http'):
        check_weights(weights, option)
        return weights
    path = cached_path(weights)
    return f'{path}, downloaded before' if osp.isfile(path) else f'{weights}, to be downloaded'


def _writes(options: RunOptions, count: int) -> Iterator[str]:
    files = ['predictions.jsonl', 'failures.jsonl', 'run.json']
    if 'coco' in options.formats:
        files.append('predictions.coco.json')
    if 'json' in options.formats:
        files.append(f'predictions/ ({count} files)')
    if options.save_vis:
        files.append(f'vis/ ({count} drawings)')
    yield f'writes    {", ".join(files)} below {options.out_dir}'
    if not holds_run(options.out_dir):
        return
    done = sum(1 for _ in read_records(osp.join(options.out_dir, 'predictions.jsonl')))
    what = 'resumes' if options.resume else 'replaces'
    yield f'{what:<9} the run in {options.out_dir}, which has {done} images'
