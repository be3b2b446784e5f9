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
from collections.abc import Sequence

from ..config import BatchOptions
from .console import parse_with_out_dir
from .options import CORES, RECT, add_model_options, add_options, number

AGAINST = ('stock', 'rtmlib', 'crop-by-crop', 'padded-batches', 'thread-pool')


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong arguments end the process with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for add_group in (_add_images, _add_models, _add_rows, _add_rounds, _add_output):
        add_group(parser)
    return parse_with_out_dir(parser, arguments, check)


def _add_images(parser: argparse.ArgumentParser) -> None:
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


def _add_models(parser: argparse.ArgumentParser) -> None:
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


def _add_rows(parser: argparse.ArgumentParser) -> None:
    rows = parser.add_argument_group('rows: every combination of')
    several = {'nargs': '+', 'metavar': 'N'}
    add_options(
        rows,
        BatchOptions,
        engine={**several, 'metavar': 'E', 'help': 'engines (default: torch)'},
        precision={**several, 'metavar': 'P', 'help': 'precisions (default: fp32)'},
        batch_size={
            **several,
            'help': 'batch sizes, or auto (default: by device, engine and input size)',
        },
        num_workers={
            **several,
            'default': [None],
            'help': 'numbers of threads that read and preprocess images',
        },
        num_threads={
            **several,
            'default': [None],
            'help': 'numbers of threads that run the networks on a CPU',
        },
        cpu_affinity=CORES,
        rect=RECT,
    )
    rows.add_argument(
        '--against',
        nargs='*',
        choices=AGAINST,
        default=['stock'],
        help='other systems to compare with; ratios are relative to the first (default: stock, '
        'which is upstream MMPose)',
    )


def _add_rounds(parser: argparse.ArgumentParser) -> None:
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


def _add_output(parser: argparse.ArgumentParser) -> None:
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
