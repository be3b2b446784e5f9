"""The job that a command line of ``infer`` describes, checked before the model is built."""

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from mmengine.config import Config, DictAction

from ..config import BATCH_SETTINGS, CallOptions, DrawOptions, VideoOptions
from ..declare import declared
from ..distributed.options import ParallelOptions
from ..errors import RunError
from ..evaluation.annotations import ImageIds
from ..evaluation.box_files import assign_bboxes, read_bboxes
from ..evaluation.categories import Categories
from ..evaluation.evaluator import Annotations
from ..evaluation.metric import ScoringOptions
from ..factory import Plan, plan_inferencer
from ..inferencer import BatchPose2DInferencer
from ..models.checks.configs import check_same_kind
from ..models.keypoints import Keypoints
from ..models.names import default_filters, load_config
from ..outputs import check_added, check_folder, check_places, check_targets, read_info
from ..postprocess.tracking import import_trackers
from ..runs.resume import check_out_dir
from ..runs.run import Run
from ..runs.summary import count_inputs
from ..sources.containers import import_av
from ..sources.files import list_inputs
from ..sources.folders import Skipped
from ..sources.items import Items
from ..sources.numbering import number
from ..sources.video_names import is_video_name
from ..stages.detect import PersonDetector
from ..writers.drawing import check_skeleton_style
from ..writers.options import RunOptions
from ..writers.registry import names as writer_names
from .console import model_errors, note_demo_models, show, with_default_threads
from .infer_parser import DRAWING
from .options import take

INFERENCER = ('device', 'det_weights', 'det_cat_ids', *BATCH_SETTINGS)
VIDEO = tuple(declared(VideoOptions))
PARALLEL = tuple(declared(ParallelOptions))
RUN = ('out_dir', 'save_vis', 'resume', 'overwrite', 'ann_file', 'max_errors', 'quiet')


class Job(NamedTuple):
    """The job that the arguments describe, as far as it is known before the model is built.

    Attributes:
        paths: Paths of the images and videos.
        video: Which frames of videos are used.
        plan: Plan of the inferencer.
        call: Options of the call, without the model's test settings.
        options: Options of the run.
        parallel: Processes that infer.
        annotations: Annotations that the run is evaluated against, if any.
        image_ids: COCO image ids.
        bboxes: Precomputed person boxes of each image, (N, 5): x1, y1, x2, y2 in pixels and a
            score. None without ``--bboxes``, or if there are several categories: these are
            read once the model is known.
        notes: Lines to print about these.
    """

    paths: list[str]
    video: VideoOptions
    plan: Plan
    call: CallOptions
    options: RunOptions
    parallel: ParallelOptions
    annotations: Annotations | None
    image_ids: ImageIds
    bboxes: list[np.ndarray] | None
    notes: list[str]

    def items(
        self, bboxes: list[np.ndarray] | None = None, categories: Categories | None = None
    ) -> Items:
        """The images and videos, with their boxes."""
        return Items(self.paths, self.video, bboxes, bool(categories and categories.of_label))


