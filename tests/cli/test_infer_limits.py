"""Limits of images and of failures."""

import json
from pathlib import Path

import pytest
from support.command import NAMES
from support.factories import (
    files_below,
    read_lines,
    run_tool,
    write_photos,
)

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    """Files of which only the first is an image."""
    folder = tmp_path / 'failing'
    for path in write_photos(folder, 6)[1:]:
        path.write_bytes(b'no image')
    return folder


def test_a_run_that_fails_too_often_ends_early_and_can_be_resumed(failing, models, tmp_path):
    out_dir = tmp_path / 'out'
    arguments = [failing, '--out-dir', out_dir, *models.one_stage]
    outcome = run_tool(*arguments, '--max-errors', '2')
    assert outcome.status == 4
    line = outcome.err.splitlines()[-1]
    assert line.startswith(
        'batch_infer: ended after 4 of 6 images, since 3 failed and --max-errors is 2; see '
        'failures.jsonl, and resume with --resume and a larger --max-errors, or none'
    )
    assert '; the last: 000000000003.jpg: expected an image' in line
    assert len(read_lines(out_dir / 'predictions.jsonl')) == 4
    assert len(read_lines(out_dir / 'failures.jsonl')) == 3
    assert json.loads((out_dir / 'run.json').read_text())['status'] == 'stopped'
    before = files_below(out_dir)
    for more in ([], ['--dry-run']):
        again = run_tool(*arguments, '--resume', '--max-errors', '2', *more)
        assert again.status == 4  # immediately, since the failures are stored
        assert 'ended after 4 of 6 images, since 3 failed' in again.err.splitlines()[-1]
        assert files_below(out_dir) == before
    assert run_tool(*arguments, '--resume', '--max-errors', '5').status == 3
    assert len(read_lines(out_dir / 'failures.jsonl')) == 5
    whole = run_tool(*arguments[:2], tmp_path / 'whole', *models.one_stage)
    assert whole.status == 3
    assert files_below(out_dir) == files_below(tmp_path / 'whole')


def test_the_allowed_number_of_failures_does_not_end_the_run(failing, models, tmp_path):
    out_dir = tmp_path / 'out'
    limit = ['--max-errors', '5']
    assert run_tool(failing, '--out-dir', out_dir, *models.one_stage, *limit).status == 3


def test_a_limit_exceeded_by_the_last_image_keeps_the_complete_run(failing, models, tmp_path):
    arguments = [failing, '--out-dir', tmp_path / 'out', *models.one_stage, '--format', 'coco']
    for more in ([], ['--resume']):
        outcome = run_tool(*arguments, '--max-errors', '4', *more)
        assert outcome.status == 4
        assert outcome.err.splitlines()[-1] == (
            'batch_infer: all 6 images done, of which 5 failed and --max-errors is 4; '
            'see failures.jsonl'
        )
        assert 'failures  5, see failures.jsonl' in outcome.out.splitlines()
        assert (tmp_path / 'out' / 'predictions.coco.json').exists()
        assert json.loads((tmp_path / 'out' / 'run.json').read_text())['status'] == 'finished'


def test_a_limit_takes_the_first_images(photos, models, tmp_path):
    arguments = [photos, '--out-dir', tmp_path, *models.one_stage]
    outcome = run_tool(*arguments, '--limit', '2')
    assert [record['image'] for record in read_lines(tmp_path / 'predictions.jsonl')] == NAMES[:2]
    assert 'limit: the first 2 of 5 inputs' in outcome.err
    outcome = run_tool(*arguments, '--limit', '5', '--overwrite')
    assert len(read_lines(tmp_path / 'predictions.jsonl')) == 5
    assert 'limit' not in outcome.err
