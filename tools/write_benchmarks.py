#!/usr/bin/env python
r"""Insert the results of the benchmark tools into a document.

  tools/write_benchmarks.py docs/benchmarks.md pair=bench/pair live=bench/live

A result is a folder that a tool wrote with --out-dir. Its date, machine, versions, command, tables
and plots replace the text between <!-- NAME --> and <!-- end of NAME --> in the document. The text
outside these markers is not changed.

Exit status: 0 written, 2 wrong arguments.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the package is not installed

from mmpose_batch.cli.console import fail
from mmpose_batch.cli.streams import quieten_libraries

TOOL = 'write_benchmarks'


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong arguments end the process with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'document', type=Path, metavar='FILE', help='Markdown file with the markers'
    )
    parser.add_argument(
        'results',
        nargs='+',
        type=result,
        metavar='NAME=DIR',
        help='name of the markers, and folder of the result',
    )
    return parser.parse_args(arguments)


def result(text: str) -> tuple[str, Path]:
    """Read NAME=DIR."""
    name, _, folder = text.partition('=')
    if not (re.fullmatch(r'[\w-]+', name) and folder):
        raise argparse.ArgumentTypeError(
            f'expected NAME=DIR, with letters, digits, _ and - in NAME, found {text}'
        )
    return name, Path(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write; returns the exit status."""
    args = parse_args(arguments)
    quieten_libraries()
    from mmpose_batch.benchmarking.document import put, read_section

    try:
        text = args.document.read_text(encoding='utf-8')
        if not args.document.suffix:
            raise ValueError(f'{args.document}: add .md; the folder of the plots has this name')
        pictures: dict[str, Path] = {}
        for name, folder in args.results:
            section = read_section(name, folder, args.document.stem)
            text = put(text, name, section)
            pictures |= section.plots
        for link, plot in pictures.items():
            target = args.document.parent / link
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(plot, target)
        args.document.write_text(text, encoding='utf-8')
    except (OSError, ValueError) as error:
        return fail(TOOL, 2, error)
    return 0


if __name__ == '__main__':
    sys.exit(main())
