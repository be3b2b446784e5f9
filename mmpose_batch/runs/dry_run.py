"""Description of a run without building its models: inputs, outputs, models and options."""

import os.path as osp
from collections.abc import Collection, Iterator
from importlib.metadata import version
from typing import Any

from ..config import CallOptions
from ..engines.external_onnx import ExternalFile
from ..engines.registry import AUTO
from ..evaluation.categories import Categories
from ..factory import Plan, is_to_be_downloaded
from ..models.checkpoint import cached_path, load_checkpoint
from ..models.checks.fields import find_field, type_name
from ..models.checks.keypoints import check_dataset_meta
from ..models.keypoints import Keypoints
from ..outputs import INFO_FILE
from ..progress import format_duration
from ..sources.base import Frame
from ..sources.items import Items
from ..stages.detect import DetectorChoice
from ..writers.options import RunOptions
from . import identity
from .resume import check_failures, count_done, holds_run, is_complete, records_of
from .summary import count_inputs, counted

# Maximum number of videos that have a line each.
_FEW = 8


def read_weights(plan: Plan) -> Keypoints | None:
    """Read the weights of a plan, except weights that have to be downloaded.

    Returns:
        The keypoints; None if the weights that describe them have to be downloaded.

    Raises:
        CheckpointError: Weights cannot be read, or contain more than tensors and plain data.
        ValueError: Neither config nor weights describe the keypoints.
    """
    # Not at the top: importing it registers the inferencer.
    from mmpose.apis.inference import dataset_meta_from_config

    if plan.detector is not None:
        _read(plan.detector.weights, 'det_weights')
    if is_to_be_downloaded(plan.weights):
        return None
    checkpoint = _read(plan.weights, 'weights')
    meta = checkpoint.get('meta')
    meta = meta.get('dataset_meta') if isinstance(meta, dict) else None
    meta = checkpoint.get('dataset_meta') if meta is None else meta
    check_dataset_meta(plan.cfg, meta, f'weights: {plan.weights}')
    meta = dataset_meta_from_config(plan.cfg, dataset_mode='train') if meta is None else meta
    return Keypoints(meta, find_field(plan.cfg, 'model.test_cfg.output_keypoint_indices'))


def _read(weights: str | None, option: str) -> dict[str, Any]:
    if weights in (None, 'none') or is_to_be_downloaded(weights):
        return {}
    return load_checkpoint(weights, option)


def describe_run(items: Items, plan: Plan, options: RunOptions) -> Iterator[str]:
    """Describe a run over some images and videos, in lines.

    Args:
        items: The images and videos.
        plan: Plan of the inferencer, already checked.
        options: Options of the run.

    Yields:
        Lines such as ``inputs    3 images, from a.jpg to c.jpg``.
    """
    paths = [frame.path for frame in items.all]
    size = sum(osp.getsize(path) for path in paths if osp.isfile(path))
    ends = f'from {paths[0]} to {paths[-1]}' if len(paths) > 1 else paths[0]
    yield f'inputs    {count_inputs(items)}, {size / 2**20:.1f} MiB, {ends}'
    if items.videos:
        yield from describe_videos(items, plan)
    yield f'pose      {_kind(plan.cfg)}, weights: {_weights(plan.weights)}'
    if plan.detector is not None:
        yield f'detector  {_detector(plan.detector)}'
    elif plan.cfg.data_mode == 'topdown':
        yield 'detector  none: each image is one person, or persons have precomputed boxes'
    chosen = plan.options
    yield (
        f'runs on   {plan.device}, engine {chosen.engine}, {chosen.precision}, threads: '
        f'{chosen.num_threads} for the networks, {chosen.num_workers} for reading and preprocessing'
    )
    yield describe_outputs(items, options)


def describe_videos(items: Items, plan: Plan) -> Iterator[str]:
    """Describe the videos of a run by their headers, and which of their frames are used, in lines.

    Args:
        items: Inputs with videos.
        plan: Plan of the inferencer.
    """
    items.estimated()  # reads headers on several threads
    if len(items.videos) <= _FEW:
        for video in items.videos:
            yield f'video     {video.name}: {_video(items, video)}'
    else:
        unusable = [each for each in items.videos if isinstance(items.info(each), str)]
        usable = [each for each in items.videos if not isinstance(items.info(each), str)]
        seconds = sum(items.info(each).duration or 0 for each in usable)
        frames = sum(map(items.estimated_frames, usable))
        yield f'videos    {format_duration(seconds)}, about {counted(frames, "frame")} to process'
        if unusable:
            first = f'{unusable[0].name}: {items.info(unusable[0])}'
            yield f'videos    {len(unusable)} cannot be used, the first: {first}'
    start, end = items.options.seconds
    interval = plan.options.det_interval
    settings = {
        f'stride {items.options.vid_stride}': items.options.vid_stride > 1,
        f'start {start} s': start is not None,
        f'end {end} s': end is not None,
        'track ids': items.options.track,
        f'detection interval {interval}': interval > 1,
        f'decoded by PyAV {version("av")}': True,
    }
    yield f'frames    {", ".join(text for text, is_set in settings.items() if is_set)}'


