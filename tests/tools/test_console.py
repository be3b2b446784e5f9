"""What the tools share is what the package says; and who reads their lines does not matter."""

import json
import os
import sys
import tempfile
import unittest.mock
from errno import ENOSPC
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.factories import Models, ToolProcess, load_tool, write_photos

import mmpose_batch
from mmpose_batch.engines.registry import PRECISIONS, choices
from mmpose_batch.errors import RunError

# The server that forks processes is that of test_run.
pytestmark = pytest.mark.xdist_group('test_run')


def test_the_tools_offer_what_the_package_has():
    console = load_tool('console')
    assert choices() == console.ENGINES
    assert console.PRECISIONS == PRECISIONS


def main_without_reader(arguments: list[str], log: str, checkpoint_every: int) -> None:
    """The tool with output and error in pipes that were closed at the other end."""
    for number in (1, 2):
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, number)
    sys.stdout, sys.stderr = os.fdopen(1, 'w'), os.fdopen(2, 'w')
    open(log, 'w').close()
    sys.exit(load_tool('batch_infer').main(arguments))


def main_without_output(arguments: list[str], log: str, checkpoint_every: int) -> None:
    """The tool as ``pythonw`` runs it."""
    open(log, 'w').close()
    sys.stdout = sys.stderr = None
    sys.exit(load_tool('batch_infer').main(arguments))


@pytest.mark.parametrize('main', [main_without_reader, main_without_output])
def test_a_run_is_complete_though_nothing_reads_its_output(models: Models, tmp_path, main):
    write_photos(tmp_path / 'in', 3)
    out = tmp_path / 'out'
    (tmp_path / 'in' / 'text.jpg').write_text('no image')
    arguments = [tmp_path / 'in', '--out-dir', out, *models.one_stage]
    outcome = ToolProcess(arguments, tmp_path / 'log', main=main).wait()
    assert outcome.status == 3  # of the text, and not of the pipe
    assert json.loads((out / 'run.json').read_text())['status'] == 'finished'
    assert len((out / 'predictions.jsonl').read_text().splitlines()) == 4


def test_only_a_closed_stream_is_ignored(tmp_path):
    """A full disk is not: what a tool prints may be all that it makes."""
    console = load_tool('console')
    with open(tmp_path / 'out', 'w') as stream:
        output = console._Output(stream)
        output.write('one')
    output.write('two')
    output.flush()
    assert (tmp_path / 'out').read_text() == 'one'
    full = SimpleNamespace(closed=False, write=unittest.mock.Mock(side_effect=OSError(ENOSPC, '')))
    with pytest.raises(OSError) as raised:
        console._Output(full).write('line')
    assert raised.value.errno == ENOSPC


# ------------------------------------------------------------------- unexpected exceptions


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / 'temporary'
    folder.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    return folder


def break_down() -> int:
    raise KeyError('first\nsecond')


@pytest.mark.parametrize('results', ['there', 'missing', None])
def test_an_unexpected_exception_is_one_line_that_names_its_traceback(
    tmp_path, temporary, capsys, results
):
    (tmp_path / 'there').mkdir()
    folder = results and str(tmp_path / results)
    assert load_tool('console').run_to_end('tool', break_down, folder) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('tool: unexpected KeyError: ')
    log = Path(line.split('(traceback in ')[1].rstrip(')'))
    assert log.parent == (tmp_path / 'there' if results == 'there' else temporary)
    assert 'in break_down' in log.read_text()


def test_an_exception_is_a_line_though_no_file_can_be_written(monkeypatch, capsys):
    monkeypatch.setattr(tempfile, 'NamedTemporaryFile', unittest.mock.Mock(side_effect=OSError))
    assert load_tool('console').run_to_end('tool', break_down) == 1
    assert capsys.readouterr().err == "tool: unexpected KeyError: 'first\\nsecond'\n"


def test_a_model_that_cannot_be_built_leaves_its_traceback(temporary, monkeypatch):
    monkeypatch.setattr(mmpose_batch, 'build_inferencer', break_down)
    with pytest.raises(RunError, match='cannot be built as asked for: KeyError: ') as raised:
        load_tool('console').build_inferencer()
    (log,) = temporary.iterdir()
    assert str(log) in str(raised.value)
