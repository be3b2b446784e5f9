"""The command `throughput`: its output and errors; no test depends on speed."""

import json
import re
import shlex

import pytest
from mmpose_batch.benchmarking import machine, plots, throughput
from support.contender import serve_on_threads
from support.factories import Models, Outcome, run_tool, write_photos

import mmpose_batch.scenes
from mmpose_batch import hardware
from mmpose_batch.cli import throughput as command
from mmpose_batch.engines import optional

pytestmark = pytest.mark.usefixtures('one_thread')


def benchmark(*arguments: object) -> Outcome:
    return run_tool('--device', 'cpu', *arguments, tool='benchmark_throughput')


@pytest.fixture
def played(monkeypatch):
    """Simulated processes; an empty script ends with Ctrl-C."""
    script = []

    class Played:
        def __init__(self, contender, images):
            self.start = {'load': 1.0, 'first_result': 2.0}

        def ask(self, command, *_):
            if command == 'run':
                if not script:
                    raise KeyboardInterrupt
                return {'seconds': script.pop(0), 'persons': 7, 'stages': {}}
            return {'report': {'peak_memory': {'resident': 1}}, 'latency': 0.5, 'limits': {}}[
                command
            ]

        def close(self):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(throughput, 'ContenderProcess', Played)
    return script


@pytest.fixture
def started(monkeypatch):
    """Run contenders on threads of this process; the value lists the names of started ones."""
    return serve_on_threads(monkeypatch)


def read(folder):
    return json.loads((folder / 'benchmark.json').read_text())


def test_the_settings_of_the_measurement_are_written(
    models, two_photos, tmp_path, played, monkeypatch
):
    monkeypatch.setattr(machine, 'noise', lambda: 'the machine is busy')
    played += [1.0] * 6
    outcome = benchmark(
        *(two_photos, *models.one_stage, '--images', '3', '--rounds', '2', '--max-rounds', '3'),
        *('--interval', '0.2', '--time-limit', '90', '--out-dir', tmp_path),
    )
    assert outcome.status == 0, outcome.err
    content = read(tmp_path)
    settings = {'rounds': 2, 'max_rounds': 3, 'interval': 0.2, 'time_limit': 90.0}
    assert content['settings'] == {'images': 3, **settings}
    assert content['warning'] == 'the machine is busy'
    assert not content['cut_off']
    assert 'rates.png' in content['plots']
    assert [len(row['samples']) for row in content['rows']] == [3, 3]


def test_ctrl_c_during_the_rounds_keeps_the_samples(models, two_photos, tmp_path, played):
    arguments = (two_photos, *models.one_stage, '--images', '2', '--out-dir', tmp_path)
    assert benchmark(*arguments).status == 130
    assert not (tmp_path / 'benchmark.json').exists()
    played += [1.0, 0.5, 1.0]
    assert benchmark(*arguments).status == 130
    content = read(tmp_path)
    assert [row['rates'] for row in content['rows']] == [[2.0, 2.0], [4.0]]
    assert [row['ratios'] for row in content['rows']] == [[1.0, 1.0], [2.0]]
    assert content['cut_off']


def test_a_plot_that_fails_loses_no_sample(models, two_photos, tmp_path, played, monkeypatch):
    def full(*_):
        raise OSError('no space left')

    monkeypatch.setattr(plots, 'plot_rates', full)
    played += [1.0] * 2
    rounds = ('--images', '2', '--rounds', '1', '--max-rounds', '1', '--out-dir', tmp_path)
    outcome = benchmark(two_photos, *models.one_stage, *rounds)
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == 'benchmark_throughput: no space left'
    assert len(read(tmp_path)['rows']) == 2


def test_scenes_that_cannot_be_written_are_one_line(models, monkeypatch):
    def full(*_, **__):
        raise OSError('no space left')

    monkeypatch.setattr(mmpose_batch.scenes, 'write_scenes', full)
    outcome = benchmark(*models.one_stage, '--scenes', '1')
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == 'benchmark_throughput: no space left'


ALL = ['torch fp32', 'openvino fp32', 'onnxruntime fp32']


