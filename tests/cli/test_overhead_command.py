"""The command `overhead`: every stage has a row with both systems."""

import json
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch
from mmpose.models import PoseDataPreprocessor
from mmpose_batch.benchmarking import document, overhead
from mmpose_batch.benchmarking.overhead import Ways
from support.factories import Models, Outcome, run_tool

from mmpose_batch import BatchPose2DInferencer

pytestmark = pytest.mark.usefixtures('one_thread')


def benchmark(*arguments: object) -> Outcome:
    return run_tool(*arguments, tool='benchmark_overhead')


@pytest.fixture(autouse=True)
def ticks(monkeypatch):
    """A clock that advances by one second per reading, and samples of few persons."""
    monkeypatch.setattr(overhead, 'perf_counter', partial(next, count()))
    monkeypatch.setattr(overhead, '_PERSONS_PER_SAMPLE', 6)


def test_every_stage_has_its_row(models: Models, tmp_path):
    outcome = benchmark(*models.crops, '--persons', '4', '--rounds', '5', '--out-dir', tmp_path)
    assert outcome.status == 0, outcome.err
    content = json.loads((tmp_path / 'benchmark.json').read_text())
    assert content['command'][1:3] == list(models.crops[:2])
    (table,) = content['tables']
    assert [row[0] for row in table['rows']] == [
        'cropping, data samples',
        'stacking, normalising',
        'decoding the outputs of the network',
        'result as a JSON line',
        'all',
    ]
    # One second of the simulated clock, for two repeats of 4 persons.
    assert [row[1:] for row in table['rows']] == [
        *[['125.000', '125.000', '1.00 (1.00 to 1.00)']] * 4,
        ['500.000', '500.000', '1.00'],
    ]


@pytest.mark.parametrize('persons', [1, 3])
def test_both_systems_give_equal_results(models: Models, monkeypatch, persons):
    inferencer = BatchPose2DInferencer(
        models.file('rtmpose.py'), models.file('rtmpose.pth'), det_model='whole_image', device='cpu'
    )
    with torch.no_grad():
        ways = Ways(inferencer, persons)
        for ours, theirs in zip(ways.prepare_here(), ways.prepare_upstream(), strict=True):
            assert torch.equal(ours['inputs'], theirs['inputs'])
        ours, theirs = (
            torch.cat([batch['inputs'] for batch in batches])
            for batches in (ways.normalise_here(), ways.normalise_upstream())
        )
        assert torch.equal(ours, theirs)
        called, forward = [], PoseDataPreprocessor.forward
        monkeypatch.setattr(
            PoseDataPreprocessor, 'forward', lambda *args: called.append(True) or forward(*args)
        )
        ways.normalise_here()
        assert called == []
        ways.normalise_upstream()
        assert called == [True]
        for ours, theirs in zip(ways.decode_here(), ways.decode_upstream(), strict=True):
            one, other = ours.pred_instances, theirs.pred_instances
            np.testing.assert_array_equal(one.keypoints, other.keypoints)
            np.testing.assert_array_equal(one.keypoint_scores, other.keypoint_scores)
        assert len(json.loads(ways.result_here())['instances']) == persons
        assert len(json.loads(ways.result_upstream())) == persons


def test_errors_are_one_line(models: Models):
    outcome = benchmark(*models.one_stage)
    assert outcome.status == 2
    assert 'other models have no crops' in outcome.err.splitlines()[-1]
    outcome = benchmark('--pose2d', 'nowhere.py')
    assert outcome.status == 2
    assert 'nowhere.py' in outcome.err.splitlines()[-1]


def test_a_full_disk_is_one_line(models: Models, tmp_path, monkeypatch):
    def full(*_):
        raise OSError('no space left')

    monkeypatch.setattr(document, 'write_result', full)
    outcome = benchmark(*models.crops, '--persons', '1', '--rounds', '5', '--out-dir', tmp_path)
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == 'benchmark_overhead: no space left'
