r"""Measure images per second from files to results, and compare with other systems.

  tools/benchmark_throughput.py photos/ --pose2d rtmo-s --engine torch openvino
  tools/benchmark_throughput.py --scenes 64 --pose2d CONFIG --pose2d-weights FILE \
      --batch-size 1 2 4 8 --num-threads 1 2 --out-dir bench
  tools/benchmark_throughput.py photos/ --pose2d rtmpose-s --no-flip-test --against upstream rtmlib
  tools/benchmark_throughput.py photos/ --recommend --max-latency 300 --max-memory 2

Every row of the table runs in its own process. Each round runs all rows once over the same images,
one after the other, so that a drift of the machine's speed affects all rows alike. Rounds repeat
until the medians of the ratios have converged or --time-limit is reached; values that have not
converged are marked with a question mark. Rows of this package also write their predictions; other
systems do not.

Files written to --out-dir: benchmark.json with every sample, and plots. After Ctrl-C they contain
the samples measured so far.

--recommend tries several engines, precisions and batch sizes unless you name them: all installed
engines, fp32 and the other native precision of the hardware (bf16 on some processors, fp16 on
CUDA), and two batch sizes.

Exit status: 0 all rows ran, 1 nothing could run, 2 wrong arguments, 3 some named rows could not
run.
"""

import argparse
from collections.abc import Sequence

from ..config import BatchOptions
from .console import parse_with_out_dir
from .options import CORES, RECT, add_model_options, add_number, add_options, number, system_name

AGAINST = ('upstream', 'rtmlib', 'crop-by-crop', 'padded-batches', 'thread-pool')


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
    add_number(work, '--scenes', 'use N synthetic scenes instead of INPUT')
    work.add_argument(
        '--persons', type=number(0), metavar='K', help='persons in each scene (default: 1 to 3)'
    )
    text = 'images per round; inputs are repeated as needed (default: 64, or all scenes)'
    add_number(work, '--images', text)
    work.add_argument('--ann-file', metavar='FILE', help='COCO annotations of INPUT, to compute AP')


def _add_models(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group('model')
    add_model_options(model)
    model.add_argument(
        '--no-flip-test', action='store_true', help='switch the flip test off in all rows'
    )
    model.add_argument(
        '--given-boxes',
        action='store_true',
        help='use precomputed boxes (from --ann-file or detected before the rounds); no row runs a '
        'detector; required for rtmlib and the simple baselines',
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
            'help': 'numbers of threads that read and preprocess images (default: number of cores, '
            'at most 8)',
        },
        num_threads={
            **several,
            'default': [None],
            'help': "numbers of threads that run the networks on a CPU (default: PyTorch's number, "
            'at most the number of available cores)',
        },
        cpu_affinity=CORES,
        rect=RECT,
    )
    rows.add_argument(
        '--against',
        nargs='*',
        type=system_name,
        choices=AGAINST,
        default=['upstream'],
        help='other systems to compare with; ratios are relative to the first (default: '
        "upstream, which is MMPose's own inferencer)",
    )


def _add_rounds(parser: argparse.ArgumentParser) -> None:
    rounds = parser.add_argument_group('rounds')
    add_number(rounds, '--rounds', 'minimum number of rounds (default: 5, or --max-rounds)')
    add_number(rounds, '--max-rounds', 'maximum number of rounds (default: 25)')
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
        help='print the fastest options of batch_infer.py on this machine; tries several engines, '
        'precisions and batch sizes unless you name them',
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
    output.add_argument('--quiet', action='store_true', help='print only tables and errors')


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Reject arguments that cannot be combined, before anything is started."""
    if bool(args.inputs) == bool(args.scenes):
        parser.error('expected either INPUT or --scenes')
    if args.persons is not None and not args.scenes:
        parser.error('--persons: only valid with --scenes')
    if args.ann_file and args.scenes:
        parser.error(
            '--ann-file cannot be combined with --scenes, which have their own annotations'
        )
    if not args.recommend and (args.max_latency is not None or args.max_memory is not None):
        parser.error('--max-latency, --max-memory: only valid with --recommend')
    for name in ('max_latency', 'max_memory'):
        value = getattr(args, name)
        if value is not None and not value > 0:
            parser.error(f'--{name.replace("_", "-")}: expected a positive number, found {value}')
    if args.rounds is None:
        args.rounds = min(5, args.max_rounds or 5)
    if args.max_rounds is None:
        args.max_rounds = max(args.rounds, 25)
    if args.max_rounds < args.rounds:
        parser.error(f'--max-rounds: expected an integer >= --rounds, found {args.max_rounds}')
    if not args.interval > 0 or not args.time_limit >= 0:
        parser.error('--interval, --time-limit: expected a number > 0 and a number >= 0')
