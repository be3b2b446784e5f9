#!/usr/bin/env python
r"""Estimate 2D poses for folders of images, in batches.

  tools/batch_infer.py scenes/ --out-dir poses
  tools/batch_infer.py photos/ --out-dir poses --pose2d rtmo-s
  tools/batch_infer.py photos/ --out-dir poses --pose2d human --save-vis --format json coco
  tools/batch_infer.py @list.txt --out-dir poses --pose2d my_config.py --pose2d-weights my.pth \
      --det-model my_det_config.py --det-weights det.pth --resume

Files written to --out-dir: predictions.jsonl (one line per image, in input order), failures.jsonl
and run.json; predictions/ and predictions.coco.json if --format asks for them; vis/ with
--save-vis.

Exit status: 0 all images succeeded, 1 could not run, 2 wrong arguments, 3 finished with failures,
4 more images failed than --max-errors.
"""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from console import (
    ENGINES,
    PRECISIONS,
    describe_unexpected,
    fail,
    model_errors,
    note_demo_models,
    number,
    quieten_libraries,
    remove_logs,
    show,
    size,
)

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config

    from mmpose_batch import BatchPose2DInferencer
    from mmpose_batch.config import CallOptions
    from mmpose_batch.evaluation.annotations import ImageIds
    from mmpose_batch.evaluation.categories import Categories
    from mmpose_batch.evaluation.judge import Annotations
    from mmpose_batch.factory import Plan
    from mmpose_batch.runs.dry_run import Keypoints
    from mmpose_batch.runs.options import RunOptions
    from mmpose_batch.runs.run import Run
    from mmpose_batch.stages.detect import PersonDetector

TOOL = 'batch_infer'
INFERENCER = (
    *('device', 'det_weights', 'det_cat_ids', 'batch_size', 'det_batch_size'),
    *('precision', 'calib_images', 'engine', 'engine_device', 'engine_file'),
    *('engine_cache', 'self_check'),
    *('flip_test', 'rect'),
    *('num_workers', 'num_threads', 'cpu_affinity', 'on_error', 'no_person'),
)
RUN = ('out_dir', 'save_vis', 'resume', 'overwrite', 'ann_file', 'max_errors', 'quiet')
DRAWING = ('kpt_thr', 'draw_bbox', 'radius', 'thickness', 'skeleton_style')


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong arguments end the process with status 2."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.follow_links and not args.recursive:
        parser.error('--follow-links: leads to folders below, which --no-recursive leaves out')
    return args