@pytest.mark.parametrize(
    ('arguments', 'native', 'expected'),
    [
        ('', True, ['torch fp32']),
        ('--precision bf16', True, ['torch bf16']),
        ('--engine onnxruntime --precision bf16', True, ['onnxruntime bf16']),
        ('--recommend', False, ALL),
        ('--recommend', True, [*ALL, 'torch bf16', 'openvino bf16']),
        ('--recommend --device cuda:0', True, [*ALL, 'torch fp16']),
        ('--recommend --engine onnxruntime', True, ['onnxruntime fp32']),
        (
            '--recommend --precision bf16 int8',
            True,
            ['torch bf16', 'openvino bf16', 'openvino int8', 'onnxruntime int8'],
        ),
        ('--recommend --engine torch --precision int8', True, ['torch int8']),
    ],
)
def test_recommend_tries_the_precisions_of_the_engines(arguments, native, expected, monkeypatch):
    monkeypatch.setattr(hardware, 'cpu_has_bf16', lambda: native)
    monkeypatch.setattr(optional, 'is_installed', lambda name: True)
    words = ['photos/', '--device', 'cpu', '--batch-size', '2', '--against', *arguments.split()]
    rows = command.build_contenders(command.parse_args(words))
    assert sorted(row.name.removesuffix(', batch 2') for row in rows) == sorted(expected)


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        ('', (5, 25)),
        ('--rounds 30', (30, 30)),
        ('--max-rounds 2', (2, 2)),
        ('--max-rounds 7', (5, 7)),
        ('--rounds 2 --max-rounds 3', (2, 3)),
    ],
)
def test_one_number_of_rounds_is_enough(arguments, expected):
    args = command.parse_args(['photos/', *arguments.split()])
    assert (args.rounds, args.max_rounds) == expected


def test_a_precision_that_no_engine_supports_is_rejected(models, two_photos):
    outcome = benchmark(two_photos, *models.one_stage, '--recommend', '--precision', 'fp16')
    assert outcome.status == 2
    assert 'precision: fp16 is not supported on a CPU' in outcome.err.splitlines()[-1]


@pytest.mark.slow
def test_every_contender_has_a_separate_process(models: Models, two_photos, tmp_path, monkeypatch):
    started = serve_on_threads(monkeypatch, real=lambda contender: contender.system == 'upstream')
    outcome = benchmark(
        *(two_photos, *models.one_stage, '--images', '2', '--rounds', '1', '--max-rounds', '1'),
        *('--out-dir', tmp_path),
    )
    assert outcome.status == 0, outcome.err
    assert started == ['upstream', 'torch fp32']
    upstream, ours = read(tmp_path)['rows']
    assert upstream['samples'][0]['persons'] == ours['samples'][0]['persons'] > 0
    for row in (upstream, ours):
        assert row['rates'][0] == 2 / row['samples'][0]['seconds'] > 0
        assert row['latency'] > 0
        assert row['report']['peak_memory']['resident'] > 2**20
        assert 0 < row['start']['load'] < row['start']['first_result']
    assert (upstream['limits'], ours['limits']['network_only'] > 0) == ({}, True)


def test_every_setting_is_compared_with_upstream(models: Models, two_photos, tmp_path, started):
    arguments = models.top_down[: models.top_down.index('--bbox-thr')]
    outcome = benchmark(
        *(two_photos, *arguments, '--images', '3', '--rounds', '2', '--max-rounds', '2'),
        *('--engine', 'torch', 'openvino', '--batch-size', '2', '--out-dir', tmp_path / 'out'),
    )
    assert outcome.status == 0, outcome.err
    rows = [line for line in outcome.out.splitlines() if ' MiB' in line]
    names = ['upstream', 'torch fp32, batch 2', 'openvino fp32, batch 2']
    assert [row.split('  ')[0] for row in rows] == names
    assert 'has not converged' in outcome.out  # after only two rounds
    content = read(tmp_path / 'out')
    persons = {row['name']: row['samples'][-1]['persons'] for row in content['rows']}
    assert list(persons) == names == started
    assert persons['torch fp32, batch 2'] == persons['openvino fp32, batch 2'] > 0
    assert all(len(row['samples']) == 2 for row in content['rows'])
    assert (tmp_path / 'out' / 'stages.png').exists()


