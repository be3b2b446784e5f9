"""What a person costs outside the network: every stage has its row, both ways."""

import json

import pytest
from factories import Models, Outcome, run_tool

pytestmark = pytest.mark.usefixtures('one_thread')


def benchmark(*arguments: object) -> Outcome:
    return run_tool(*arguments, tool='benchmark_overhead')


def test_every_stage_has_its_row(models: Models, tmp_path):
    outcome = benchmark(*models.crops, '--persons', '3', '--rounds', '5', '--out-dir', tmp_path)
    assert outcome.status == 0, outcome.err
    (table,) = json.loads((tmp_path / 'benchmark.json').read_text())['tables']
    assert [row[0] for row in table['rows']] == [
        'crops and their samples',
        'a batch of them, normalised',
        'keypoints from what the network says',
        "an image's result, as a line of JSON",
        'all',
    ]
    for column in (1, 2):
        *stages, total = (float(row[column]) for row in table['rows'])
        assert min(stages) > 0
        assert sum(stages) == pytest.approx(total, abs=0.005)


def test_what_is_wrong_is_one_line(models: Models):
    outcome = benchmark(*models.one_stage)
    assert outcome.status == 2
    assert 'only those prepare persons' in outcome.err.splitlines()[-1]
    outcome = benchmark('--pose2d', 'no-such-model')
    assert outcome.status == 2
    assert 'no-such-model' in outcome.err.splitlines()[-1]
