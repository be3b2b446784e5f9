"""The command `start`: the second start uses the cache of the first."""

import json
import os
from itertools import chain, repeat
from pathlib import Path

import pytest
from support.contender import serve_on_threads
from support.factories import Models, Outcome, run_tool

from mmpose_batch.cli import start

pytestmark = pytest.mark.usefixtures('one_thread')


def benchmark(*arguments: object) -> Outcome:
    return run_tool(*arguments, tool='benchmark_start')


@pytest.fixture
def started(monkeypatch):
    """Run contenders on threads of this process; the value lists the names of started ones."""
    return serve_on_threads(monkeypatch)


@pytest.mark.slow
def test_the_second_start_uses_the_cache_of_the_first(
    models: Models, two_photos, tmp_path, monkeypatch
):
    # The cache of one process is used by threads of another.
    real = chain([True], repeat(False))
    started = serve_on_threads(monkeypatch, real=lambda contender: next(real))
    kept, measure = [], start.start

    def watched(*arguments: object) -> dict[str, float]:
        seconds = measure(*arguments)
        cache = Path(os.environ['MMPOSE_BATCH_CACHE'])
        kept.append({path: path.stat().st_mtime_ns for path in cache.rglob('*')})
        return seconds

    monkeypatch.setattr(start, 'start', watched)
    arguments = ('--images', 2, '--rounds', 2, '--device', 'cpu', '--out-dir', tmp_path)
    assert start.main(list(map(str, (two_photos, *models.one_stage, *arguments)))) == 0
    assert started == ['openvino fp32'] * 4
    first, second, next_first, next_second = kept
    assert first and first == second
    assert next_first == next_second and not first.keys() & next_first.keys()
    content = json.loads((tmp_path / 'benchmark.json').read_text())
    assert [row[0] for row in content['tables'][0]['rows']] == ['openvino fp32']
    assert len(content['starts']['openvino fp32']) == 2
    for seconds in content['starts']['openvino fp32'][0].values():
        assert 0 < seconds['imports'] < seconds['load'] < seconds['first_result']
    assert 'MMPOSE_BATCH_CACHE' not in os.environ


def test_the_table_has_medians_and_ratios_of_each_round():
    rounds = [(6.0, 4.0), (10.0, 4.0), (10.0, 6.0)]
    samples = [
        {
            'first': {'imports': 2.0, 'first_result': first},
            'second': {'imports': 2.0, 'first_result': second},
        }
        for first, second in rounds
    ]
    table = start.tabulate({'openvino fp32': samples})
    assert table.rows == [['openvino fp32', '2.0', '10.0', '4.0', '0.60', '0.50']]


def test_a_row_that_cannot_start_has_a_reason(models: Models, two_photos, tmp_path, started):
    outcome = benchmark(
        *(two_photos, *models.one_stage, '--images', 1, '--rounds', 1, '--device', 'cpu'),
        *('--engine', 'torch', '--precision', 'fp32', 'fp16', '--out-dir', tmp_path),
    )
    assert outcome.status == 3
    starts, failed = json.loads((tmp_path / 'benchmark.json').read_text())['tables']
    assert [row[0] for row in starts['rows']] == ['torch fp32']
    ((name, why),) = failed['rows']
    assert name == 'torch fp16' and 'fp16' in why
    assert 'torch fp16' in outcome.out
    assert started == ['torch fp32'] * 2  # the other one is rejected before it starts


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'required: INPUT'),
        (['nowhere'], 'nowhere'),
        (['{photos}', '--rounds', '0'], 'expected an integer >= 1'),
        (['{photos}', '--engine', 'fast'], 'engine: expected one of torch'),
        (['nowhere', '--pose2d', 'other.py'], 'no such config file: other.py'),
    ],
)
def test_wrong_arguments(two_photos, started, arguments, message):
    outcome = benchmark(*(argument.format(photos=two_photos) for argument in arguments))
    assert outcome.status == 2
    assert message in outcome.err
    assert started == []
