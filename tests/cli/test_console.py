"""Helpers of the commands: output to closed streams, and errors in one line."""

import argparse
import copy
import io
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

from mmpose_batch.cli import console, streams
from mmpose_batch.cli.options import number, size
from mmpose_batch.engines.names import AUTO, OWN_ENGINES
from mmpose_batch.engines.registry import choices
from mmpose_batch.errors import RunError
from mmpose_batch.factory import plan_inferencer

# The server that forks processes is that of test_run.
pytestmark = pytest.mark.xdist_group('test_run')


def test_texts_name_the_engines_of_the_package():
    assert choices() == (*OWN_ENGINES, AUTO)


def main_without_reader(arguments: list[str], log: str, checkpoint_every: int) -> None:
    """Run the tool with output and error in pipes whose reader is closed."""
    for descriptor in (1, 2):
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, 'w'), os.fdopen(2, 'w')
    open(log, 'w').close()
    sys.exit(load_tool('batch_infer').main(arguments))


def main_without_output(arguments: list[str], log: str, checkpoint_every: int) -> None:
    """Run the tool as ``pythonw`` does, without output and error."""
    open(log, 'w').close()
    sys.stdout = sys.stderr = None
    sys.exit(load_tool('batch_infer').main(arguments))


@pytest.mark.parametrize('main', [main_without_reader, main_without_output])
def test_a_run_is_complete_if_its_output_is_closed(models: Models, tmp_path, main):
    write_photos(tmp_path / 'in', 3)
    out = tmp_path / 'out'
    (tmp_path / 'in' / 'text.jpg').write_text('no image')
    arguments = [tmp_path / 'in', '--out-dir', out, *models.one_stage]
    outcome = ToolProcess(arguments, tmp_path / 'log', main=main).wait()
    assert outcome.status == 3  # because of the text file among the images, not of the pipe
    assert json.loads((out / 'run.json').read_text())['status'] == 'finished'
    assert len((out / 'predictions.jsonl').read_text().splitlines()) == 4


def test_only_a_closed_stream_is_ignored(tmp_path):
    """A full disk is an error: the printed text may be the only result of a tool."""
    with open(tmp_path / 'out', 'w') as stream:
        output = streams._Output(stream)
        output.write('one')
    output.write('two')
    output.flush()
    assert (tmp_path / 'out').read_text() == 'one'
    full = SimpleNamespace(closed=False, write=unittest.mock.Mock(side_effect=OSError(ENOSPC, '')))
    output = streams._Output(full)
    with pytest.raises(OSError) as raised:
        output.write('line')
    assert raised.value.errno == ENOSPC
    output.write('the next line')  # no second error
    output.flush()


def test_characters_that_the_encoding_lacks_are_escaped(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), 'ascii', errors='strict')
    monkeypatch.setattr(sys, 'stdout', shown)
    streams.ignore_closed_output()
    print('caf\xe9 \udce9', flush=True)
    console.show(['caf\xe9 \udce9', 'two\nlines'])
    lines = shown.buffer.getvalue().decode('ascii').splitlines()
    assert lines == ['caf\\xe9 \\udce9', 'caf\\xe9 ?', 'two?lines']


@pytest.mark.parametrize('text', ['x', '\xb2', '', '1.5', '9' * 5000])
def test_an_invalid_number_is_reported(text):
    kinds = {'an integer >= 1': number(1), 'an integer or auto': size}
    for expected, kind in kinds.items():
        with pytest.raises(argparse.ArgumentTypeError, match=f'^expected {expected}, found'):
            kind(text)
    assert [size('auto'), size('-3'), number(-3)('-3')] == ['auto', -3, -3]


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        ({}, {'num_threads': 2}),
        ({'num_threads': 3}, {'num_threads': 3}),
        ({'cpu_affinity': '0'}, {'cpu_affinity': '0'}),  # the cores decide
    ],
)
def test_the_default_of_command_lines_is_one_thread_per_core(
    monkeypatch, one_stage, settings, expected
):
    monkeypatch.setattr('mmpose_batch.cores.default_threads', lambda: 2)
    plan = plan_inferencer(one_stage.cfg, one_stage.weights, device='cpu', **settings)
    assert console.with_default_threads(plan).settings == {'device': 'cpu', **expected}
    cfg = copy.deepcopy(one_stage.cfg)  # a config decides too
    cfg.inferencer = {'device': 'cpu', **settings}
    plan = plan_inferencer(cfg, one_stage.weights)
    assert console.with_default_threads(plan).settings == {'device': 'cpu', **expected}


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
def test_an_unexpected_exception_is_one_line_with_the_path_of_the_traceback(
    tmp_path, temporary, capsys, results
):
    (tmp_path / 'there').mkdir()
    folder = results and str(tmp_path / results)
    assert console.run_to_end('tool', break_down, folder) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('tool: unexpected KeyError: ')
    log = Path(line.split('(traceback in ')[1].rstrip(')'))
    assert log.parent == (tmp_path / 'there' if results == 'there' else temporary)
    assert 'in break_down' in log.read_text()


@pytest.mark.parametrize('of', ['file', 'folder', 'link'])
def test_a_file_with_the_name_of_the_log_is_not_changed(tmp_path, capsys, of):
    log = tmp_path / 'error.log'
    if of == 'file':
        log.write_text('mine')
    elif of == 'folder':
        log.mkdir()
    else:
        log.symlink_to(tmp_path / 'elsewhere')
    for _ in range(2):
        assert console.run_to_end('tool', break_down, str(tmp_path)) == 1
        assert f'(traceback in {tmp_path}/error-2.log)' in capsys.readouterr().err
    assert (tmp_path / 'error-2.log').read_text().count('in break_down') == 2
    console.remove_logs(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ['error.log']
    assert of != 'file' or log.read_text() == 'mine'


def test_an_exception_is_one_line_if_no_log_can_be_written(monkeypatch, capsys):
    monkeypatch.setattr(tempfile, 'NamedTemporaryFile', unittest.mock.Mock(side_effect=OSError))
    assert console.run_to_end('tool', break_down) == 1
    assert capsys.readouterr().err == "tool: unexpected KeyError: 'first\\nsecond'\n"


def test_a_model_that_cannot_be_built_leaves_its_traceback(temporary, monkeypatch):
    monkeypatch.setattr('mmpose_batch.factory.plan_inferencer', break_down)
    with pytest.raises(RunError, match='the model cannot be built: KeyError: ') as raised:
        console.build_inferencer()
    (log,) = temporary.iterdir()
    assert str(log) in str(raised.value)
