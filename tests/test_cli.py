"""The command: what it runs, and what it reports."""

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from mmpose_batch import cli, doctor


@pytest.fixture(autouse=True)
def process(monkeypatch):
    """A tool changes these, as scripts may."""
    monkeypatch.setattr(sys, 'argv', sys.argv)
    monkeypatch.setattr(sys, 'path', [*sys.path])


def test_the_command_is_installed():
    (command,) = entry_points(group='console_scripts', name='mmpose-batch')
    assert command.load() is cli.main


@pytest.mark.parametrize('command', cli.TOOLS)
def test_every_tool_is_a_script_that_explains_itself(command, capsys):
    assert cli.main([command, '--help']) == 0
    out = capsys.readouterr().out
    assert out.startswith(f'usage: mmpose-batch {command} ')
    assert (Path(cli.tool_folder()) / f'{cli.TOOLS[command][0]}.py').is_file()


@pytest.mark.parametrize('arguments', [[], ['--help'], ['-h']])
def test_help_lists_all_commands(arguments, capsys):
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    for command in (*cli.TOOLS, *cli.OWN):
        assert f'\n  {command} ' in out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['infra'], "no command 'infra'"),
        (['doctor', '--colour'], 'doctor takes no arguments'),
        (['infer', '--colour'], 'the following arguments are required: INPUT, --out-dir'),
    ],
)
def test_wrong_arguments_end_with_status_2(arguments, message, capsys):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_exit_status_is_that_of_the_tool(tmp_path, capsys):
    assert cli.main(['infer', str(tmp_path), '--out-dir', str(tmp_path / 'out')]) == 1
    assert 'no images in' in capsys.readouterr().err


def test_the_doctor_finds_this_environment_well(capsys):
    assert cli.main(['doctor']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == 'no problems'
    found = dict(line.split(maxsplit=1) for line in lines if line and 'engine' not in line)
    assert {'python', 'torch', 'mmpose', 'cpu'} <= found.keys()
    assert any(line.split() == ['engine', 'torch', 'fp32,', 'fp16,', 'bf16'] for line in lines)


def test_the_doctor_names_what_is_missing_and_how_to_get_it(capsys, monkeypatch):
    def fail(name: str) -> None:
        raise ImportError(f'No module named {name!r}')

    monkeypatch.setattr(doctor, 'import_module', fail)
    monkeypatch.setattr('mmpose_batch.engines.optional.import_module', fail)
    monkeypatch.setattr(doctor, 'PACKAGES', ('torch', 'nowhere'))
    assert cli.main(['doctor']) == 1
    out = capsys.readouterr().out
    assert 'nowhere                 not installed' in out
    assert "mmcv.ops                cannot be imported: No module named 'mmcv.ops'" in out
    assert "pip install 'mmpose-batch[openvino]'" in out
    assert "not for HEIC and HEIF images: pip install 'mmpose-batch[heif]'" in out
    assert out.splitlines()[-1] == '4 problems'


def test_models_are_listed(capsys):
    assert cli.main(['models']) == 0
    out = capsys.readouterr().out
    for name in ('rtmo-s', 'demo', 'human', 'rtmo'):
        assert f'\n  {name} ' in out