def build_parser() -> argparse.ArgumentParser:
    """Build the parser, from which docs/reference/options.md is generated too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help='folder, image file, quoted glob pattern, or @FILE with one path per line',
    )
    parser.add_argument(
        '--out-dir',
        required=True,
        metavar='DIR',
        help='folder for all results; may be inside an input folder, because later runs skip the '
        'drawings of earlier runs',
    )

    model = parser.add_argument_group('model')
    model.add_argument(
        '--pose2d',
        default='demo',
        metavar='MODEL',
        help='config file, or name or alias of a pose model (default: %(default)s, which only '
        'works on synthetic scenes; for photos use rtmo-s, human, ...)',
    )
    model.add_argument(
        '--pose2d-weights',
        metavar='FILE',
        help='path or URL of the checkpoint (default: the one that belongs to the model name or '
        'config; none: random weights)',
    )
    model.add_argument(
        '--det-model',
        metavar='MODEL',
        help='person detector of a top-down model: config file or name of an MMDetection model, '
        "or whole_image to use each image as one person (default: the config's detector, else "
        "MMPose's default for the dataset)",
    )
    model.add_argument(
        '--det-weights',
        metavar='FILE',
        help='path or URL of the detector checkpoint (default: the one that belongs to the model '
        'name or config; none: random weights)',
    )
    model.add_argument(
        '--det-cat-ids',
        type=int,
        nargs='+',
        metavar='ID',
        help="detector category ids to keep (default: the default detector's ids, else 0)",
    )
    model.add_argument('--device', help='cpu, cuda:0, ... (default: the best available)')
    model.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='changes to the pose config, e.g. model.test_cfg.flip_test=False',
    )

    found = parser.add_argument_group('thresholds')
    found.add_argument(
        '--bbox-thr',
        type=float,
        help="minimum score of a person (default: the config's, else 0.1 for RTMO, 0.01 for "
        'YOLOX-Pose, 0.3 for other models)',
    )
    found.add_argument(
        '--nms-thr',
        type=float,
        help="IoU above which two persons are duplicates (default: the config's, else 0.65 for "
        'RTMO and YOLOX-Pose, 0.3 for other models)',
    )
    found.add_argument(
        '--pose-based-nms',
        action=argparse.BooleanOptionalAction,
        help='also drop persons whose keypoints nearly coincide with those of a higher-scoring '
        'person, and all but the 30 best (default: yes for RTMO and YOLOX-Pose, no for others)',
    )
    found.add_argument(
        '--bboxes',
        metavar='FILE',
        help='COCO detection results with precomputed person boxes, used instead of a detector; '
        'entries name their image by file_name, or by image_id (an id of --ann-file, or the number '
        'or stem of a file name); persons have category_id 1, unless --ann-file evaluates several '
        'categories',
    )
    found.add_argument(
        '--no-person',
        choices=('empty', 'whole_image'),
        help='what a top-down model does if there are no detections: give an empty result '
        '(default) or use the complete image as one person',
    )

    speed = parser.add_argument_group('speed')
    speed.add_argument(
        '--batch-size',
        type=size,
        metavar='N',
        help='persons (top-down) or images per forward pass; auto measures which size is fastest '
        'on this machine (default: by device, engine and input size)',
    )
    speed.add_argument(
        '--det-batch-size',
        type=size,
        metavar='N',
        help='images per forward pass of the detector, or auto (default: by device, engine and '
        'input size)',
    )
    speed.add_argument(
        '--precision',
        choices=PRECISIONS,
        help='precision of the networks (default: fp32); auto selects the fastest one that the '
        'hardware computes natively, but never int8',
    )
    speed.add_argument(
        '--calib-images',
        type=int,
        metavar='N',
        help='input images that calibrate the value ranges of int8 (default: 64)',
    )
    speed.add_argument(
        '--engine',
        metavar='NAME',  # a config may import and register more of them
        help=f'library that runs the networks: {", ".join(ENGINES)}, or one that the config '
        'registers (default: torch); auto selects the fastest installed one whose outputs match '
        'those of torch',
    )
    speed.add_argument(
        '--engine-device',
        metavar='NAME',
        help="OpenVINO's device (CPU, GPU, NPU), or ONNX Runtime's execution providers separated "
        'by commas, the preferred one first',
    )
    speed.add_argument(
        '--engine-file',
        metavar='FILE',
        help='external ONNX file of the pose network, from MMDeploy, rtmlib or tools/export.py; '
        'must belong to the config of --pose2d (default: export the network of --pose2d)',
    )
    speed.add_argument(
        '--engine-cache',
        action=argparse.BooleanOptionalAction,
        help='cache what an engine builds, for later runs (default: yes)',
    )
    speed.add_argument(
        '--self-check',
        action=argparse.BooleanOptionalAction,
        help='reject an engine whose outputs on the first images deviate from those of torch '
        'beyond the tolerance of its precision (default: yes)',
    )
    speed.add_argument(
        '--flip-test',
        action=argparse.BooleanOptionalAction,
        help='flip test: also run each person mirrored, which doubles the work (default: as the '
        'config says)',
    )
    speed.add_argument(
        '--rect',
        action=argparse.BooleanOptionalAction,
        help='pad the inputs of one-stage models and detectors to the next multiple of the stride '
        'instead of to a square: less work, slightly different outputs (default: no)',
    )
    speed.add_argument(
        '--num-workers',
        type=int,
        metavar='N',
        help='threads that read and preprocess images (default: number of cores, at most 8)',
    )
    speed.add_argument(
        '--num-threads',
        type=int,
        metavar='N',
        help='threads that run the networks on a CPU (default: number of cores)',
    )
    speed.add_argument(
        '--cpu-affinity', metavar='CORES', help='use only these cores, e.g. 2, 0-3 or 0,2-3'
    )

    output = parser.add_argument_group('output')
    output.add_argument(
        '--format',
        nargs='+',
        choices=('jsonl', 'json', 'coco'),
        default=['jsonl'],
        help='formats of the predictions; jsonl is always written (default: jsonl)',
    )
    output.add_argument('--save-vis', action='store_true', help='write drawings to vis/')
    output.add_argument(
        '--kpt-thr',
        type=float,
        default=0.3,
        help='draw keypoints whose score is above this (default: %(default)s)',
    )
    output.add_argument('--draw-bbox', action='store_true', help='also draw person boxes')
    output.add_argument(
        '--radius', type=int, default=3, help='keypoint radius in pixels (default: %(default)s)'
    )
    output.add_argument(
        '--thickness', type=int, default=1, help='line width in pixels (default: %(default)s)'
    )
    output.add_argument(
        '--skeleton-style',
        choices=('mmpose', 'openpose'),
        default='mmpose',
        help='style of the skeletons (default: %(default)s)',
    )
    output.add_argument(
        '--ann-file',
        metavar='FILE',
        help='COCO keypoint annotations; prints AP and AR at the end, computed by the CocoMetric '
        'or CocoWholeBodyMetric of the config',
    )
    output.add_argument('--quiet', action='store_true', help='print only errors')

    run = parser.add_argument_group('run')
    again = run.add_mutually_exclusive_group()
    again.add_argument('--resume', action='store_true', help='resume the run in --out-dir')
    again.add_argument('--overwrite', action='store_true', help='replace the run in --out-dir')
    run.add_argument(
        '--on-error',
        choices=('record', 'raise'),
        help='what to do with an unusable input: write a failure record (default) or end the run',
    )
    run.add_argument(
        '--max-errors',
        type=number(0),
        metavar='N',
        help='end the run as soon as more than N images have failed (default: no limit)',
    )
    run.add_argument(
        '--limit', type=number(1), metavar='N', help='use only the first N images, for a trial run'
    )
    run.add_argument(
        '--dry-run',
        action='store_true',
        help='check the arguments and print what would be read, written and run, without building '
        'or downloading anything',
    )
    run.add_argument(
        '--recursive',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='also read subfolders (default: yes)',
    )
    run.add_argument(
        '--follow-links',
        action='store_true',
        help='also read folders that are symbolic links, each one once (default: no)',
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    args = parse_args(arguments)
    from mmpose_batch.images.native_messages import native_messages

    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        with native_messages(args.quiet):
            return run(args)
    except KeyboardInterrupt:
        return fail(TOOL, 130, 'interrupted; what is written is whole, go on with --resume')
    except Exception as error:  # nothing foresaw it
        return fail(TOOL, 1, f'unexpected {describe_unexpected(error, args.out_dir)}')


def run(args: argparse.Namespace) -> int:
    """Infer, print the summary or what went wrong, and give the exit status."""
    quieten_libraries()
    # Loading torch and mmpose takes seconds: --help and wrong options answer before.
    from mmpose_batch import CheckpointError, EngineError, InputError
    from mmpose_batch.errors import OutputError, RunError, TooManyErrors

    try:
        job = prepare(args)
        if args.dry_run:
            return show_lines(list(describe_job(args, job)))
        job = build(args, job)  # which lets go of annotations: large ones fill a gigabyte
    except TooManyErrors as error:
        return fail(TOOL, 4, error)
    except (CheckpointError, EngineError, OutputError, RunError) as error:
        return fail(TOOL, 1, error)
    except ValueError as error:  # wrong inputs, files or options: all name what they expected
        return fail(TOOL, 2, error)
    exceeded = None
    try:
        job()
    except TooManyErrors as error:
        if not job.is_finished:
            return fail(TOOL, 4, error)
        exceeded = error
    except (InputError, RunError) as error:
        return fail(TOOL, 1, error)
    remove_logs(args.out_dir)
    status = 0 if args.quiet else show_lines(list(job.summary.lines()))
    if exceeded is not None:
        return fail(TOOL, 4, exceeded)
    return status or (3 if job.summary.failures else 0)


def show_lines(lines: Sequence[str]) -> int:
    """Print lines on standard output; returns the exit status."""
    try:
        show(lines)
    except OSError as error:
        return fail(TOOL, 1, f'standard output cannot be written: {error.strerror or error}')
    return 0


class Job(NamedTuple):
    """What the arguments ask for, as far as it is known before the model is built.

    Attributes:
        paths: The images.
        plan: Of the inferencer.
        call: Options of the call, without the settings of the model.
        options: Of the run.
        annotations: That are to judge the run, if any.
        image_ids: COCO numbers of the images.
        bboxes: Precomputed boxes of each image, if any; those of several categories come later.
        notes: Lines about all of these.
    """

    paths: list[str]
    plan: 'Plan'
    call: 'CallOptions'
    options: 'RunOptions'
    annotations: 'Annotations | None'
    image_ids: 'ImageIds'
    bboxes: 'list[np.ndarray] | None'
    notes: list[str]


def prepare(args: argparse.Namespace) -> Job:
    """Check all that can be checked without a model, cheap checks first."""
    from mmpose_batch.config import CallOptions
    from mmpose_batch.evaluation.annotations import ImageIds
    from mmpose_batch.evaluation.judge import Annotations
    from mmpose_batch.evaluation.metric import ScoringOptions
    from mmpose_batch.factory import plan_inferencer
    from mmpose_batch.runs.options import RunOptions
    from mmpose_batch.runs.resume import check_out_dir
    from mmpose_batch.writers.drawing import DrawOptions

    options = RunOptions(
        drawing=DrawOptions(**take(args, DRAWING)), formats=tuple(args.format), **take(args, RUN)
    )
    paths, notes = find_inputs(args)
    check_out_dir(options)
    check_outputs(options, paths)
    if args.bboxes and any(v is not None for k, v in vars(args).items() if k.startswith('det_')):
        raise ValueError('--bboxes takes the place of a detector: leave out --det-...')
    with model_errors():
        plan = plan_inferencer(
            args.pose2d,
            args.pose2d_weights,
            parse_cfg_options(args.cfg_options),
            det_model='whole_image' if args.bboxes else args.det_model,
            **take(args, INFERENCER),
        )
        plan.check()
    if args.bboxes and plan.cfg.data_mode != 'topdown':
        raise ValueError('--bboxes: only top-down models take boxes')
    filters = chosen_filters(args, plan.cfg)
    batch_size = plan.options.batch_size or 1
    call = CallOptions(batch_size=batch_size, **filters, select_thr=filters['bbox_thr'])
    if 'coco' in args.format:
        ScoringOptions.from_config(plan.cfg)
    annotations = Annotations(args.ann_file, plan.cfg, paths) if args.ann_file else None
    image_ids = annotations.image_ids if annotations else ImageIds()
    bboxes = None
    if args.bboxes and not (annotations and annotations.several):
        bboxes, note = read_boxes(args, plan.cfg, paths, image_ids)
        notes.append(note)
    return Job(paths, plan, call, options, annotations, image_ids, bboxes, notes)


def find_inputs(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The images that the arguments name, and lines about what is left out.

    Raises:
        RunError: There are none.
    """
    from mmpose_batch.errors import RunError
    from mmpose_batch.sources.files import list_inputs
    from mmpose_batch.sources.folders import Skipped

    skipped = Skipped()
    # What an option names (annotations, a config) is used, wherever it lies.
    named = [value for value in vars(args).values() if isinstance(value, str)]
    paths = list_inputs(args.inputs, args.recursive, skipped, args.follow_links, named)
    if not paths:
        found = f' ({skipped})' if skipped else ''
        raise RunError(f'no images in {", ".join(args.inputs)}{found}')
    notes = [str(skipped)] if skipped else []
    if args.limit is not None and args.limit < len(paths):
        notes.append(f'limit: the first {args.limit} of {len(paths)} images')
    return paths[: args.limit], notes


