"""Results of benchmarks: ``benchmark.json``, and sections of a document."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from .machine import describe_machine

RESULT = 'benchmark.json'
_JSON = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_WIDTH = 80
# Packages whose versions influence a speed.
_VERSIONS = ('torch', 'mmpose', 'mmdet', 'mmcv', 'openvino', 'onnxruntime', 'nncf', 'rtmlib')


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    Attributes:
        header: Titles of the columns.
        rows: Cells of the rows.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Markdown, with the first column aligned to the left and the others to the right."""
        rule = ['---', *['---:'] * (len(self.header) - 1)]
        return '\n'.join(map(markdown_row, (self.header, rule, *self.rows)))


def markdown_row(cells: Sequence[str]) -> str:
    """One row of a Markdown table."""
    clean = (' '.join(cell.split()).replace('|', r'\|') for cell in cells)
    return f'| {" | ".join(clean)} |'


def write_result(
    folder: Path,
    tool: str,
    arguments: Sequence[str],
    tables: Sequence[Table],
    plots: Sequence[Path] = (),
    **more: Any,
) -> None:
    """Write ``benchmark.json``: the machine, the command, the printed tables, and more.

    Args:
        folder: Folder for the file.
        tool: Name of the tool.
        arguments: Arguments of its command line.
        tables: Tables that it printed.
        plots: Plots in the folder.
        more: Other content, such as every sample.
    """
    content = {
        'machine': describe_machine(),
        'command': [f'tools/{tool}.py', *map(str, arguments)],
        'tables': [asdict(table) for table in tables],
        'plots': [plot.name for plot in plots],
        **more,
    }
    (folder / RESULT).write_bytes(orjson.dumps(content, option=_JSON, default=str))


def add_plots(folder: Path, plots: Sequence[Path]) -> None:
    """Add the names of plots to a ``benchmark.json``, which is written before they are drawn."""
    content = orjson.loads((folder / RESULT).read_bytes())
    content['plots'] = [plot.name for plot in plots]
    (folder / RESULT).write_bytes(orjson.dumps(content, option=_JSON))


@dataclass(frozen=True, slots=True)
class Section:
    """A result as the section of a document.

    Attributes:
        text: Machine, command, tables, and links to the plots.
        plots: Link, relative to the folder of the document, to the file of the plot.
    """

    text: str
    plots: dict[str, Path]


def read_section(name: str, folder: Path, pictures: str) -> Section:
    """Read the result of a tool.

    Args:
        name: Name of the result.
        folder: Folder that the tool wrote.
        pictures: Folder for the plots, next to the document.

    Raises:
        ValueError: The folder has no result.
    """
    try:
        content = orjson.loads((folder / RESULT).read_bytes())
        parts = [_machine(content['machine']), _command(content['command'])]
        if content.get('warning'):
            parts.append(f'Warning at the start: {content["warning"]}.')
        parts += ['A signal ended the rounds early.'] if content.get('cut_off') else []
        parts += [Table(**table).markdown() for table in content['tables']]
        plots = {f'{pictures}/{name}-{plot}': folder / plot for plot in content['plots']}
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'no result of a benchmark in {folder}: {error}') from error
    parts += [f'![{name}, {plot.stem}]({link})' for link, plot in plots.items()]
    return Section('\n\n'.join(parts), plots)


def put(text: str, name: str, section: Section) -> str:
    """Put a result between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` of a document.

    Raises:
        ValueError: The document lacks these markers.
    """
    begin, end = f'<!-- {name} -->', f'<!-- end of {name} -->'
    place = re.compile(rf'({re.escape(begin)})[ \t]*\n.*?({re.escape(end)})', re.DOTALL)
    if not place.search(text):
        raise ValueError(f'expected {begin} and {end} in the document')
    return place.sub(lambda found: f'{found[1]}\n{section.text}\n{found[2]}', text)


def _machine(machine: dict[str, Any]) -> str:
    versions = machine['versions']
    parts = (
        f'{machine["date"]}, {machine["processor"]}, {machine["cores"]} cores',
        *machine['gpus'],
        machine['system'],
        *(f'{name} {versions[name]}' for name in _VERSIONS if name in versions),
    )
    return f'{", ".join(parts)}:'


def _command(words: Sequence[str]) -> str:
    """A code block; long lines are broken before options."""
    lines = ['']
    for word in map(shlex.quote, words):
        if word.startswith('--') and len(lines[-1]) > _WIDTH:
            lines.append('   ')
        lines[-1] = f'{lines[-1]} {word}' if lines[-1] else word
    return '```\n' + ' \\\n'.join(lines) + '\n```'
