"""The latency tool: what it prints, writes and refuses."""

import json

import pytest
from factories import Models, Outcome, run_tool

pytestmark = pytest.mark.usefixtures('one_thread')


def benchmark(*arguments: object) -> Outcome:
    return run_tool('--device', 'cpu', *arguments, tool='benchmark_latency')


@pytest.mark.slow
def test_files_and_decoded_images_are_measured_beside_stock(models: Models, two_photos, tmp_path):
    outcome = benchmark(
        *(two_photos, *models.one_stage, '--against', 'stock', '--warm-up', '1', '--count', '5'),
        *('--out-dir', tmp_path / 'out'),
    )
    assert outcome.status == 0, outcome.err
    names = ['stock', 'torch fp32, batch 1, workers 0']
    rows = [f'{name}, {kind}' for name in names for kind in ('files', 'decoded')]
    assert [line.split('  ')[0] for line in outcome.out.splitlines()[1:5]] == rows
    content = json.loads((tmp_path / 'out' / 'benchmark.json').read_text())
    assert {name: len(seconds) for name, seconds in content['seconds'].items()} == dict.fromkeys(
        rows, 5
    )
    assert {'mean', 'p99.9', 'std'} < set(content['summaries'][rows[0]])
    assert (tmp_path / 'out' / 'histogram.png').exists()


@pytest.mark.slow
def test_frames_come_at_a_rate(models: Models, two_photos):
    outcome = benchmark(
        two_photos, *models.one_stage, '--warm-up', '0', '--count', '5', '--rate', '1000000'
    )
    assert outcome.status == 0, outcome.err
    header, row = outcome.out.splitlines()
    assert 'missed' in header
    assert '5 of 5' in row


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--count', '0'], '--count: expected a number from 1, found 0'),
        (['--warm-up', '-1'], '--warm-up: expected a number from 0, found -1'),
        (['--rate', '0'], '--rate: expected a positive number, found 0.0'),
        (['--cpu-affinity', 'all'], 'cpu_affinity: expected cores such as'),
        (['--out-dir', '/proc/nowhere'], '--out-dir: cannot write into /proc/nowhere'),
    ],
)
def test_wrong_arguments_are_one_line(models, two_photos, more, message):
    outcome = benchmark(two_photos, *models.one_stage, *more)
    assert outcome.status == 2
    assert message in outcome.err.splitlines()[-1]


@pytest.mark.slow
def test_a_model_that_is_not_there_is_named(two_photos):
    outcome = benchmark(two_photos, '--pose2d', 'no-such-model')
    assert outcome.status == 1
    assert 'no-such-model' in outcome.err.splitlines()[-1]
