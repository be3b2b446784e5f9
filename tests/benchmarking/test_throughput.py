"""A measurement from start to end, with simulated processes."""

import shlex
from dataclasses import replace

import pytest
from mmpose_batch.benchmarking import throughput
from mmpose_batch.benchmarking.contenders import Contender, Models
from mmpose_batch.benchmarking.process import ContenderError
from mmpose_batch.benchmarking.rounds import Stopping
from mmpose_batch.benchmarking.throughput import best, flags, measure
from mmpose_batch.benchmarking.work import Image
from support.factories import load_tool
from test_report import measured

MODELS = Models(pose2d='rtmo-s')
IMAGES = [Image('a.jpg')] * 6
SECONDS = {'upstream': 3.0, 'torch fp32': 2.0, 'openvino fp32': 1.0}


def row(system: str, engine: str = 'torch') -> Contender:
    ours = {'engine': engine, 'precision': 'fp32'} if system == 'ours' else {}
    return Contender(system=system, models=MODELS, settings=ours)


@pytest.fixture
def played(monkeypatch):
    """Simulated processes with the seconds of their name, and the commands that they received."""
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

        def close(self):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            log.append((self.name, 'closed'))

    monkeypatch.setattr(throughput, 'ContenderProcess', Played)
    return log


def test_rates_and_ratios_are_computed_round_by_round(played):
    rows = [row('upstream'), row('ours'), row('ours', 'openvino')]
    found = measure(rows, IMAGES, Stopping(), 'upstream')
    assert [m.images_per_second for m in found] == [2.0, 3.0, 6.0]
    assert [m.ratios[0] for m in found] == pytest.approx([1.0, 1.5, 3.0])
    assert all(m.settled for m in found)
    runs = [name for name, command, *_ in played if command == 'run']
    assert runs == list(SECONDS) * 5
    assert [name for name, command, *_ in played if command == 'closed'] == list(SECONDS)[::-1]


def test_memory_is_read_before_it_increases(played):
    measure([row('ours')], IMAGES, Stopping(), None, 'ann.json')
    commands = [command for _, command, *_ in played if command != 'run']
    assert commands == ['report', 'latency', 'limits', 'ap', 'closed']
    assert ('torch fp32', 'ap', 'ann.json') in played


def test_only_our_rows_have_an_ap(played):
    found = measure([row('upstream')], IMAGES, Stopping(), 'upstream', 'ann.json')
    assert found[0].ap is None


def test_the_row_of_a_contender_that_cannot_run_has_the_reason(played):
    found = measure([row('rtmlib'), row('ours')], IMAGES, Stopping(), 'rtmlib')
    assert found[0].failure == 'rtmlib is not installed'
    assert found[1].ratios == []  # there is no reference
    assert found[1].images_per_second == 3.0


def test_a_contender_that_fails_in_a_round_has_the_reason_and_the_others_stay(played, monkeypatch):
    asked = throughput.ContenderProcess.ask

    def ask(self, command, *arguments):
        if (self.name, command) in (('upstream', 'run'), ('torch fp32', 'limits')):
            raise ContenderError('it broke')
        return asked(self, command, *arguments)

    monkeypatch.setattr(throughput.ContenderProcess, 'ask', ask)
    lines = []
    found = measure(
        [row('upstream'), row('ours')], IMAGES, Stopping(), 'upstream', report=lines.append
    )
    assert found[0].failure == 'it broke'
    assert found[1].failure is None
    assert found[1].images_per_second == 3.0
    assert (found[1].limits, found[1].latency) == ({}, 0.5)
    assert 'torch fp32: no limits: it broke' in lines


@pytest.mark.parametrize('signal', [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(
    ('at', 'rates', 'in_rounds'),
    [
        (('torch fp32', 'run', 0), {'upstream': 1}, True),
        (('upstream', 'run', 2), {'upstream': 2, 'torch fp32': 2}, True),
        (('torch fp32', 'limits', 0), {'upstream': 5, 'torch fp32': 5}, False),
    ],
)
def test_samples_before_a_signal_are_kept(played, monkeypatch, signal, at, rates, in_rounds):
    asked = throughput.ContenderProcess.ask

    def ask(self, command, *arguments):
        if (self.name, command, played.count((self.name, command))) == at:
            raise signal
        return asked(self, command, *arguments)

    monkeypatch.setattr(throughput.ContenderProcess, 'ask', ask)
    kept, cut_off = [], []

    def keep(rows, ended_rounds):
        kept.extend(rows)
        cut_off.append(ended_rounds)

    rows = [row('upstream'), row('ours'), row('rtmlib')]
    with pytest.raises(signal):
        measure(rows, IMAGES, Stopping(), 'upstream', keep=keep)
    assert {m.contender.name: len(m.rates) for m in kept} == {**rates, 'rtmlib': 0}
    assert kept[-1].failure == 'rtmlib is not installed'
    assert all(len(m.rates) == len(m.samples) for m in kept)
    assert all(len(m.ratios) == min(rates.values()) for m in kept[:-1])
    assert cut_off == [in_rounds]


def test_if_no_contender_runs_there_are_only_reasons(played):
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
    small, large, upstream = measured(rate=4.0), measured(rate=8.0), measured('upstream', 9.0)
    small.latency, large.latency, upstream.latency = 0.1, 0.3, 0.01
    large.report['peak_memory']['resident'] = 2**30
    failed = measured(rate=99.0)
    failed.failure = 'no'
    silent = measured(rate=50.0)
    silent.report = {}  # its process ended after the rounds
    rows = [upstream, small, large, failed, silent]
    if 'max_memory' in limits:
        rows.append(unknown := measured(rate=60.0))
        unknown.report['peak_memory']['resident'] = None
    chosen = best(rows, **limits)
    assert (chosen and chosen.images_per_second) == expected


def batch_infer(chosen):
    """Arguments of the tool for a row."""
    words = ['in', '--out-dir', 'out', *shlex.split(flags(chosen))]
    return load_tool('batch_infer').parse_args(words)


def test_flags_include_the_models():
    named = {
        'pose2d': "it's a config.py",
        'pose2d_weights': 'pose.pth',
        'det_model': 'detector.py',
        'det_weights': 'a b.pth',
        'det_cat_ids': [0, 2],
        'device': 'cpu',
    }
    engine = {'engine': 'torch', 'precision': 'fp32'}
    report = dict.fromkeys(('batch_size', 'det_batch_size', 'num_workers', 'num_threads'), 1)
    chosen = measured()
    chosen.contender = replace(chosen.contender, models=Models(**named))
    chosen.report |= {'engines': {'pose': engine}, **report}
    args = vars(batch_infer(chosen))
    assert {name: args[name] for name in named} == named
    chosen.contender = replace(chosen.contender, models=MODELS)
    assert batch_infer(chosen).device is None


def test_flags_are_options_of_the_tool():
    chosen = measured(rect=True)
    chosen.report |= {
        'engines': {'pose': {'engine': 'openvino', 'precision': 'bf16'}},
        'batch_size': 4,
        'det_batch_size': 16,  # selected, not requested
        'num_workers': 2,
        'num_threads': 1,
    }
    args = batch_infer(chosen)
    assert (args.engine, args.precision, args.batch_size) == ('openvino', 'bf16', 4)
    assert (args.num_workers, args.num_threads, args.rect) == (2, 1, True)
    assert (args.det_batch_size, args.flip_test, args.cpu_affinity) == (None, None, None)
    chosen.contender.settings['batch_size'] = 'auto'  # 1 would select an engine for latency
    assert '--batch-size auto' in flags(chosen)
