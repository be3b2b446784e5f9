r"""Measure the time per person outside the network, here and in upstream MMPose, on one core.

  tools/benchmark_overhead.py --pose2d rtmpose-s
  tools/benchmark_overhead.py --pose2d CONFIG --persons 1

One synthetic image, covered with boxes, repeatedly passes through every stage except the network,
alternating between this package and upstream MMPose. The weights do not influence the result.

Exit status: 0 done, 1 could not run, 2 wrong arguments.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .console import (
    build_inferencer,
    fail,
    parse_with_out_dir,
    run_to_end,
)
from .options import add_number
from .streams import quieten_libraries

if TYPE_CHECKING:
    from ..benchmarking.document import Table
    from ..benchmarking.overhead import Overhead

TOOL = 'benchmark_overhead'


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong arguments end the process with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--pose2d',
        default='rtmpose-s',
        metavar='MODEL',
        help='config file or name of a top-down model',
    )
    parser.add_argument(
        '--pose2d-weights',
        default='none',
        metavar='FILE',
        help='checkpoint (default: none, which means random weights)',
    )
    add_number(parser, '--persons', 'number of persons in the image', default=100)
    add_number(parser, '--rounds', 'number of rounds', default=40, minimum=5)
    return parse_with_out_dir(parser, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    return run_to_end(TOOL, lambda: run(parse_args(arguments)))


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit status."""
    quieten_libraries()
    from ..benchmarking.document import write_result
    from ..benchmarking.overhead import measure_overhead
    from ..benchmarking.report import print_table
    from ..errors import CheckpointError, EngineError, RunError

    try:
        inferencer = build_inferencer(
            *(args.pose2d, args.pose2d_weights),
            **{'det_model': 'whole_image', 'device': 'cpu', 'engine': 'torch', 'precision': 'fp32'},
        )
        overhead = measure_overhead(inferencer, args.persons, args.rounds)
    except (CheckpointError, EngineError, RunError) as error:
        return fail(TOOL, 1, error)
    except ValueError as error:
        return fail(TOOL, 2, error)
    table = tabulate(overhead)
    print_table(table)
    try:
        if args.out_dir:
            write_result(Path(args.out_dir), TOOL, args.command, [table])
    except OSError as error:
        return fail(TOOL, 1, error)
    return 0


def tabulate(overhead: 'Overhead') -> 'Table':
    """Table with one row for each stage, and the sum."""
    from ..benchmarking.document import Table
    from ..benchmarking.overhead import STAGES

    rows = []
    for stage, title in STAGES.items():
        ratio = overhead.ratios[stage]
        cells = (f'{overhead.here[stage]:.3f}', f'{overhead.upstream[stage]:.3f}')
        rows.append([title, *cells, f'{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})'])
    here, upstream = sum(overhead.here.values()), sum(overhead.upstream.values())
    rows.append(['all', f'{here:.3f}', f'{upstream:.3f}', f'{upstream / here:.2f}'])
    return Table(('ms per person', 'here', 'upstream', 'ratio'), rows)
