"""The tool that times a start: the second one finds what the first one kept."""

import json
from pathlib import Path

import pytest
from factories import Models, Outcome, run_tool, write_photos

pytestmark = pytest.mark.usefixtures('one_thread')


def benchmark(*arguments: object) -> Outcome:
    return run_tool(*arguments, tool='benchmark_start')


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / 'photos', 2)
    return tmp_path / 'photos'


@pytest.mark.slow
def test_the_second_start_finds_what_the_first_one_kept(models: Models, photos, tmp_path):
    outcome = benchmark(
        *(photos, *models.one_stage, '--engine', 'torch', 'openvino', '--precision', 'fp32'),
        *('--images', 2, '--rounds', 1, '--out-dir', tmp_path / 'out'),
    )
    assert outcome.status == 0, outcome.err
    content = json.loads((tmp_path / 'out' / 'benchmark.json').read_text())
    (table,) = content['tables']
    assert [row[0] for row in table['rows']] == ['torch fp32', 'openvino fp32']
    (starts,) = content['starts']['openvino fp32']
    for start in starts.values():
        assert 0 < start['imports'] < start['load'] < start['first_result']
    assert starts['second']['first_run'] < starts['first']['first_run']  # it exports nothing
    assert float(table['rows'][1][4]) < 1


@pytest.mark.slow
def test_what_cannot_start_has_its_reason(models: Models, photos, tmp_path):
    arguments = (photos, *models.one_stage, '--images', 1, '--rounds', 1)
    outcome = benchmark(
        *(*arguments, '--engine', 'torch', 'onnxruntime', '--precision', 'bf16', 'fp16'),
        *('--device', 'cpu', '--out-dir', tmp_path / 'out'),
    )
    assert outcome.status in (1, 3)
    assert 'onnxruntime fp16' in outcome.err
    if outcome.status == 3:
        content = json.loads((tmp_path / 'out' / 'benchmark.json').read_text())
        assert content['tables'][1]['header'] == ['failed', 'why']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'INPUT'),
        (['nowhere'], 'nowhere'),
        (['{photos}', '--rounds', '0'], 'from 1'),
        (['{photos}', '--engine', 'fast'], 'invalid choice'),
    ],
)
def test_wrong_arguments(photos, arguments, message):
    outcome = benchmark(*(argument.format(photos=photos) for argument in arguments))
    assert outcome.status == 2
    assert message in outcome.err