def _video(items: Items, video: Frame) -> str:
    """Size, rate, duration and number of frames of a video, or why it cannot be used."""
    info = items.info(video)
    if isinstance(info, str):
        return f'cannot be used: {info}'
    rate = f'{info.fps:.5g} fps' if info.fps else 'unknown frame rate'
    duration = 'unknown duration' if info.duration is None else format_duration(info.duration)
    frames = items.estimated_frames(video)
    total = f' of {info.frames}' if info.frames and info.frames != frames else ''
    count = 'unknown number of frames' if not info.frames else f'about {frames}{total} frames'
    return f'{info.width}x{info.height}, {rate}, {duration}, {count}'


def _kind(cfg: dict) -> str:
    """Type of a config's model, and the file of the config."""
    name = getattr(cfg, 'filename', None)
    return type_name(cfg['model'].get('type')) + (f' of {name}' if name else '')


def _detector(choice: DetectorChoice) -> str:
    labels = ', '.join(map(str, choice.cat_ids))
    return f'{_kind(choice.config)}, weights: {_weights(choice.weights)}, category ids: {labels}'


def _weights(weights: str | None) -> str:
    if weights in (None, 'none'):
        return 'random'
    if is_to_be_downloaded(weights):
        return f'{weights}, to be downloaded'
    return weights if '://' not in weights else f'{cached_path(weights)}, downloaded before'


def describe_outputs(items: Items, options: RunOptions) -> str:
    """The files that a run writes, in one line."""
    names = [frame.name for frame in items.all]
    writers = options.writers
    files = [file for spec in writers if spec.journal for file in spec.files]
    files.append(INFO_FILE)
    files += [file for spec in writers if not spec.journal for file in spec.files]
    for spec in writers:
        if spec.folder:
            count = sum(1 for _ in spec.paths(names))
            least = 'at least ' if spec.find_files and items.videos else ''
            files.append(f'{spec.folder}/ ({least}{counted(count, spec.noun)})')
    return f'writes    {", ".join(files)} below {options.out_dir}'


def describe_earlier_run(
    items: Items,
    plan: Plan,
    call: CallOptions,
    options: RunOptions,
    categories: Categories | None = None,
    unknown: Collection[str] = (),
) -> Iterator[str]:
    """Describe what happens to the run in the output folder, if there is one, in lines.

    Args:
        items: Inputs of the run.
        plan: Plan of the inferencer.
        call: Options of the call, as far as they are known.
        options: Options of the run.
        categories: How instances get a category, if annotations of several are evaluated.
        unknown: Parts of the identity that are known only with the models: ``bboxes``,
            ``categories``.

    Raises:
        RunError: The run cannot be resumed although the options ask for it.
        TooManyErrors: More of its images failed than ``max_errors``.
    """
    folder = options.out_dir
    if not holds_run(folder):
        return
    if not options.resume:
        done = sum(1 for _ in records_of(folder))
        yield f'replaces  the run in {folder}, which has {_recorded(done, items)}'
        return
    known = _known(items, plan, call, options, categories)
    known = {key: value for key, value in known.items() if key not in unknown}
    info = identity.check_identity(folder, known, complete=False)
    position, failures = count_done(folder, items)
    done = position.results
    if not is_complete(position, items, info.get('status') == 'finished'):
        total = None if items.videos else len(items.images)
        check_failures(failures, done, total, options.max_errors)
    more = ''.join(f', {name}' for name in unknown)
    yield (
        f'resumes   the run in {folder}, which has {_recorded(done, items)}; its inputs and '
        f'options are the same; configs, weights{more} are compared when the run starts'
    )


def _recorded(count: int, items: Items) -> str:
    """The number of records of a run: ``3 images``."""
    return f'{count} images and frames' if items.videos else counted(count, 'image')


def _known(
    items: Items,
    plan: Plan,
    call: CallOptions,
    options: RunOptions,
    categories: Categories | None,
) -> dict[str, Any]:
    """The parts of a run's identity that do not depend on its models."""
    chosen, detector = plan.options, plan.detector
    of_label = (categories and categories.of_label) or None
    known = {
        **identity.of_items(items),
        'categories': identity.of_categories(of_label, items.images),
        **identity.of_call(call),
        **identity.of_writers(options),
        **identity.of_options(chosen, plan.device, detector and detector.cat_ids),
    }
    del known['test_cfg']
    if chosen.engine != AUTO:
        file = chosen.engine_file
        known['engine_file'] = None if file is None else ExternalFile(file).key
    if chosen.batch_size is None:
        del known['batch_size']
    if chosen.det_batch_size is None and detector is not None:
        del known['det_batch_size']
    if chosen.cpu_affinity is not None and plan.settings.get('num_threads') is None:
        del known['threads']  # as many as the cores that the process is bound to
    return known
