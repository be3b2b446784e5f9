#!/usr/bin/env python
"""Write the reference of the options of tools/batch_infer.py, docs/reference/options.md.

  tools/write_options.py

Exit status: 0 written, 1 the file cannot be written, 2 wrong arguments.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the package is not installed

from mmpose_batch.cli.console import fail
from mmpose_batch.cli.infer import build_parser

TOOL = 'write_options'
PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'reference' / 'options.md'
HEAD = """# Options

<!-- Written by tools/write_options.py from the options of tools/batch_infer.py; do not edit. -->

The options of `tools/batch_infer.py`, as `--help` shows them.
[Process a folder](../guides/folder.md) shows how to use them.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    try:
        PAGE.write_text(render(build_parser()), encoding='utf-8')
    except OSError as error:
        return fail(TOOL, 1, error)
    return 0


def render(parser: argparse.ArgumentParser) -> str:
    """The page: usage notes, then one table per group of options."""
    parts = [HEAD]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest != 'help']
        if actions:
            parts.append(f'## {_title(group.title)}\n')
            parts.append('| option | meaning |\n| --- | --- |')
            parts += [*_rows(parser, actions), '']
    return '\n'.join(parts)


def _title(title: str) -> str:
    return 'Output folder' if title == 'options' else title.capitalize()


def _rows(parser: argparse.ArgumentParser, actions: Sequence[argparse.Action]) -> Iterator[str]:
    formatter = parser._get_formatter()
    for action in actions:
        text = formatter._expand_help(action).replace('|', r'\|').replace('<', '&lt;')
        yield f'| `{formatter._format_action_invocation(action)}` | {text} |'


if __name__ == '__main__':
    sys.exit(main())
