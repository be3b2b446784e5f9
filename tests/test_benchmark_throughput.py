"""The throughput tool: what it prints and what it refuses; no test asks how fast anything is."""

import json

import pytest
from factories import Models, Outcome, run_tool, write_photos

pytestmark = pytest.mark.usefixtures('one_thread')


def benchmark(*arguments: object) -> Outcome:
    return run_tool('--device', 'cpu', *arguments, tool='benchmark_throughput')


@pytest.mark.slow
def test_every_setting_is_compared_with_stock(models: Models, two_photos, tmp_path):
    arguments = models.top_down[: models.top_down.index('--bbox-thr')]
    outcome = benchmark(
        *(two_photos, *arguments, '--images', '3', '--rounds', '2', '--max-rounds', '2'),
        *('--engine', 'torch', 'openvino', '--batch-size', '2', '--out-dir', tmp_path / 'out'),
    )
    assert outcome.status == 0, outcome.err
    rows = [line for line in outcome.out.splitlines() if ' MiB' in line]
    names = ['stock', 'torch fp32, batch 2', 'openvino fp32, batch 2']
    assert [row.split('  ')[0] for row in rows] == names
    assert 'this median has not settled' in outcome.out  # two rounds cannot tell
    content = json.loads((tmp_path / 'out' / 'benchmark.json').read_text())
    persons = {row['name']: row['samples'][-1]['persons'] for row in content['rows']}
    assert list(persons) == names
    assert persons['torch fp32, batch 2'] == persons['openvino fp32, batch 2'] > 0
    assert all(len(row['samples']) == 2 for row in content['rows'])
    assert (tmp_path / 'out' / 'stages.png').exists()


@pytest.mark.slow
def test_scenes_are_drawn_measured_and_the_best_recommended(models: Models):
    outcome = benchmark(
        *models.crops,
        *('--scenes', '2', '--persons', '2', '--rounds', '1', '--max-rounds', '1'),
        *('--against', 'crop-by-crop', '--no-flip-test', '--engine', 'torch', '--batch-size', '1'),
        *('--recommend', '--max-memory', '100'),
    )
    assert outcome.status == 0, outcome.err
    assert 'crop-by-crop' in outcome.out
    best = outcome.out.splitlines()[-2]
    assert best.startswith('best here: --engine torch --precision fp32 --batch-size 1')
    assert best.endswith('--no-flip-test')


@pytest.mark.slow
def test_a_row_that_cannot_run_has_its_reason(models: Models, two_photos):
    outcome = benchmark(
        *(two_photos, *models.one_stage, '--images', '1', '--rounds', '1', '--max-rounds', '1'),
        *('--against', '--engine', 'torch', '--precision', 'fp32', 'int8'),
    )
    assert outcome.status == 3, outcome.err
    assert 'precision: engine torch does fp32, fp16, bf16, not int8' in outcome.out


@pytest.mark.slow
def test_a_bad_image_is_named(models, tmp_path):
    write_photos(tmp_path, 1)
    (tmp_path / 'text.jpg').write_text('hello\nworld')
    outcome = benchmark(tmp_path, *models.one_stage, '--images', '2', '--against')
    assert outcome.status == 1
    assert 'text.jpg: expected an image, found 11 bytes' in outcome.err.splitlines()[-1]


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--rounds', '0'], '--rounds: expected a number from 1, found 0'),
        (['--batch-size', '2', '0'], '--batch-size: expected a number from 1, found 0'),
        (['--batch-size', 'big'], '--batch-size: expected a number from 1, found big'),
        (['--num-threads', '0'], '--num-threads: expected a number from 1, found 0'),
        (['--num-workers', '-1'], '--num-workers: expected a number from 0, found -1'),
        (['--images', '0'], '--images: expected a number from 1, found 0'),
        (['--precision', 'int3'], '--precision: expected some of fp32'),
        (['--engine', 'abacus'], '--engine: expected some of torch'),
        (['--interval', '0'], '--interval, --time-limit: expected positive numbers'),
        (['--rounds', '9', '--max-rounds', '8'], '--max-rounds: expected a number from --rounds'),
        (['--ann-file', 'none.json'], 'none.json'),
        (['--given-boxes'], 'only top-down models take boxes'),
        (['--out-dir', __file__], '--out-dir: cannot write into'),
        (['--cpu-affinity', '99'], 'cpu_affinity: this process may use'),
        (['--persons', '3'], '--persons: of use with --scenes only'),
        (['--scenes', '3'], 'expected either INPUT or --scenes'),
        (['--max-latency', '3'], 'of use with --recommend only'),
        (['--out-dir', '/proc/nowhere'], '--out-dir: cannot write into /proc/nowhere'),
    ],
)
def test_wrong_arguments_are_one_line(models, two_photos, more, message):
    outcome = benchmark(two_photos, *models.one_stage, *more)
    assert outcome.status == 2
    assert message in outcome.err.splitlines()[-1]


def test_an_empty_folder_is_refused(models, tmp_path):
    outcome = benchmark(tmp_path, *models.one_stage)
    assert outcome.status == 2
    assert f'no images in {tmp_path}' in outcome.err