def prepare(args: argparse.Namespace) -> Job:
    """Check everything that can be checked without a model, cheap checks first.

    Raises:
        ValueError: Arguments that are wrong or cannot be combined.
        CheckpointError, EngineError, OutputError, RunError: The run is not possible.
    """
    if not set(args.formats) <= set(writer_names()):
        with model_errors():
            load_config(args.pose2d)  # whose custom_imports may register formats
    options = RunOptions(
        drawing=DrawOptions(**take(args, DRAWING)), formats=tuple(args.formats), **take(args, RUN)
    )
    video = VideoOptions(**take(args, VIDEO))
    parallel = parallel_options(args, options)
    paths, notes = find_inputs(args)
    notes += check_videos(args, paths, video)
    if not args.save_vis and options.drawing != DrawOptions():
        notes.append('drawing options have no effect without --save-vis')
    check_out_dir(options)
    check_outputs(options, paths)
    if args.bboxes and any(v is not None for k, v in vars(args).items() if k.startswith('det_')):
        raise ValueError('--bboxes replaces the detector: remove --det-...')
    with model_errors():
        plan = plan_inferencer(
            args.pose2d,
            args.pose2d_weights,
            parse_cfg_options(args.cfg_options),
            det_model='whole_image' if args.bboxes else args.det_model,
            **take(args, INFERENCER),
        )
        plan.check()
        earlier = earlier_threads(options.out_dir) if options.resume else None
        plan = with_default_threads(plan, len(parallel.workers), earlier)
    if args.bboxes and plan.cfg.data_mode != 'topdown':
        raise ValueError('--bboxes: only valid for top-down models')
    filters = chosen_filters(args, plan.cfg)
    batch_size = plan.options.batch_size or 1
    call = CallOptions(batch_size=batch_size, **filters, select_thr=filters['bbox_thr'])
    if any(spec.scored for spec in options.writers):
        ScoringOptions.from_config(plan.cfg)
    annotations = Annotations(args.ann_file, plan.cfg, paths) if args.ann_file else None
    image_ids = annotations.image_ids if annotations else ImageIds()
    bboxes = None
    if args.bboxes and not (annotations and annotations.several):
        bboxes, note = read_boxes(args, plan.cfg, paths, image_ids)
        notes.append(note)
    return Job(paths, video, plan, call, options, parallel, annotations, image_ids, bboxes, notes)


def parallel_options(args: argparse.Namespace, options: RunOptions) -> ParallelOptions:
    """The processes that infer, checked as far as it is possible without a model.

    Raises:
        ValueError: Options do not fit together.
        RunError: A package is missing.
    """
    parallel = ParallelOptions(**take(args, PARALLEL))
    if not parallel.workers:
        return parallel
    if args.device is not None:
        raise ValueError('--device cannot be combined with --devices')
    if args.cpu_affinity is not None:
        raise ValueError('--cpu-affinity cannot be combined with --devices')
    for spec in options.writers:
        if spec.needs_images and not spec.by_worker:
            raise ValueError(f'--format {spec.name} cannot be written with --devices')
    check_same_kind(parallel.workers)
    args.device = parallel.workers[0]
    return parallel


def earlier_threads(out_dir: str) -> int | None:
    """Number of threads of the run in a folder; None if there is none."""
    identity = (read_info(out_dir) or {}).get('identity')
    threads = identity.get('threads') if isinstance(identity, dict) else None
    return threads if type(threads) is int and threads > 0 else None


def check_videos(
    args: argparse.Namespace, paths: Sequence[str], options: VideoOptions
) -> list[str]:
    """Check that options and videos fit together; returns lines to print.

    Raises:
        ValueError: They do not, or PyAV is not installed.
        TrackingError: The packages for tracking are not installed.
    """
    if not any(map(is_video_name, paths)):
        if options != VideoOptions():
            names = '--vid-stride, --start, --end and --track'
            return [f'{names} have no effect: there are no videos']
        if args.det_interval not in (None, 1):
            return ['--det-interval has no effect: there are no videos']
        return []
    if args.bboxes:
        raise ValueError('--bboxes: only possible for images, found videos among the inputs')
    import_av()
    if options.track:
        import_trackers()
    return []


