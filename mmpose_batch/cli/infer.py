"""The command ``infer``: estimates poses for images."""

import argparse
import signal
import sys
from collections.abc import Sequence

from .console import describe_unexpected, fail, remove_logs, show
from .infer_parser import build_parser, parse_args
from .streams import quieten_libraries

__all__ = ['build_parser', 'main', 'parse_args']

TOOL = 'batch_infer'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    args = parse_args(arguments)
    from ..images.native_messages import native_messages

    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        with native_messages(args.quiet):
            return run(args)
    except KeyboardInterrupt:
        return fail(TOOL, 130, 'interrupted; complete results are saved, resume with --resume')
    except Exception as error:  # an unexpected one
        return fail(TOOL, 1, f'unexpected {describe_unexpected(error, args.out_dir)}')


def run(args: argparse.Namespace) -> int:
    """Infer, and print the summary or the error; returns the exit status."""
    quieten_libraries()
    # Importing torch and mmpose takes seconds, which --help and wrong options should not need.
    from ..errors import (
        CheckpointError,
        EngineError,
        InputError,
        OutputError,
        RunError,
        TooManyErrors,
    )
    from .infer_dry_run import describe_job
    from .infer_job import build, prepare

    try:
        job = prepare(args)
        if args.dry_run:
            return show_lines(list(describe_job(args, job)))
        job = build(args, job)  # drops the annotations: large ones take a gigabyte
    except TooManyErrors as error:
        return fail(TOOL, 4, error)
    except (CheckpointError, EngineError, OutputError, RunError) as error:
        return fail(TOOL, 1, error)
    except ValueError as error:  # wrong inputs, files or options
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