def check_outputs(options: 'RunOptions', paths: Sequence[str]) -> None:
    """See that the run replaces only files that a run of this package wrote.

    Raises:
        OutputError: It would.
    """
    from mmpose_batch.outputs import check_folder, check_places, check_targets
    from mmpose_batch.sources.numbering import number

    names = [frame.name for frame in number(paths)]
    check_places(options.out_dir, names, options.writers)
    if not options.resume:  # whose files were checked when it began
        check_targets(options.out_dir, names, options.writers)
    check_folder(options.out_dir)


def describe_job(args: argparse.Namespace, job: Job) -> Iterator[str]:
    """What a run would read, write and run, in lines, with what it would be refused for."""
    from mmpose_batch.evaluation.result import Coverage
    from mmpose_batch.runs.dry_run import describe_earlier_run, describe_run, read_weights
    from mmpose_batch.runs.resume import number_frames
    from mmpose_batch.writers.drawing import check_skeleton_style

    model = read_weights(job.plan)
    if args.save_vis and model:
        check_skeleton_style(args.skeleton_style, model.dataset_meta)
    yield from describe_run(job.paths, job.plan, job.options)
    categories, bboxes, notes, unknown = None, job.bboxes, [], []
    if job.annotations and model:
        categories, bboxes, notes = judged(args, job, model)
    elif job.annotations:
        ids = list(map(job.image_ids.find, job.paths))
        warning = Coverage.of(job.paths, ids, job.image_ids.names).warning()
        notes = [job.annotations.coverage_note(), *([f'warning: {warning}'] if warning else [])]
    if job.annotations and job.annotations.several:
        unknown = [] if model and not job.plan.detector else ['categories']
        unknown += ['bboxes'] if args.bboxes and bboxes is None else []
    frames = number_frames(job.paths, bboxes, bool(categories and categories.of_label))
    yield from describe_earlier_run(frames, job.plan, job.call, job.options, categories, unknown)
    yield from job.notes
    yield from notes


