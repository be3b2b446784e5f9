"""The command `export`: files with the outputs of PyTorch, and errors."""

import sys
from pathlib import Path

import numpy as np
import pytest
from support.factories import Models, run_tool

onnxruntime = pytest.importorskip('onnxruntime')


def export(*arguments: object) -> object:
    return run_tool(*arguments, tool='export')


def inputs_of(path: Path) -> list:
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return session.get_inputs()[0].shape


@pytest.mark.parametrize(
    ('arguments', 'shape'),
    [
        pytest.param(['rtmpose'], ['batch', 3, 96, 64], id='top-down'),
        pytest.param(['rtmo', '--batch-size', 2], [2, 3, 96, 96], id='one batch size'),
        pytest.param(['rtmdet', '--detector'], ['batch', 3, 96, 96], id='detector'),
        pytest.param(['rtmo', '--input-size', 128, 64], ['batch', 3, 64, 128], id='input size'),
    ],
)
def test_a_file_is_written_and_checked(models: Models, tmp_path, arguments, shape):
    name, *options = arguments
    out = tmp_path / 'model.onnx'
    outcome = export(
        *(models.file(f'{name}.py'), '--weights', models.file(f'{name}.pth'), '--out', out),
        *options,
    )
    assert outcome.status == 0, outcome.err
    assert inputs_of(out) == shape
    assert 'maximum deviation' in outcome.out
    assert [path.name for path in tmp_path.iterdir()] == ['model.onnx']


@pytest.mark.parametrize(
    ('options', 'status', 'text'),
    [
        pytest.param(['--batch-size', 0], 2, 'expected an integer >= 1', id='batch size'),
        pytest.param(['--weights', 'missing.pth'], 1, 'missing.pth', id='weights'),
        pytest.param([], 2, 'pass a file', id='no weights'),
    ],
)
def test_errors_are_one_line(models: Models, tmp_path, options, status, text):
    outcome = export(models.file('rtmpose.py'), '--out', tmp_path / 'a.onnx', *options)
    assert outcome.status == status
    assert outcome.err.count('\n') == 1
    assert text in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_the_error_for_a_detector_names_the_option(models: Models, tmp_path):
    outcome = export(
        *(models.file('rtmdet.py'), '--weights', models.file('rtmdet.pth')),
        *('--out', tmp_path / 'a.onnx'),
    )
    assert outcome.status == 2
    assert outcome.err.count('\n') == 1 and outcome.err.endswith('see --detector\n')


@pytest.mark.parametrize('bad', [1, 3], ids=['one', 'the batch of three'])
def test_a_file_whose_outputs_deviate_is_removed(models: Models, tmp_path, monkeypatch, bad):
    monkeypatch.setattr(
        'mmpose_batch.engines.onnx_export.check_onnx',
        lambda *arguments: np.nan if arguments[-1] == bad else 0.0,
    )
    outcome = export(
        *(models.file('rtmpose.py'), '--weights', models.file('rtmpose.pth')),
        *('--out', tmp_path / 'a.onnx'),
    )
    assert outcome.status == 1
    assert 'outputs of the file deviate' in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_error_names_the_extra(models: Models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    weights = models.file('rtmpose.pth')
    outcome = export(models.file('rtmpose.py'), '--weights', weights, '--out', tmp_path / 'a.onnx')
    assert outcome.status == 1
    assert "pip install 'mmpose-batch[onnxruntime]'" in outcome.err
    assert list(tmp_path.iterdir()) == []