def find_inputs(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Paths of the inputs that the arguments select, and lines about what is skipped.

    Raises:
        RunError: There are no images and no videos.
    """
    skipped = Skipped()
    # Files named by an option (annotations, a config) may lie inside an input folder.
    named = [value for value in vars(args).values() if isinstance(value, str)]
    paths = list_inputs(args.inputs, args.recursive, skipped, args.follow_links, named)
    if not paths:
        found = f' ({skipped})' if skipped else ''
        raise RunError(f'no images or videos in {", ".join(args.inputs)}{found}')
    notes = [str(skipped)] if skipped else []
    if args.limit is not None and args.limit < len(paths):
        notes.append(f'limit: the first {args.limit} of {len(paths)} inputs')
    return paths[: args.limit], notes


def check_outputs(options: RunOptions, paths: Sequence[str]) -> None:
    """Check that the run replaces only files that a run of this package has written.

    Raises:
        OutputError: It would replace other files.
    """
    names = [frame.name for frame in number(paths)]
    check_places(options.out_dir, names, options.writers)
    if options.resume:  # its other files were checked when it began
        check_added(options.out_dir, options.writers)
    else:
        check_targets(options.out_dir, names, options.writers)
    check_folder(options.out_dir)


def evaluation_inputs(
    args: argparse.Namespace,
    job: Job,
    keypoints: Keypoints,
    detector: PersonDetector | None = None,
) -> tuple[Categories | None, list[np.ndarray] | None, list[str]]:
    """Categories and boxes for the evaluation of a model, and lines to print.

    Raises:
        AnnotationError: The annotations do not fit the model.
    """
    truth = job.annotations.select(keypoints)
    if job.plan.detector and not detector and len(truth.categories) > 1:  # not built yet
        note = (
            f'categories: {len(truth.categories)}; which of them the detector finds is known when '
            'it is built'
        )
        return None, job.bboxes, [*job.annotations.notes(truth, None), note]
    categories = Categories.of(truth.categories, detector, bool(args.bboxes))
    notes, bboxes = list(job.annotations.notes(truth, categories)), job.bboxes
    if args.bboxes and bboxes is None:
        names = tuple(truth.categories) if categories else None
        bboxes, note = read_boxes(args, job.plan.cfg, job.paths, job.image_ids, names)
        notes.append(note)
    return categories, bboxes, notes


def build(args: argparse.Namespace, job: Job) -> Run:
    """Build the inferencer, run the checks that need it, and build the run."""
    with model_errors():
        inferencer = job.plan.build()
    inferencer.predictor.pose.check_loader()
    notes = [*job.notes, *inferencer.model.load_notes]
    categories, bboxes = None, job.bboxes
    if job.annotations:
        keypoints = inferencer.predictor.pose.keypoints
        categories, bboxes, more = evaluation_inputs(args, job, keypoints, inferencer.detector)
        notes += more
    if args.save_vis:
        check_skeleton_style(args.skeleton_style, inferencer.model.dataset_meta)
    filters = chosen_filters(args, inferencer.cfg)
    call = inferencer.call_options(**filters, select_thr=filters['bbox_thr'])
    items = job.items(bboxes, categories)
    if not args.quiet:
        show([describe(items, args.pose2d, inferencer), *notes], sys.stderr)
        note_demo_models(args)
    return Run(inferencer, items, call, job.options, job.image_ids, categories, job.parallel)


def read_boxes(
    args: argparse.Namespace,
    cfg: Config,
    paths: Sequence[str],
    image_ids: ImageIds,
    categories: tuple[int, ...] | None = None,
) -> tuple[list[np.ndarray], str]:
    """Person boxes of each path, and a line that reports which entries were used.

    Each array is (N, 5): x1, y1, x2, y2 in pixels and a score; with several ``categories`` it
    is (N, 6), with a label.

    Raises:
        ValueError: The file does not fit the images or the model.
    """
    found = read_bboxes(args.bboxes, chosen_filters(args, cfg)['bbox_thr'], categories)
    return assign_bboxes(paths, found, image_ids)


def chosen_filters(args: argparse.Namespace, cfg: Config) -> dict:
    """Thresholds of the command line, completed by the defaults for the kind of model."""
    filters = default_filters(cfg)
    return {**filters, **{k: v for k, v in take(args, filters).items() if v is not None}}


def describe(items: Items, model: str, inferencer: BatchPose2DInferencer) -> str:
    """A line with the number of images and videos, the model, the device and the threads."""
    options = inferencer.options
    return (
        f'{count_inputs(items)}, {model} on {inferencer.device}; '
        f'threads: {options.num_threads} for the networks, {options.num_workers} for reading and '
        'preprocessing'
    )


def parse_cfg_options(pairs: Sequence[str] | None) -> dict:
    """Parse ``KEY=VALUE`` pairs as MMEngine's tools do."""
    for pair in pairs or ():
        if '=' not in pair:
            raise ValueError(f'--cfg-options: expected KEY=VALUE, found {pair!r}')
    split = (pair.split('=', maxsplit=1) for pair in pairs or ())
    return {key: DictAction._parse_iterable(value) for key, value in split}