def judged(
    args: argparse.Namespace,
    job: Job,
    model: 'BatchPose2DInferencer | Keypoints',
    detector: 'PersonDetector | None' = None,
) -> 'tuple[Categories | None, list[np.ndarray] | None, list[str]]':
    """How annotations judge a model: categories, boxes of several categories, and lines on it.

    Raises:
        AnnotationError: They cannot.
    """
    from mmpose_batch.evaluation.categories import Categories

    truth = job.annotations.select(model)
    if job.plan.detector and not detector and len(truth.categories) > 1:  # not built yet
        note = f'categories: {len(truth.categories)}; which of them are found, the detector tells'
        return None, job.bboxes, [*job.annotations.notes(truth, None), note]
    categories = Categories.of(truth.categories, detector, bool(args.bboxes))
    notes, bboxes = list(job.annotations.notes(truth, categories)), job.bboxes
    if args.bboxes and bboxes is None:
        names = tuple(truth.categories) if categories else None
        bboxes, note = read_boxes(args, job.plan.cfg, job.paths, job.image_ids, names)
        notes.append(note)
    return categories, bboxes, notes


def build(args: argparse.Namespace, job: Job) -> 'Run':
    """Build the inferencer, check what needs it, and build the run."""
    from mmpose_batch.runs.run import Run
    from mmpose_batch.writers.drawing import check_skeleton_style

    with model_errors():
        inferencer = job.plan.build()
    inferencer.check_loader()
    notes = [*job.notes, *inferencer.model.load_notes]
    categories, bboxes = None, job.bboxes
    if job.annotations:
        categories, bboxes, more = judged(args, job, inferencer, inferencer.detector)
        notes += more
    if args.save_vis:
        check_skeleton_style(args.skeleton_style, inferencer.model.dataset_meta)
    filters = chosen_filters(args, inferencer.cfg)
    call = inferencer.call_options(**filters, select_thr=filters['bbox_thr'])
    if not args.quiet:
        show([describe(len(job.paths), args.pose2d, inferencer), *notes], sys.stderr)
        note_demo_models(args)
    return Run(inferencer, job.paths, call, job.options, bboxes, job.image_ids, categories)


