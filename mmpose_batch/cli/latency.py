r"""Measure the latency of single images, as in live use.

  tools/benchmark_latency.py photos/ --pose2d rtmo-s --engine openvino --cpu-affinity 0
  tools/benchmark_latency.py photos/ --pose2d rtmo-s --engine openvino --against upstream \
      --count 500
  tools/benchmark_latency.py photos/ --pose2d rtmo-s --engine openvino --rate 20 --out-dir live

Each contender runs in its own process. They alternate every 100 images; the first images after a
switch are not counted. Two kinds of input are measured: files, which includes reading and decoding,
and the same images decoded beforehand. The first 100 images of INPUT are used, repeatedly. With
--rate, decoded frames arrive at that rate, for one contender after the other; a deadline is missed
if a result arrives after the next frame.

The column `first` is the time from a loaded model to the result of the first image of a process. It
includes building and verifying the engine.

Files written to --out-dir: benchmark.json with every sample, and two plots, a histogram and the
latencies over time.

Exit status: 0 done, 1 could not run, 2 wrong arguments.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import BatchOptions
from .console import (
    check_engines,
    fail,
    list_images,
    named_models,
    note_demo_models,
    note_noise,
    parse_with_out_dir,
    run_to_end,
)
from .options import CORES, RECT, add_model_options, add_number, add_options, system_name
from .streams import quieten_libraries

if TYPE_CHECKING:
    from ..benchmarking.contenders import Contender
    from ..benchmarking.document import Table
    from ..benchmarking.latency import Pace
    from ..benchmarking.process import ContenderProcess

TOOL = 'benchmark_latency'
# Images of a turn: enough for the processor's clock to become steady, few enough that a drift of
# the machine's speed affects all contenders alike.
TURN = 100
# Uncounted images before each turn, since another process has filled the processor's caches.
UNCOUNTED = 3
# Maximum number of different images, since all of them are held in memory decoded.
MAX_IMAGES = 100
KINDS = {'files': False, 'decoded': True}


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong arguments end the process with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='folders, image files, globs')
    model = parser.add_argument_group('model')
    add_model_options(model)
    model.add_argument('--no-flip-test', action='store_true', help='switch the flip test off')
    how = parser.add_argument_group('contenders')
    add_options(
        how,
        BatchOptions,
        engine={'default': 'torch', 'help': 'engine (default: %(default)s)'},
        precision={'default': 'fp32', 'help': 'precision (default: %(default)s)'},
        rect=RECT,
        num_threads={},
        cpu_affinity=CORES,
    )
    how.add_argument(
        '--against',
        nargs='*',
        type=system_name,
        choices=('upstream',),
        default=[],
        help='upstream: also measure upstream MMPose',
    )
    much = parser.add_argument_group('extent')
    add_number(much, '--warm-up', 'images before the measurement', default=100, minimum=0)
    add_number(much, '--count', 'images to measure', default=2000)
    much.add_argument(
        '--rate',
        type=float,
        metavar='HZ',
        help='frames per second; without it, each image starts when the previous result is there',
    )
    return parse_with_out_dir(parser, arguments, check)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Reject values that are out of range, before anything is started."""
    if args.rate is not None and not args.rate > 0:
        parser.error(f'--rate: expected a positive number, found {args.rate}')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    return run_to_end(TOOL, lambda: run(parse_args(arguments)))


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit status."""
    quieten_libraries()
    # Importing mmpose takes seconds, which --help and wrong options should not need.
    from ..benchmarking.process import ContenderError, ContenderProcess
    from ..benchmarking.report import print_table
    from ..benchmarking.work import Image

    note_demo_models(args)
    warning = note_noise()
    try:
        contenders = build_contenders(args)
        different = dict.fromkeys(list_images(args.inputs))
        images = [Image(path) for path in islice(different, MAX_IMAGES)]
        with ExitStack() as stack:
            running = {
                contender.name: stack.enter_context(ContenderProcess(contender, images))
                for contender in contenders
            }
            for process in running.values():
                process.ask('latencies', range(args.warm_up), True)
            paces: dict[str, Pace] = {}
            if args.rate:
                paces = {n: p.ask('pace', args.rate, args.count, True) for n, p in running.items()}
                table = tabulate_paces(paces)
                found = {name: {'decoded': pace.ages} for name, pace in paces.items()}
            else:
                found = measure(running, args.count)
                table = tabulate(found, running)
            ran = {name: describe(p, paces.get(name)) for name, p in running.items()}
    except ContenderError as error:
        return fail(TOOL, 1, error)
    except ValueError as error:
        return fail(TOOL, 2, error)
    print_table(table)
    if args.out_dir:
        settings = {name: getattr(args, name) for name in ('warm_up', 'count', 'rate')}
        settings['images'] = len(images)
        write(args, table, found, settings=settings, warning=warning, contenders=ran)
    return 0


def build_contenders(args: argparse.Namespace) -> 'list[Contender]':
    """The contenders: this package, called with one image, and the systems to compare with.

    Raises:
        ValueError: The model, an engine or the cores do not exist.
    """
    from ..benchmarking.contenders import OURS, Contender, Models, read_config
    from ..cores import parse_cores

    if args.cpu_affinity is not None:
        parse_cores(args.cpu_affinity)
    models = Models(**named_models(args), flip_test=False if args.no_flip_test else None)
    read_config(args.pose2d)
    check_engines([args.engine])
    settings = {'engine': args.engine, 'precision': args.precision, 'rect': args.rect}
    common = {
        'models': models,
        'num_threads': args.num_threads,
        'cpu_affinity': args.cpu_affinity,
    }
    return [
        *(Contender(system=system, **common) for system in args.against),
        Contender(system=OURS, settings=settings, **common),
    ]


def measure(running: 'dict[str, ContenderProcess]', count: int) -> dict[str, dict[str, list]]:
    """Seconds of every image of every contender, which alternate, for files and decoded images."""
    found: dict[str, dict[str, list]] = {name: defaultdict(list) for name in running}
    for first in range(0, count, TURN):
        turn = range(first, min(first + TURN, count))
        for name, process in running.items():
            for kind, decoded in KINDS.items():
                process.ask('latencies', range(first - UNCOUNTED, first), decoded)
                found[name][kind] += process.ask('latencies', turn, decoded)
        print(f'{turn.stop} of {count} images', file=sys.stderr)
    return found


def tabulate(found: dict[str, dict[str, list]], running: 'dict[str, ContenderProcess]') -> 'Table':
    """Latencies, one row for each contender and kind of input."""
    from ..benchmarking.document import Table
    from ..benchmarking.latency import milliseconds, summarise

    rows = []
    for name, kinds in found.items():
        for kind, seconds in kinds.items():
            cells = milliseconds(summarise(seconds))
            first = f'{running[name].start["first_run"] * 1e3:.0f}' if kind == 'files' else ''
            rows.append([f'{name}, {kind}', first, *cells.values()])
    return Table(['ms per image', 'first', *cells], rows)


def tabulate_paces(paces: 'dict[str, Pace]') -> 'Table':
    """Ages of results at a fixed rate, one row for each contender."""
    from ..benchmarking.document import Table
    from ..benchmarking.latency import milliseconds, summarise

    rows = []
    for name, pace in paces.items():
        cells = milliseconds(summarise(pace.ages))
        missed = f'{pace.missed} of {len(pace.ages)}'
        rows.append([name, missed, f'{pace.oldest * 1e3:.0f}', str(pace.waited), *cells.values()])
    return Table(['age of a result, ms', 'missed', 'oldest', 'max waiting', *cells], rows)


def describe(process: 'ContenderProcess', pace: 'Pace | None') -> dict[str, Any]:
    """Start times and report of a contender, and its pace if there is a rate."""
    found = {'start': process.start, 'report': process.ask('report')}
    if pace is not None:
        names = ('rate', 'missed', 'oldest', 'waited')
        found['pace'] = {name: getattr(pace, name) for name in names}
    return found


def write(
    args: argparse.Namespace, table: 'Table', found: dict[str, dict[str, list]], **more: Any
) -> None:
    """Write every sample, the settings, and the plots."""
    from ..benchmarking.document import add_plots, write_result
    from ..benchmarking.latency import summarise
    from ..benchmarking.plots import plot_latencies

    named = {f'{name}, {kind}': s for name, kinds in found.items() for kind, s in kinds.items()}
    summaries = {name: summarise(seconds) for name, seconds in named.items()}
    folder = Path(args.out_dir)
    write_result(folder, TOOL, args.command, [table], summaries=summaries, seconds=named, **more)
    quantity = "age of a frame's result, ms" if args.rate else 'ms per image'
    plots = plot_latencies(named, folder, quantity)
    add_plots(folder, plots)
    print(f'{folder}: benchmark.json, {", ".join(plot.name for plot in plots)}')
