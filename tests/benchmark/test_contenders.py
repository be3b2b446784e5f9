"""Rows: every combination once, each with a name of its own."""

from mmpose_batch.benchmark.contenders import Contender, Models, references, sweep

MODELS = Models(pose2d='rtmo-s')


def test_every_combination_follows_what_it_is_compared_with():
    axes = {'engine': ['torch', 'openvino'], 'precision': ['fp32'], 'batch_size': [1, 'auto']}
    rows = list(sweep(MODELS, ['stock', 'rtmlib'], axes, rect=None))
    assert [row.name for row in rows] == [
        'stock',
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


def test_threads_are_varied_for_everybody():
    axes = {'engine': ['torch'], 'precision': ['fp32']}
    rows = list(sweep(MODELS, ['stock'], axes, num_threads=[1, 2]))
    assert [row.name for row in rows] == [
        'stock, 1 threads',
        'torch fp32, 1 threads',
        'stock, 2 threads',
        'torch fp32, 2 threads',
    ]


def test_ratios_are_taken_to_a_row_of_as_many_threads():
    axes = {'engine': ['torch'], 'precision': ['fp32']}
    rows = list(sweep(MODELS, ['stock', 'rtmlib'], axes, num_threads=[1, 2]))
    found = references(rows, 'stock')
    assert found['torch fp32, 1 threads'] == found['rtmlib, 1 threads'] == 'stock, 1 threads'
    assert found['torch fp32, 2 threads'] == 'stock, 2 threads'
    assert references(rows, None) == {}


def test_what_differs_is_in_the_name():
    settings = {'engine': 'torch', 'precision': 'fp32', 'num_workers': 0, 'rect': True}
    row = Contender(system='ours', models=MODELS, settings=settings, num_threads=3)
    assert row.name == 'torch fp32, workers 0, rect, 3 threads'