def read_boxes(
    args: argparse.Namespace,
    cfg: 'Config',
    paths: Sequence[str],
    image_ids: 'ImageIds',
    categories: tuple[int, ...] | None = None,
) -> 'tuple[list[np.ndarray], str]':
    """Person boxes (N, 5) of each path, and a line that reports which entries were used.

    Of several ``categories`` they are (N, 6), with labels.

    Raises:
        ValueError: The file does not fit.
    """
    from mmpose_batch.evaluation.box_files import assign_bboxes, read_bboxes

    found = read_bboxes(args.bboxes, chosen_filters(args, cfg)['bbox_thr'], categories)
    return assign_bboxes(paths, found, image_ids)


def chosen_filters(args: argparse.Namespace, cfg: 'Config') -> dict:
    """Thresholds of the kind of model, and those of the command line in their place."""
    from mmpose_batch.models.names import default_filters

    filters = default_filters(cfg)
    return {**filters, **{k: v for k, v in take(args, filters).items() if v is not None}}


def describe(count: int, model: str, inferencer: 'BatchPose2DInferencer') -> str:
    """What is about to run, and what it takes of the machine."""
    from mmpose_batch.runs.summary import counted

    options = inferencer.options
    return (
        f'{counted(count, "image")}, {model} on {inferencer.device}; threads: '
        f'{options.num_threads} for the networks, {options.num_workers} to read and prepare'
    )


def take(args: argparse.Namespace, names: Sequence[str]) -> dict:
    """The named options as keywords."""
    return {name: getattr(args, name) for name in names}


def parse_cfg_options(pairs: Sequence[str] | None) -> dict:
    """Read ``KEY=VALUE`` pairs as MMEngine's tools do."""
    from mmengine.config import DictAction

    for pair in pairs or ():
        if '=' not in pair:
            raise ValueError(f'--cfg-options: expected KEY=VALUE, found {pair!r}')
    split = (pair.split('=', maxsplit=1) for pair in pairs or ())
    return {key: DictAction._parse_iterable(value) for key, value in split}


if __name__ == '__main__':
    sys.exit(main())