def test_scenes_are_drawn_measured_and_the_best_recommended(models: Models, started):
    outcome = benchmark(
        *models.crops,
        *('--scenes', '2', '--persons', '2', '--rounds', '1', '--max-rounds', '1'),
        *('--against', 'crop-by-crop', '--no-flip-test', '--engine', 'torch', '--batch-size', '1'),
        *('--recommend', '--max-memory', '100'),
    )
    assert outcome.status == 0, outcome.err
    assert 'crop-by-crop' in outcome.out
    best = outcome.out.splitlines()[-2]
    named = shlex.join([*models.crops, '--device', 'cpu'])
    settings = '--engine torch --precision (fp32|bf16) --batch-size 1'  # the faster one
    assert re.match(re.escape(f'fastest: {named} ') + settings, best)
    assert best.endswith('--no-flip-test')


def test_a_row_that_cannot_run_has_a_reason(models: Models, two_photos, started):
    outcome = benchmark(
        *(two_photos, *models.one_stage, '--images', '1', '--rounds', '1', '--max-rounds', '1'),
        *('--against', '--engine', 'torch', '--precision', 'fp32', 'int8'),
    )
    assert outcome.status == 3, outcome.err
    assert 'precision: engine torch supports fp32, fp16, bf16, not int8' in outcome.out
    assert started == ['torch fp32']  # the other one is rejected before it starts


def test_a_bad_image_is_reported_by_name(models, tmp_path, started):
    write_photos(tmp_path, 1)
    (tmp_path / 'text.jpg').write_text('hello\nworld')
    outcome = benchmark(tmp_path, *models.one_stage, '--images', '2', '--against')
    assert outcome.status == 1
    assert 'text.jpg: expected an image, found 11 bytes' in outcome.err.splitlines()[-1]


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--rounds', '0'], '--rounds: expected an integer >= 1, found 0'),
        (['--batch-size', '2', '0'], '--batch-size: expected an integer >= 1, found 0'),
        (['--batch-size', 'big'], '--batch-size: expected an integer >= 1, found big'),
        (['--num-threads', '0'], '--num-threads: expected an integer >= 1, found 0'),
        (['--num-workers', '-1'], '--num-workers: expected an integer >= 0, found -1'),
        (['--images', '0'], '--images: expected an integer >= 1, found 0'),
        (['--precision', 'int3'], "--precision: invalid choice: 'int3'"),
        (['--engine', 'abacus'], 'engine: expected one of torch'),
        (['--interval', '0'], '--interval, --time-limit: expected a number > 0'),
        (['--rounds', '9', '--max-rounds', '8'], '--max-rounds: expected an integer >= --rounds'),
        (['--ann-file', 'none.json'], 'none.json'),
        (['--given-boxes'], 'only valid for top-down models'),
        (['--out-dir', __file__], '--out-dir: cannot write into'),
        (['--cpu-affinity', '99'], 'cpu_affinity: this process may use'),
        (['--persons', '3'], '--persons: only valid with --scenes'),
        (['--scenes', '3'], 'expected either INPUT or --scenes'),
        (['--max-latency', '3'], 'only valid with --recommend'),
        (['--out-dir', '/proc/nowhere'], '--out-dir: cannot write into /proc/nowhere'),
        (['--pose2d', 'no-such-model'], "found 'no-such-model'"),
    ],
)
def test_wrong_arguments_are_one_line(models, two_photos, started, more, message):
    outcome = benchmark(two_photos, *models.one_stage, *more)
    assert outcome.status == 2
    assert message in outcome.err.splitlines()[-1]
    assert started == []


def test_an_empty_folder_is_rejected(models, tmp_path, started):
    outcome = benchmark(tmp_path, *models.one_stage)
    assert outcome.status == 2
    assert f'no images in {tmp_path}' in outcome.err
    assert started == []


def test_models_are_rejected_before_images_are_listed(models):
    outcome = benchmark('nowhere', '--pose2d', 'other.py')
    assert outcome.status == 2
    assert 'other.py' in outcome.err.splitlines()[-1]
