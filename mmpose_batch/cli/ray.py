r"""Estimate 2D poses for images and videos on a Ray cluster.

  mmpose-batch ray photos/ --out-dir poses --address local --pose2d rtmo-s --workers 1 2
  mmpose-batch ray @list.txt --out-dir /shared/poses --pose2d rtmo-s --workers 8 64 --num-gpus 1
  mmpose-batch ray s3://bucket/photos --out-dir s3://bucket/poses --pose2d human --merge

The inputs are listed once, and divided into chunks of 256 images; a video is one piece of work.
Workers write files for each chunk into --out-dir, which every node must see, as it must see the
inputs: records/ (one JSON line per image), parquet/ (tables of persons and of images), failures/.
With --merge, predictions.jsonl and failures.jsonl are written at the end, in input order.

Start the same command again to continue after an interruption: only missing chunks are computed.
A worker that dies is replaced, and an image or video that kills its worker becomes a failure
record. A run with other options, weights or packages is rejected in the same folder.

Exit status: 0 all inputs succeeded, 1 could not run, 2 wrong arguments, 3 finished with failures.
"""

import argparse
from collections.abc import Sequence

from ..cluster.options import RayOptions
from ..config import VideoOptions
from ..declare import declared
from .console import fail, run_to_end, show
from .infer_parser import GROUPS, OWNERS
from .options import OPEN, add_option, take
from .streams import quieten_libraries

TOOL = 'ray'
# Groups of the options of `infer` that this command has too, and options that it lacks.
_SHARED = ('inputs', 'videos', 'model', 'thresholds', 'speed')
_MISSING = ('bboxes', 'cpu_affinity')
_MAIN = ('address', 'workers', 'num_gpus', 'num_cpus', 'timeout_per_chunk')
_OUTPUT = ('parquet', 'merge', 'limit', 'quiet')


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help='folder, image or video file, quoted glob pattern, each a path or a URL such as '
        's3://bucket/photos, or @FILE with one path or URL per line, which is not checked',
    )
    add_option(parser, RayOptions, 'out_dir', required=True)
    cluster = parser.add_argument_group('cluster')
    for name in _MAIN:
        add_option(cluster, RayOptions, name, **({'nargs': 2} if name == 'workers' else {}))
    owner_of = {name: owner for owner in OWNERS for name in declared(owner)}
    for title in _SHARED:
        group = parser.add_argument_group(title)
        for name in GROUPS[title]:
            if name not in _MISSING:
                owner = owner_of[name]
                add_option(group, owner, name, strict=owner not in OPEN)
    output = parser.add_argument_group('output')
    for name in _OUTPUT:
        add_option(output, RayOptions, name)
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong arguments end the process with status 2."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        args.options = RayOptions(**take(args, list(declared(RayOptions))))
        args.video = VideoOptions(**take(args, list(declared(VideoOptions))))
    except ValueError as error:
        parser.error(str(error))
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parse_args(arguments)
    return run_to_end(TOOL, lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Run on the cluster, and print the summary or the error; returns the exit status."""
    quieten_libraries()
    # Importing torch and mmpose takes seconds, which --help and wrong options should not need.
    from ..errors import CheckpointError, EngineError, OutputError, RunError
    from .ray_job import run_job

    try:
        summary = run_job(args)
    except (CheckpointError, EngineError, OutputError, RunError) as error:
        return fail(TOOL, 1, error)
    except ValueError as error:  # wrong inputs, files or options
        return fail(TOOL, 2, error)
    if not args.quiet:
        show(list(summary.lines()))
    return 3 if summary.failures else 0
