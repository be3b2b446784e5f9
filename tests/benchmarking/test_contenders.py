"""Rows: every combination once, each with a unique name."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from mmpose_batch.benchmarking.contenders import (
    Contender,
    Models,
    check_settings,
    references,
    sweep,
)

MODELS = Models(pose2d='rtmo-s')


def test_every_combination_follows_the_systems_to_compare_with():
    axes = {'engine': ['torch', 'openvino'], 'precision': ['fp32'], 'batch_size': [1, 'auto']}
    rows = list(sweep(MODELS, ['upstream', 'rtmlib'], axes, rect=None))
    assert [row.name for row in rows] == [
        'upstream',
        'rtmlib',
        'torch fp32, batch 1',
        'torch fp32, batch auto',
        'openvino fp32, batch 1',
        'openvino fp32, batch auto',
    ]
    assert rows[-1].settings == {
        'engine': 'openvino',
        'precision': 'fp32',
        'batch_size': 'auto',
        'rect': None,
    }


def test_threads_are_varied_for_all_contenders():
    axes = {'engine': ['torch'], 'precision': ['fp32']}
    rows = list(sweep(MODELS, ['upstream'], axes, num_threads=[1, 2]))
    assert [row.name for row in rows] == [
        'upstream, 1 threads',
        'torch fp32, 1 threads',
        'upstream, 2 threads',
        'torch fp32, 2 threads',
    ]


def test_the_reference_of_a_ratio_has_as_many_threads():
    axes = {'engine': ['torch'], 'precision': ['fp32']}
    rows = list(sweep(MODELS, ['upstream', 'rtmlib'], axes, num_threads=[1, 2]))
    found = references(rows, 'upstream')
    assert found['torch fp32, 1 threads'] == found['rtmlib, 1 threads'] == 'upstream, 1 threads'
    assert found['torch fp32, 2 threads'] == 'upstream, 2 threads'
    assert references(rows, None) == {}


def test_names_show_the_differences():
    settings = {'engine': 'torch', 'precision': 'fp32', 'num_workers': 0, 'rect': True}
    row = Contender(system='ours', models=MODELS, settings=settings, num_threads=3)
    assert row.name == 'torch fp32, workers 0, rect, 3 threads'


def write_config(folder: Path, text: str) -> str:
    (folder / 'pose.py').write_text(text)
    return str(folder / 'pose.py')


GPU = "inferencer = dict(engine='openvino', engine_device='GPU')"


@pytest.mark.parametrize(
    ('config', 'settings', 'message'),
    [
        ('', {'engine': 'torch', 'precision': 'fp32'}, None),
        ('', {'engine': 'openvino', 'precision': 'fp16'}, 'fp16 is not supported on a CPU'),
        (GPU, {'engine': 'openvino', 'precision': 'fp16'}, None),
        (GPU, {'engine': 'onnxruntime', 'precision': 'fp16'}, 'onnxruntime supports fp32, int8'),
        ('inferencer = dict(colour=1)', {}, 'inferencer: expected some of'),
        ('1 / 0', {}, 'ZeroDivisionError: division by zero'),
    ],
)
def test_settings_are_checked_with_those_of_the_config(tmp_path, config, settings, message):
    models = Models(pose2d=write_config(tmp_path, config), device='cpu')
    row = Contender(system='ours', models=models, settings=settings)
    rejected = pytest.raises(ValueError, match=message) if message else nullcontext()
    with rejected:
        check_settings(row)


def test_systems_without_settings_are_not_checked():
    check_settings(Contender(system='upstream', models=Models(pose2d='no-such-model')))
