r"""Measure images per second from files to results, and compare with other systems.

  tools/benchmark_throughput.py photos/ --pose2d rtmo-s --engine torch openvino
  tools/benchmark_throughput.py --scenes 64 --pose2d CONFIG --pose2d-weights FILE \
      --batch-size 1 2 4 8 --num-threads 1 2 --out-dir bench
  tools/benchmark_throughput.py photos/ --pose2d rtmpose-s --no-flip-test --against stock rtmlib
  tools/benchmark_throughput.py photos/ --recommend --max-latency 300 --max-memory 2

Every row of the table runs in its own process. Each round runs all of them once over the same
images, one after the other, so that a machine whose speed drifts slows all of them alike. Rounds
repeat until the medians of the ratios have converged or the time is up; values that have not
converged are marked with a question mark. The systems of this package read files and write
predictions; the other systems only read and infer.

Files written to --out-dir: benchmark.json with every sample, and plots. After Ctrl-C they hold what
was measured until then.

--recommend tries, unless they are named, all installed engines, fp32 and the other native precision
of the hardware (bf16 on some processors, fp16 on CUDA), and two batch sizes.

Exit status: 0 all rows ran, 1 nothing could run, 2 wrong arguments, 3 some named rows could not
run.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import BatchOptions
from .console import (
    check_engines,
    fail,
    list_images,
    named_models,
    note_demo_models,
    note_noise,
    parse_with_out_dir,
    quieten_libraries,
    run_to_end,
)
from .options import add_model_options, add_option, number

if TYPE_CHECKING:
    from ..benchmarking.contenders import Contender
    from ..benchmarking.report import Measurement
    from ..benchmarking.work import Image

TOOL = 'benchmark_throughput'
AXES = ('engine', 'precision', 'batch_size', 'num_workers')
ROUNDS = ('rounds', 'max_rounds', 'interval', 'time_limit')
AGAINST = ('stock', 'rtmlib', 'crop-by-crop', 'padded-batches', 'thread-pool')


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong arguments end the process with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    work = parser.add_argument_group('images')
    work.add_argument('inputs', nargs='*', metavar='INPUT', help='folders, image files, globs')
    work.add_argument(
        '--scenes', type=number(1), metavar='N', help='use N synthetic scenes instead of INPUT'
    )
    work.add_argument(
        '--persons', type=number(0), metavar='K', help='persons in each scene (default: 1 to 3)'
    )
    work.add_argument(
        '--images',
        type=number(1),
        metavar='N',
        help='images per round; inputs are repeated as needed (default: 64, or all scenes)',
    )
    work.add_argument('--ann-file', metavar='FILE', help='COCO annotations of INPUT, to compute AP')

    model = parser.add_argument_group('model')
    add_model_options(model)
    model.add_argument(
        '--no-flip-test', action='store_true', help='no flip test, for any contender'
    )
    model.add_argument(
        '--given-boxes',
        action='store_true',
        help='use person boxes that are detected beforehand, or taken from the annotations, so '
        'that no contender runs a detector; required for rtmlib and the simple baselines',
    )

    rows = parser.add_argument_group('rows: every combination of')
    several = {'nargs': '+', 'metavar': 'N'}
    for name, changes in {
        'engine': {'metavar': 'E', 'help': 'engines (default: torch)'},
        'precision': {'metavar': 'P', 'help': 'precisions (default: fp32)'},
        'batch_size': {'help': 'batch sizes, or auto (default: by device, engine and input size)'},
        'num_workers': {
            'default': [None],
            'help': 'numbers of threads that read and preprocess images',
        },
        'num_threads': {
            'default': [None],
            'help': 'numbers of threads that run the networks on a CPU',
        },
    }.items():
        add_option(rows, BatchOptions, name, **{**several, **changes})
    add_option(rows, BatchOptions, 'cpu_affinity', help='cores of all contenders, e.g. 2 or 0-1')
    add_option(
        rows,
        BatchOptions,
        'rect',
        action='store_true',
        help='pad inputs to the next multiple of the stride instead of to a square',
    )
    rows.add_argument(
        '--against',
        nargs='*',
        choices=AGAINST,
        default=['stock'],
        help='other systems to compare with; ratios are relative to the first (default: stock, '
        'which is upstream MMPose)',
    )

    rounds = parser.add_argument_group('rounds')
    rounds.add_argument(
        '--rounds',
        type=number(1),
        metavar='N',
        help='minimum number of rounds (default: 5, or --max-rounds)',
    )
    rounds.add_argument(
        '--max-rounds', type=number(1), metavar='N', help='maximum number of rounds (default: 25)'
    )
    rounds.add_argument(
        '--interval',
        type=float,
        default=0.1,
        metavar='FRACTION',
        help='a median has converged when its 90%% interval is narrower than this fraction of it '
        '(default: %(default)s)',
    )
    rounds.add_argument(
        '--time-limit', type=float, default=0, metavar='S', help='start no round after S seconds'
    )

    output = parser.add_argument_group('output')
    output.add_argument(
        '--recommend',
        action='store_true',
        help='print the fastest options of batch_infer.py on this machine; tries engines, '
        'precisions and batch sizes that are not named',
    )
    output.add_argument(
        '--max-latency',
        type=float,
        metavar='MS',
        help='maximum latency of one image, for --recommend',
    )
    output.add_argument(
        '--max-memory', type=float, metavar='GB', help='maximum resident memory, for --recommend'
    )
    output.add_argument('--quiet', action='store_true', help='print only the tables')
    return parse_with_out_dir(parser, arguments, check)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Reject arguments that exclude each other, before anything is started."""
    if bool(args.inputs) == bool(args.scenes):
        parser.error('expected either INPUT or --scenes')
    if args.persons is not None and not args.scenes:
        parser.error('--persons: of use with --scenes only')
    if args.ann_file and args.scenes:
        parser.error('--ann-file: scenes have annotations of their own')
    if not args.recommend and (args.max_latency is not None or args.max_memory is not None):
        parser.error('--max-latency, --max-memory: of use with --recommend only')
    for name in ('max_latency', 'max_memory'):
        value = getattr(args, name)
        if value is not None and not value > 0:
            parser.error(f'--{name.replace("_", "-")}: expected a positive number, found {value}')
    if args.rounds is None:
        args.rounds = min(5, args.max_rounds or 5)
    if args.max_rounds is None:
        args.max_rounds = max(args.rounds, 25)
    if args.max_rounds < args.rounds:
        parser.error(f'--max-rounds: expected a number from --rounds, found {args.max_rounds}')
    if not args.interval > 0 or not args.time_limit >= 0:
        parser.error('--interval, --time-limit: expected positive numbers')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    return run_to_end(TOOL, lambda: run(parse_args(arguments)))


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit status."""
    quieten_libraries()
    # Importing mmpose takes seconds: --help and wrong options do without.
    from ..benchmarking.report import print_tables
    from ..benchmarking.rounds import Stopping
    from ..benchmarking.throughput import measure

    def report(line: str) -> None:
        if not args.quiet:
            print(line, file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix='mmpose_batch-') as folder:
        try:
            stopping = Stopping(
                rounds=args.rounds,
                most_rounds=args.max_rounds,
                width=args.interval,
                seconds=args.time_limit,
            )
            rows = build_contenders(args)
            images, ann_file = find_images(args, rows, folder)
        except RuntimeError as error:  # a contender's, or torch's where it has no such device
            return fail(TOOL, 1, error)
        except ValueError as error:
            return fail(TOOL, 2, error)
        if args.inputs and not args.quiet:
            note_demo_models(args)
        warning = note_noise(args.quiet)
        reference = args.against[0] if args.against else None
        keep = partial(write, args, len(images), warning)
        measured = measure(rows, images, stopping, reference, ann_file, report, keep)
    failed = [row for row in measured if row.failure is not None]
    if len(failed) == len(measured):
        return fail(TOOL, 1, failed[-1].failure)
    print_tables(measured)
    keep(measured)
    if args.recommend and not recommend(args, measured):
        return fail(TOOL, 1, 'nothing that ran keeps within the limits')
    return 3 if failed and not _tries(args) else 0


def _tries(args: argparse.Namespace) -> bool:
    """Whether there are rows that the user did not name, of which some may fail."""
    return args.recommend and None in (args.engine, args.precision)


def build_contenders(args: argparse.Namespace) -> 'list[Contender]':
    """The rows that the arguments ask for.

    Raises:
        ValueError: The model, an engine or the cores do not exist, or do not fit each other.
    """
    from mmengine.device import get_device

    from ..benchmarking.contenders import NEED_BOXES, Models, read_config, sweep
    from ..cores import parse_cores

    if args.cpu_affinity is not None:
        parse_cores(args.cpu_affinity)
    models = Models(
        **named_models(args),
        flip_test=False if args.no_flip_test else None,
        given_boxes=args.given_boxes or bool(set(args.against) & set(NEED_BOXES)),
    )
    cfg = read_config(args.pose2d)
    check_engines(args.engine or ())
    if models.given_boxes and cfg.get('data_mode') != 'topdown':
        raise ValueError('--given-boxes, rtmlib, simple ways: only top-down models take boxes')
    device = args.device or get_device()
    axes = {name: list(dict.fromkeys(values)) for name, values in find_axes(args, device).items()}
    against, threads = (list(dict.fromkeys(v)) for v in (args.against, args.num_threads))
    rows = list(sweep(models, against, axes, threads, args.cpu_affinity, rect=args.rect))
    if _tries(args):
        return leave_out_impossible(rows, device)
    return rows


def find_axes(args: argparse.Namespace, device: str) -> 'dict[str, list]':
    """The settings to vary and their values: as named, else the default or what is worth trying."""
    from ..engines.optional import is_installed
    from ..engines.registry import resolve_precision, specs

    axes = {name: getattr(args, name) for name in AXES}
    if args.recommend:
        there = [spec.name for spec in specs().values() if spec.modules and is_installed(spec)]
        chosen = {
            'engine': ['torch', *there],
            'precision': ['fp32', resolve_precision('auto', device)],
            'batch_size': [1, 'auto'],
        }
    else:
        chosen = {'engine': ['torch'], 'precision': ['fp32'], 'batch_size': [None]}
    return axes | {name: values for name, values in chosen.items() if axes[name] is None}


def leave_out_impossible(rows: 'list[Contender]', device: str) -> 'list[Contender]':
    """The rows but those of ours whose engine does not do their precision.

    Raises:
        ValueError: None of ours is left.
    """
    from ..benchmarking.contenders import OURS
    from ..engines.registry import resolve_precision

    possible, reason = [], None
    for row in rows:
        try:
            if row.system == OURS:
                resolve_precision(row.settings['precision'], device, row.settings['engine'])
            possible.append(row)
        except ValueError as error:
            reason = reason or error
    if not any(row.system == OURS for row in possible):
        raise ValueError(reason)
    return possible


def find_images(
    args: argparse.Namespace, rows: 'list[Contender]', folder: str
) -> 'tuple[list[Image], str | None]':
    """The images of a round, with their persons where these are given, and annotations."""
    from dataclasses import replace

    from ..benchmarking.throughput import find_persons
    from ..benchmarking.work import Image, repeat, with_annotated_persons
    from ..evaluation.annotations import read_annotations
    from ..scenes import SceneOptions, write_scenes

    ann_file = args.ann_file
    if args.scenes:
        people = {} if args.persons is None else {'persons': (args.persons, args.persons)}
        options = SceneOptions(**people)
        ann_file = str(write_scenes(folder, args.scenes, 0, options, quiet=args.quiet))
    elif ann_file is not None:
        read_annotations(ann_file)  # an error is raised before the rounds
    paths = repeat(list_images(args.inputs or [folder]), args.images or args.scenes or 64)
    models = rows[0].models
    if not models.given_boxes:
        return [Image(path) for path in paths], ann_file
    if ann_file is not None:
        return with_annotated_persons(paths, ann_file), ann_file
    found = find_persons(replace(models, given_boxes=False), [Image(path) for path in paths])
    return found, None


def write(
    args: argparse.Namespace,
    images: int,
    warning: str | None,
    measured: 'Sequence[Measurement]',
    cut_off: bool = False,
) -> None:
    """Write every sample, and the plots, if there is a folder for them.

    Args:
        args: The arguments.
        images: Number of images of a round.
        warning: What disturbs measurements on the machine, if anything.
        measured: The rows.
        cut_off: Whether a signal ended the rounds.
    """
    if not args.out_dir:
        return
    from ..benchmarking.document import add_plots, write_result
    from ..benchmarking.plots import plot_all
    from ..benchmarking.report import failures, tables

    folder = Path(args.out_dir)
    rows = [measurement.as_dict() for measurement in measured]
    shown = tables(measured) + failures(measured)
    settings = {name: getattr(args, name) for name in ROUNDS}
    more = {
        'settings': {'images': images, **settings},
        'warning': warning,
        'cut_off': cut_off,
        'rows': rows,
    }
    write_result(folder, TOOL, args.command, shown, **more)
    plots = plot_all(measured, folder)
    add_plots(folder, plots)
    print(f'{folder}: benchmark.json, {", ".join(plot.name for plot in plots)}')


def recommend(args: argparse.Namespace, measured: 'Sequence[Measurement]') -> bool:
    """Print the fastest options within the limits; returns whether there are any."""
    from ..benchmarking.throughput import best, flags

    latency = None if args.max_latency is None else args.max_latency / 1e3
    memory = None if args.max_memory is None else args.max_memory * 1e9
    chosen = best(measured, latency, memory)
    if chosen is None:
        return False
    unsure = '' if chosen.rate_settled else ', which has not converged'
    print(
        f'best here: {flags(chosen)}\n({chosen.images_per_second:.2f} images/s{unsure}, '
        f'one image alone {chosen.latency * 1e3:.0f} ms, '
        f'{chosen.report["peak_memory"]["resident"] / 1e9:.2f} GB)'
    )
    return True
