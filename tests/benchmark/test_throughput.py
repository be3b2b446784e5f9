"""A measurement from start to end, with processes that are played."""

import json

import pytest
from test_report import measured

from mmpose_batch.benchmark import throughput
from mmpose_batch.benchmark.contenders import Contender, Models
from mmpose_batch.benchmark.machine import describe_machine
from mmpose_batch.benchmark.process import ContenderError
from mmpose_batch.benchmark.rounds import Stopping
from mmpose_batch.benchmark.throughput import best, flags, measure, write_json
from mmpose_batch.benchmark.work import Image

MODELS = Models(pose2d='rtmo-s')
IMAGES = [Image('a.jpg')] * 6
SECONDS = {'stock': 3.0, 'torch fp32': 2.0, 'openvino fp32': 1.0}


def row(system: str, engine: str = 'torch') -> Contender:
    ours = {'engine': engine, 'precision': 'fp32'} if system == 'ours' else {}
    return Contender(system=system, models=MODELS, settings=ours)


@pytest.fixture
def played(monkeypatch):
    """Processes that take the seconds of their name, and what they were asked."""
    log = []

    class Played:
        def __init__(self, contender, images) -> None:
            self.name = contender.name
            if contender.system == 'rtmlib':
                raise ContenderError('rtmlib is not installed')
            self.start = {'load': 1.0, 'first_result': 2.0}

        def ask(self, command, *arguments):
            log.append((self.name, command, *arguments))
            if command == 'run':
                return {'seconds': SECONDS[self.name], 'persons': 7, 'stages': {}}
            return {
                'report': {'peak_memory': {'resident': 1}},
                'latency': 0.5,
                'limits': {},
                'ap': 0.9,
            }[command]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            log.append((self.name, 'closed'))

    monkeypatch.setattr(throughput, 'ContenderProcess', Played)
    return log


def test_rates_and_ratios_are_taken_round_by_round(played):
    rows = [row('stock'), row('ours'), row('ours', 'openvino')]
    found = measure(rows, IMAGES, Stopping(), 'stock')
    assert [m.images_per_second for m in found] == [2.0, 3.0, 6.0]
    assert [m.ratios[0] for m in found] == pytest.approx([1.0, 1.5, 3.0])
    assert all(m.settled for m in found)
    runs = [name for name, command, *_ in played if command == 'run']
    assert runs == list(SECONDS) * 5
    assert [name for name, command, *_ in played if command == 'closed'] == list(SECONDS)[::-1]


def test_memory_is_asked_for_before_what_takes_more_of_it(played):
    measure([row('ours')], IMAGES, Stopping(), None, 'ann.json')
    commands = [command for _, command, *_ in played if command != 'run']
    assert commands == ['report', 'latency', 'limits', 'ap', 'closed']
    assert ('torch fp32', 'ap', 'ann.json') in played


def test_only_our_rows_have_an_ap(played):
    found = measure([row('stock')], IMAGES, Stopping(), 'stock', 'ann.json')
    assert found[0].ap is None


def test_who_cannot_run_has_the_reason_in_its_row(played):
    found = measure([row('rtmlib'), row('ours')], IMAGES, Stopping(), 'rtmlib')
    assert found[0].failure == 'rtmlib is not installed'
    assert found[1].ratios == []  # there is nothing to take them to
    assert found[1].images_per_second == 3.0


def test_when_nobody_runs_there_are_reasons_only(played):
    found = measure([row('rtmlib')], IMAGES, Stopping())
    assert [m.failure for m in found] == ['rtmlib is not installed']


@pytest.mark.parametrize(
    ('limits', 'expected'),
    [
        ({}, 8.0),
        ({'max_latency': 0.2}, 4.0),
        ({'max_memory': 700 * 2**20}, 4.0),
        ({'max_latency': 0.01}, None),
    ],
)
def test_the_fastest_within_the_limits_is_best(limits, expected):
    small, large, stock = measured(rate=4.0), measured(rate=8.0), measured('stock', 9.0)
    small.latency, large.latency, stock.latency = 0.1, 0.3, 0.01
    large.report['peak_memory']['resident'] = 2**30
    failed = measured(rate=99.0)
    failed.failure = 'no'
    chosen = best([stock, small, large, failed], **limits)
    assert (chosen and chosen.images_per_second) == expected


def test_flags_are_those_of_the_tool():
    chosen = measured(rect=True)
    chosen.report |= {
        'engines': {'pose': {'engine': 'openvino', 'precision': 'bf16'}},
        'batch_size': 4,
        'det_batch_size': None,
        'num_workers': 2,
        'num_threads': 1,
    }
    expected = (
        '--engine openvino --precision bf16 --batch-size 4 --num-workers 2 --num-threads 1 --rect'
    )
    assert flags(chosen) == expected


def test_every_sample_is_written(tmp_path):
    write_json(tmp_path / 'b.json', describe_machine(), 'command', [measured(), measured('stock')])
    content = json.loads((tmp_path / 'b.json').read_text())
    assert content['command'] == 'command'
    assert content['machine']['cores'] >= 1
    assert content['machine']['versions']['torch']
    assert [found['name'] for found in content['rows']] == ['torch fp32', 'stock']
    assert len(content['rows'][0]['samples']) == 5
    assert content['rows'][0]['shares']['network'] == pytest.approx(0.45)
