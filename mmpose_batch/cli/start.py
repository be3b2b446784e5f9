r"""Measure the time from process start to first result, with an empty and with a filled cache.

  tools/benchmark_start.py photos/ --pose2d rtmo-s --engine openvino auto
  tools/benchmark_start.py photos/ --pose2d CONFIG --pose2d-weights FILE --engine openvino \
      --precision fp32 bf16 int8 --out-dir start

The first start has an empty engine cache: it exports, quantises and compiles the networks, times
the engines for `auto`, and caches all results. The second start reads them from the cache. Both
starts verify the engine against PyTorch. Each start is a new process, and int8 is calibrated on the
images. The column `imports` is the time to import PyTorch and MMPose, which no cache saves; the
last column is the ratio of the starts without this time.

Exit status: 0 all rows ran, 1 nothing could run, 2 wrong arguments, 3 some rows could not run.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
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
    run_to_end,
)
from .options import add_model_options, add_number, add_options
from .streams import quieten_libraries

if TYPE_CHECKING:
    from ..benchmarking.contenders import Contender
    from ..benchmarking.document import Table
    from ..benchmarking.report import Measurement
    from ..benchmarking.work import Image

TOOL = 'benchmark_start'
STARTS = ('first', 'second')
HEADER = (
    *('s to the first result', 'imports', 'first start', 'second start', 'second / first'),
    'without imports',
)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong arguments end the process with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='folders, image files, globs')
    add_number(parser, '--images', 'images per start; inputs are repeated as needed', default=64)
    model = parser.add_argument_group('model')
    add_model_options(model)
    model.add_argument('--no-flip-test', action='store_true', help='switch the flip test off')
    rows = parser.add_argument_group('rows: every combination of')
    several = {'nargs': '+'}
    add_options(
        rows,
        BatchOptions,
        engine={**several, 'default': ['openvino'], 'help': 'engines (default: openvino)'},
        precision={**several, 'default': ['fp32'], 'help': 'precisions (default: fp32)'},
    )
    add_number(parser, '--rounds', 'number of rounds', default=3)
    return parse_with_out_dir(parser, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    return run_to_end(TOOL, lambda: run(parse_args(arguments)))


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit status."""
    quieten_libraries()
    # Importing mmpose takes seconds, which --help and wrong options should not need.
    from ..benchmarking.document import write_result
    from ..benchmarking.report import failures, print_table
    from ..benchmarking.work import Image, repeat

    note_demo_models(args)
    warning = note_noise()
    try:
        contenders = build_contenders(args)
        paths = repeat(list_images(args.inputs), args.images)
        rows = measure(contenders, [Image(path) for path in paths], args.rounds)
    except ValueError as error:
        return fail(TOOL, 2, error)
    ran = {row.contender.name: row.samples for row in rows if row.failure is None}
    tables = [*([tabulate(ran)] if ran else []), *failures(rows)]
    for table in tables:
        print_table(table)
    if args.out_dir:
        settings = {name: getattr(args, name) for name in ('images', 'rounds')}
        more = {'settings': settings, 'warning': warning, 'starts': ran}
        write_result(Path(args.out_dir), TOOL, args.command, tables, **more)
    if not ran:
        return fail(TOOL, 1, 'no row could run')
    return 3 if len(ran) < len(rows) else 0


def build_contenders(args: argparse.Namespace) -> 'list[Contender]':
    """The rows that the arguments select.

    Raises:
        ValueError: The model or an engine does not exist.
    """
    from ..benchmarking.contenders import Models, read_config, sweep

    models = Models(**named_models(args), flip_test=False if args.no_flip_test else None)
    read_config(args.pose2d)
    check_engines(args.engine)
    axes = {name: list(dict.fromkeys(getattr(args, name))) for name in ('engine', 'precision')}
    return list(sweep(models, (), axes))


def measure(
    contenders: 'Sequence[Contender]', images: 'list[Image]', rounds: int
) -> 'list[Measurement]':
    """The starts of every row, in rounds; rows that cannot start have the reason."""
    from ..benchmarking.process import ContenderError
    from ..benchmarking.report import Measurement

    rows = [Measurement(contender=contender) for contender in contenders]
    for round_ in range(1, rounds + 1):
        for row in rows:
            if row.failure is not None:
                continue
            try:
                row.samples.append(start_twice(row.contender, images))
            except ContenderError as error:
                row.failure = str(error)
                continue
            first, second = (row.samples[-1][name]['first_result'] for name in STARTS)
            print(
                f'round {round_}: {row.contender.name}: {first:.1f} s, then {second:.1f} s',
                file=sys.stderr,
            )
    return rows


def start_twice(contender: 'Contender', images: 'list[Image]') -> dict[str, dict[str, float]]:
    """Seconds of a start with an empty cache, and of a second start with the filled cache.

    Raises:
        ContenderError: The contender cannot start.
    """
    with empty_caches():
        return {which: start(contender, images) for which in STARTS}


@contextmanager
def empty_caches() -> Iterator[None]:
    """Give the processes that are started in this block a new, empty cache folder."""
    from ..engines.cache import FOLDER_VARIABLE

    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix='mmpose_batch-') as folder:
        os.environ[FOLDER_VARIABLE] = f'{folder}/engines'
        os.environ['TORCHINDUCTOR_CACHE_DIR'] = f'{folder}/inductor'  # of torch.compile
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def start(contender: 'Contender', images: 'list[Image]') -> dict[str, float]:
    """Seconds of one start; see :class:`mmpose_batch.benchmarking.process.ContenderProcess`."""
    from ..benchmarking.process import ContenderProcess

    with ContenderProcess(contender, images, warm_up=False) as process:
        return process.start


def tabulate(ran: 'dict[str, list[dict[str, dict[str, float]]]]') -> 'Table':
    """Table of medians, one row for each engine and precision."""
    from ..benchmarking.document import Table

    rows = []
    for name, samples in ran.items():
        imports = median(starts[which]['imports'] for starts in samples for which in STARTS)
        times = (median(starts[which]['first_result'] for starts in samples) for which in STARTS)
        cells = [f'{seconds:.1f}' for seconds in (imports, *times)]
        rows.append([name, *cells, f'{ratio(samples):.2f}', f'{ratio(samples, "imports"):.2f}'])
    return Table(HEADER, rows)


def ratio(samples: 'list[dict[str, dict[str, float]]]', since: str | None = None) -> float:
    """Median ratio of the second start to the first, both counted from the start of the process.

    Args:
        samples: Starts of each round.
        since: Name of the time to count from instead.
    """
    found = []
    for starts in samples:
        begun = {which: starts[which][since] if since else 0.0 for which in STARTS}
        first, second = (starts[which]['first_result'] - begun[which] for which in STARTS)
        found.append(second / first)
    return median(found)
