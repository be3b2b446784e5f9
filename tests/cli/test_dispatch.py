"""The command `mmpose-batch`: its commands and exit statuses."""

import re
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import mmpose_batch
from mmpose_batch import cli
from mmpose_batch.cli import dispatch


@pytest.fixture(autouse=True)
def program_name(monkeypatch):
    """Restore the name of the program, which a command changes."""
    monkeypatch.setattr(sys, 'argv', sys.argv)


def test_the_command_is_installed():
    (command,) = entry_points(group='console_scripts', name='mmpose-batch')
    assert command.load() is cli.main


@pytest.mark.parametrize('command', dispatch.COMMANDS)
def test_every_command_has_help(command, capsys):
    assert cli.main([command, '--help']) == 0
    assert capsys.readouterr().out.startswith(f'usage: mmpose-batch {command} ')


@pytest.mark.parametrize('arguments', [[], ['--help'], ['-h']])
def test_help_lists_all_commands(arguments, capsys):
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    for command in (*dispatch.COMMANDS, *dispatch.PLAIN):
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
    assert 'no images or videos in' in capsys.readouterr().err


def test_only_commands_import_commands():
    package = Path(mmpose_batch.__file__).parent
    imports = re.compile(r'import cli\b|\bcli(\.\w+)? import')
    importing = [
        str(path.relative_to(package))
        for path in package.rglob('*.py')
        if path.parent.name != 'cli' and imports.search(path.read_text())
    ]
    assert importing == []


def test_models_are_listed(capsys):
    assert cli.main(['models']) == 0
    out = capsys.readouterr().out
    for name in ('rtmo-s', 'demo', 'human', 'rtmo'):
        assert f'\n  {name} ' in out
    # An option of MMPose's demo, which needs no other arguments.
    assert cli.main(['infer', '--show-alias']) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize('command', dispatch.PLAIN)
def test_commands_without_options_have_help_too(capsys, command):
    assert dispatch.main([command, '--help']) == 0
    assert dispatch.PLAIN[command] in capsys.readouterr().out
