"""The output of `infer`, and its end after an unexpected error."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from support.factories import (
    TOOLS,
    load_tool,
    read_lines,
    run_tool,
    write_photos,
)

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')


def test_a_log_gets_plain_lines(photos, models, tmp_path, monkeypatch):
    monkeypatch.setattr('mmpose_batch.progress.LOG_INTERVAL', 0.0)
    outcome = run_tool(photos, '--out-dir', tmp_path, *models.one_stage)
    first, *lines = outcome.err.splitlines()
    expected = f'5 images, {models.one_stage[1]} on cpu; threads: 1 for the networks, '
    assert re.fullmatch(re.escape(expected) + r'\d for reading and preprocessing', first)
    assert len(lines) == 5
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(rf'{number}/5 images, \d+\.\d images/s, 0:\d\d left', line)


def test_quiet_prints_nothing(photos, models, tmp_path, monkeypatch):
    monkeypatch.setattr('mmpose_batch.progress.LOG_INTERVAL', 0.0)
    outcome = run_tool(photos, '--out-dir', tmp_path, *models.one_stage, '--quiet')
    assert (outcome.status, outcome.out, outcome.err) == (0, '', '')


def process(*arguments: object, python: Sequence[str] = ()) -> subprocess.CompletedProcess:
    """Run the command in a new process, which imports everything."""
    command = [sys.executable, *python, TOOLS / 'batch_infer.py', *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_a_quiet_process_prints_nothing_and_returns_its_status(models, tmp_path):
    write_photos(tmp_path / 'in', 2)
    (tmp_path / 'in' / 'zero.jpg').touch()
    # The run with the most output: a detector, drawings, a failure.
    ended = process(
        *(tmp_path / 'in', '--out-dir', tmp_path / 'out', *models.top_down),
        *('--save-vis', '--quiet'),
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, '', '')


FAST = {
    'help': (['--help'], 0, 'Exit status: 0 all inputs succeeded, 1 could not run, 2 wrong'),
    'a wrong option': (
        ['x', '--out-dir', 'y', '--colour', 'red'],
        2,
        'error: unrecognized arguments: --colour red',
    ),
}


@pytest.mark.parametrize(('arguments', 'status', 'text'), FAST.values(), ids=FAST)
def test_help_and_wrong_options_import_nothing_slow(arguments, status, text):
    shown = process(*arguments, python=['-X', 'importtime'])
    lines = shown.stderr.splitlines()
    imports = [line.split('|')[-1].strip() for line in lines if line.startswith('import time:')]
    assert 'argparse' in imports
    slow = {'cv2', 'mmcv', 'mmdet', 'mmengine', 'mmpose', 'numpy', 'torch', 'torchvision'}
    assert not slow & {name.split('.')[0] for name in imports}
    shown_errors = '\n'.join(line for line in lines if not line.startswith('import time:'))
    assert shown.returncode == status
    assert text in (shown_errors if status else shown.stdout)
    assert status or shown_errors == ''


def test_a_full_disk_behind_standard_output_is_one_line(photos, models, tmp_path, monkeypatch):
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.one_stage]
    for more in (['--dry-run'], []):
        with open('/dev/full', 'w') as full:
            monkeypatch.setattr(sys, 'stdout', full)
            errors = io.StringIO()
            monkeypatch.setattr(sys, 'stderr', errors)
            tool = load_tool('batch_infer')
            assert tool.main([str(argument) for argument in (*arguments, *more)]) == 1
        line = 'batch_infer: standard output cannot be written: No space left on device'
        assert errors.getvalue().splitlines()[-1] == line
    assert json.loads((tmp_path / 'out' / 'run.json').read_text())['status'] == 'finished'
    assert not (tmp_path / 'out' / 'error.log').exists()


def test_an_unexpected_error_is_a_line_and_a_log(photos, models, tmp_path, monkeypatch):
    def broken(*_: Any) -> None:
        raise LookupError('what\nis this')

    monkeypatch.setattr('mmpose_batch.writers.coco.write_coco', broken)
    arguments = [photos, '--out-dir', tmp_path, *models.one_stage, '--format', 'coco']
    outcome = run_tool(*arguments)
    log = tmp_path / 'error.log'
    line = f'batch_infer: unexpected LookupError: what (traceback in {log})'
    assert (outcome.status, outcome.err.splitlines()[-1]) == (1, line)
    assert 'in broken' in log.read_text()
    assert len(read_lines(tmp_path / 'predictions.jsonl')) == 5
    assert json.loads((tmp_path / 'run.json').read_text())['status'] == 'stopped'
    monkeypatch.undo()
    assert run_tool(*arguments, '--resume').status == 0
    assert not log.exists()  # it is not needed any more


def test_a_third_party_log_is_not_changed(photos, models, tmp_path, monkeypatch):
    def broken(*_: Any) -> None:
        raise LookupError('what')

    monkeypatch.setattr('mmpose_batch.writers.coco.write_coco', broken)
    (tmp_path / 'error.log').write_text('mine')
    arguments = [photos, '--out-dir', tmp_path, *models.one_stage, '--format', 'coco']
    for more in ([], ['--resume']):  # the second is appended
        outcome = run_tool(*arguments, *more)
        assert f'(traceback in {tmp_path}/error-2.log)' in outcome.err
    assert (tmp_path / 'error-2.log').read_text().count('in broken') == 2
    monkeypatch.undo()
    assert run_tool(*arguments, '--resume').status == 0
    assert (tmp_path / 'error.log').read_text() == 'mine'
    assert not (tmp_path / 'error-2.log').exists()
