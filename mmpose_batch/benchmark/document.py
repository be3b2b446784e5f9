"""What a benchmark found, as a file, and as a part of a document."""

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from .machine import describe_machine

RESULT = 'benchmark.json'
_JSON = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_WIDTH = 110
# Figures of everything else that is installed say nothing about a speed.
_VERSIONS = ('torch', 'mmpose', 'mmdet', 'mmcv', 'openvino', 'onnxruntime', 'nncf')


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is printed.

    Attributes:
        header: Titles of the columns.
        rows: Cells of the rows, text.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """For a document; the first column to the left, the others to the right."""
        rule = ['---', *['---:'] * (len(self.header) - 1)]
        return '\n'.join(map(markdown_row, (self.header, rule, *self.rows)))


def markdown_row(cells: Sequence[str]) -> str:
    """One line of a table."""
    return f'| {" | ".join(cells)} |'


def write_result(
    folder: Path, tool: str, arguments: Sequence[str], tables: Sequence[Table], **more: Any
) -> None:
    """Write ``benchmark.json``: the machine, the command, what was printed, and more.

    Args:
        folder: Takes the file.
        tool: Name of the tool.
        arguments: Of its command line.
        tables: That it printed.
        more: Whatever else was found, as every sample.
    """
    content = {
        'machine': describe_machine(),
        'command': shlex.join([f'tools/{tool}.py', *arguments]),
        'tables': [asdict(table) for table in tables],
        **more,
    }
    (folder / RESULT).write_bytes(orjson.dumps(content, option=_JSON, default=str))


def document(text: str, name: str, folder: Path, pictures: Path) -> str:
    """Put a result into a document, between ``<!-- NAME -->`` and ``<!-- end of NAME -->``.

    Args:
        text: The document.
        name: Of the result.
        folder: Where a tool wrote it, with its plots.
        pictures: Folder beside the document that takes the plots, as ``NAME-PLOT.png``.

    Returns:
        The document with the machine, the command, the tables and the plots.

    Raises:
        ValueError: The document has no such place, or the folder no result.
    """
    begin, end = f'<!-- {name} -->', f'<!-- end of {name} -->'
    place = re.compile(rf'({re.escape(begin)}\n).*?({re.escape(end)})', re.DOTALL)
    if not place.search(text):
        raise ValueError(f'expected {begin} and {end} in the document')
    try:
        content = orjson.loads((folder / RESULT).read_bytes())
        parts = [_machine(content['machine']), _command(content['command'])]
        parts += [Table(**table).markdown() for table in content['tables']]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'no result of a benchmark in {folder}: {error}') from error
    for plot in sorted(folder.glob('*.png')):
        pictures.mkdir(exist_ok=True)
        copy = shutil.copyfile(plot, pictures / f'{name}-{plot.name}')
        parts.append(f'![{name}, {plot.stem}]({pictures.name}/{copy.name})')
    content = '\n\n'.join(parts)
    return place.sub(lambda found: f'{found[1]}{content}\n{found[2]}', text)


def _machine(machine: dict[str, Any]) -> str:
    versions = [
        f'{name} {machine["versions"][name]}' for name in _VERSIONS if name in machine['versions']
    ]
    parts = (
        f'{machine["date"]}, {machine["processor"]}, {machine["cores"]} cores',
        *machine['gpus'],
        machine['system'],
        *versions,
    )
    return f'{", ".join(parts)}:'


def _command(command: str) -> str:
    """A block of code, its lines broken between options."""
    lines = ['']
    for word in re.split(r' (?=--)', command):
        if lines[-1] and len(lines[-1]) + len(word) > _WIDTH:
            lines.append(f'    {word}')
        else:
            lines[-1] = f'{lines[-1]} {word}'.strip() if len(lines) == 1 else f'{lines[-1]} {word}'
    return '```\n' + ' \\\n'.join(lines) + '\n```'
