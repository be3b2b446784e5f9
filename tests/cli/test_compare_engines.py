"""The table of engines: every combination has a row, even if it cannot run."""

import json
from pathlib import Path

import pytest
from support.annotated import written
from support.factories import Models, Outcome, run_tool, write_photos

from mmpose_batch.scenes import write_scenes

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('scenes')
    write_scenes(folder, 3, seed=4, quiet=True)
    return folder


def compare(*arguments: object) -> Outcome:
    return run_tool('--device', 'cpu', *arguments, tool='compare_engines')


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_every_combination_has_a_row(models: Models, scenes):
    arguments = models.top_down[: models.top_down.index('--bbox-thr')]
    outcome = compare(
        *(scenes, *arguments, '--ann-file', scenes / 'annotations.json', '--no-flip-test'),
        *('--engine', 'openvino', 'onnxruntime', '--precision', 'fp32', 'bf16'),
    )
    assert outcome.status == 3, outcome.err  # ONNX Runtime does not support bf16
    rows = [cells(line) for line in outcome.out.splitlines() if line.startswith('|')][2:]
    assert [row[:2] for row in rows[:3]] == [
        ['torch', 'fp32'],
        ['openvino', 'fp32'],
        ['openvino, no flip test', 'fp32'],
    ]
    assert float(rows[0][2]) == 0 and float(rows[1][2]) < 0.05
    assert rows[0][5] == rows[1][5] == f'{float(rows[0][5]):.4f}'
    assert 'onnxruntime supports fp32, int8, not bf16' in rows[-1][2]


def test_inputs_padded_to_the_stride_have_separate_rows(models: Models, tmp_path):
    write_photos(tmp_path, 3)  # the third one scales to the height of two strides
    outcome = compare(tmp_path, *models.one_stage, '--rect', '--engine', 'torch', 'openvino')
    assert outcome.status == 0, outcome.err
    rows = [cells(line) for line in outcome.out.splitlines() if line.startswith('|')][2:]
    assert [row[0] for row in rows] == ['torch', 'torch, rect', 'openvino', 'openvino, rect']
    assert all(float(row[2]) < 0.05 for row in rows)
    # An untrained network finds other persons if the third image has another size.
    assert [row[4] for row in rows] == ['100.0% of 12', '66.7% of 12'] * 2


def test_errors_are_one_line(models: Models, scenes):
    outcome = compare('nowhere', *models.one_stage)
    assert outcome.status == 2
    assert outcome.err == 'compare_engines: inputs: no such file or folder: nowhere\n'


def test_tf32_is_rejected_on_a_cpu(models: Models, scenes):
    outcome = compare(scenes, *models.one_stage, '--no-tf32')
    assert outcome.status == 2
    assert 'tf32: only valid on an NVIDIA GPU, found device cpu' in outcome.err


def test_annotations_are_checked_before_anything_is_built(models: Models, scenes):
    arguments = ['--pose2d', models.file('rtmo.py'), '--pose2d-weights', 'nowhere.pth']
    outcome = compare(scenes, *arguments, '--ann-file', 'nowhere.json')
    assert outcome.status == 2
    assert outcome.err == (
        'compare_engines: nowhere.json: cannot be read: No such file or directory\n'
    )


def test_a_row_without_ap_shows_the_reason(models: Models, scenes, tmp_path):
    content = json.loads((scenes / 'annotations.json').read_text())
    for entry in content['annotations']:
        entry['iscrowd'] = 1
    ann_file = written(tmp_path, content)
    outcome = compare(scenes, *models.one_stage, '--ann-file', ann_file, '--engine', 'torch')
    reason = f'all {len(content["annotations"])} persons with labelled keypoints are crowds'
    assert outcome.status == 0, outcome.err
    assert f'warning: there will be no AP: {reason}' in outcome.err.splitlines()
    (row,) = [cells(line) for line in outcome.out.splitlines() if line.startswith('|')][2:]
    assert row[5] == f'no AP: {reason}'
