#!/usr/bin/env python
"""Measure memory and rate of the driver of a run on Ray, with workers that compute nothing.

  tools/benchmark_ray_driver.py 100000 1000000 10000000

Starts a Ray cluster on this machine. Exit status: 0 measured, 1 Ray is missing or a run failed,
2 wrong arguments.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the package is not installed

from mmpose_batch.cli.console import fail
from mmpose_batch.cli.options import add_number, number

TOOL = 'benchmark_ray_driver'


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one line for each number of paths; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('paths', nargs='+', type=number(1), metavar='N', help='number of paths')
    add_number(parser, '--workers', 'number of workers, each with one CPU', default=2)
    parser.add_argument('--folder', metavar='DIR', help='folder for temporary files')
    args = parser.parse_args(arguments)
    from mmpose_batch.benchmarking.ray_driver import measure

    from mmpose_batch.cluster.driver import connect, import_ray
    from mmpose_batch.cluster.options import RayOptions
    from mmpose_batch.errors import RunError

    try:
        ray = import_ray()
        connect(
            RayOptions(out_dir='.', address='local', quiet=True),
            num_cpus=args.workers,
            object_store_memory=200 * 2**20,
            include_dashboard=False,
        )
        for count in args.paths:
            print(measure(count, args.workers, args.folder), flush=True)
    except (OSError, RunError, RuntimeError) as error:
        return fail(TOOL, 1, error)
    ray.shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
