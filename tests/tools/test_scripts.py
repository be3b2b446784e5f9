"""The scripts of tools/: each runs a command of the package."""

import runpy
import sys
from pathlib import Path

import pytest
from support.factories import TOOLS, load_tool

from mmpose_batch.cli import dispatch

SCRIPTS = sorted(path.stem for path in TOOLS.glob('*.py'))
# Scripts and the commands that they run; the other scripts are for maintenance.
COMMANDS = {
    'batch_infer': 'infer',
    'batch_infer_ray': 'ray',
    'benchmark_latency': 'latency',
    'benchmark_overhead': 'overhead',
    'benchmark_start': 'start',
    'benchmark_throughput': 'throughput',
    'compare_engines': 'compare-engines',
    'contact_sheet': 'contact-sheet',
    'export': 'export',
    'make_scenes': 'scenes',
}


@pytest.mark.parametrize('name', SCRIPTS)
def test_a_script_has_help(name, monkeypatch, capsys):
    path = TOOLS / f'{name}.py'
    monkeypatch.setattr(sys, 'argv', [str(path), '--help'])
    monkeypatch.setattr(sys, 'path', [str(TOOLS), *sys.path])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name='__main__')
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: {name}.py ')
    assert path.stat().st_mode & 0o111


def test_every_command_has_a_script():
    assert set(COMMANDS.values()) == set(dispatch.COMMANDS)
    for script, command in COMMANDS.items():
        module = load_tool(script).__name__
        assert module == f'mmpose_batch.cli.{command.replace("-", "_")}'


def test_scripts_find_the_package_of_their_checkout(monkeypatch):
    """If it is not installed and its folder is not on the path of Python."""
    monkeypatch.setattr(sys, 'path', [str(TOOLS), *sys.path])
    runpy.run_path(str(TOOLS / 'batch_infer.py'))
    assert Path(sys.path[-1]) == TOOLS.parent
