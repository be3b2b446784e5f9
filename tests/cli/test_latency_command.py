"""The command `latency`: its tables, files and errors."""

import json

import pytest
from mmpose_batch.benchmarking import document, plots, process
from mmpose_batch.benchmarking.latency import Pace
from support.contender import serve_on_threads
from support.factories import Models, Outcome, run_tool, write_photos

pytestmark = pytest.mark.usefixtures('one_thread')


def benchmark(*arguments: object) -> Outcome:
    return run_tool('--device', 'cpu', *arguments, tool='benchmark_latency')


@pytest.fixture
def asked(monkeypatch):
    """Simulated processes: the number of images, and the commands that they received."""
    log = []

    class Played:
        def __init__(self, contender, images):
            self.start = {'load': 1.0, 'first_result': 1.5, 'first_run': 0.5}
            log.append(len(images))

        def ask(self, command, *arguments):
            log.append((command, *arguments))
            if command == 'pace':
                return Pace(arguments[0], [0.25, 0.75], waited=1)
            return [0.01] * len(arguments[0]) if command == 'latencies' else {'num_threads': 1}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(process, 'ContenderProcess', Played)
    return log


def test_a_turn_begins_with_uncounted_images(models: Models, tmp_path, asked):
    write_photos(tmp_path, 104)
    more = ('--warm-up', '2', '--count', '150', '--out-dir', tmp_path / 'out')
    outcome = benchmark(tmp_path, *models.one_stage, *more)
    assert outcome.status == 0, outcome.err
    turns = [
        ('latencies', frames, decoded)
        for before, turn in ((range(-3, 0), range(100)), (range(97, 100), range(100, 150)))
        for decoded in (False, True)
        for frames in (before, turn)
    ]
    assert asked == [100, ('latencies', range(2), True), *turns, ('report',)]
    content = json.loads((tmp_path / 'out' / 'benchmark.json').read_text())
    assert {len(seconds) for seconds in content['seconds'].values()} == {150}
    assert content['settings'] == {'images': 100, 'warm_up': 2, 'count': 150, 'rate': None}
    (contender,) = content['contenders'].values()
    assert contender['start']['first_run'] == 0.5
    assert contender['report'] == {'num_threads': 1}
    assert 'pace' not in contender
    assert content['plots'] == ['histogram.png', 'series.png']
    assert ' 500 ' in outcome.out.splitlines()[1]  # the first, in milliseconds


def test_the_pace_at_a_rate_is_written(models: Models, two_photos, tmp_path, asked, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, 'plot_latencies', lambda *arguments: drawn.append(arguments) or [])
    more = ('--count', '2', '--rate', '2', '--out-dir', tmp_path)
    assert benchmark(two_photos, *models.one_stage, *more).status == 0
    assert ('pace', 2.0, 2, True) in asked
    content = json.loads((tmp_path / 'benchmark.json').read_text())
    (contender,) = content['contenders'].values()
    assert contender['pace'] == {'rate': 2.0, 'missed': 1, 'oldest': 0.75, 'waited': 1}
    assert drawn[0][2] == "age of a frame's result, ms"


@pytest.mark.parametrize(
    ('module', 'name'), [(document, 'write_result'), (plots, 'plot_latencies')]
)
def test_a_full_disk_is_one_line(models, two_photos, tmp_path, asked, monkeypatch, module, name):
    def full(*_, **__):
        raise OSError('no space left')

    monkeypatch.setattr(module, name, full)
    outcome = benchmark(two_photos, *models.one_stage, '--count', '1', '--out-dir', tmp_path)
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == 'benchmark_latency: no space left'
    assert (tmp_path / 'benchmark.json').exists() == (
        module is plots
    )  # an error in the plots loses no samples


@pytest.mark.slow
def test_files_and_decoded_images_are_compared_with_upstream(
    models: Models, two_photos, tmp_path, monkeypatch
):
    serve_on_threads(monkeypatch, real=lambda contender: contender.system == 'upstream')
    outcome = benchmark(
        *(
            two_photos,
            *models.one_stage,
            '--against',
            'stock',
            '--warm-up',
            '1',
            '--count',
            '5',
        ),  # the older spelling
        *('--out-dir', tmp_path / 'out'),
    )
    assert outcome.status == 0, outcome.err
    names = ['upstream', 'torch fp32']
    rows = [f'{name}, {kind}' for name in names for kind in ('files', 'decoded')]
    assert [line.split('  ')[0] for line in outcome.out.splitlines()[1:5]] == rows
    content = json.loads((tmp_path / 'out' / 'benchmark.json').read_text())
    assert {name: len(seconds) for name, seconds in content['seconds'].items()} == dict.fromkeys(
        rows, 5
    )
    assert {'mean', 'p99.9', 'std'} < set(content['summaries'][rows[0]])
    assert min(map(min, content['seconds'].values())) > 0
    for contender in content['contenders'].values():
        assert 0 < contender['start']['load'] < contender['start']['first_result']
        assert contender['report']['peak_memory']['resident'] > 2**20
    assert (tmp_path / 'out' / 'histogram.png').exists()


@pytest.fixture
def started(monkeypatch):
    """Run contenders on threads of this process; the value lists the names of started ones."""
    return serve_on_threads(monkeypatch)


def test_frames_arrive_at_a_rate(models: Models, two_photos, started):
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
        (['--count', '0'], '--count: expected an integer >= 1, found 0'),
        (['--warm-up', '-1'], '--warm-up: expected an integer >= 0, found -1'),
        (['--rate', '0'], '--rate: expected a positive number, found 0.0'),
        (['--cpu-affinity', 'all'], 'cpu_affinity: expected cores such as'),
        (['--out-dir', '/proc/nowhere'], '--out-dir: cannot write into /proc/nowhere'),
        (['--pose2d', 'nowhere.py'], 'no such config file: nowhere.py'),
    ],
)
def test_wrong_arguments_are_one_line(models, two_photos, started, more, message):
    outcome = benchmark(two_photos, *models.one_stage, *more)
    assert outcome.status == 2
    assert message in outcome.err.splitlines()[-1]
    assert started == []


def test_models_are_rejected_before_images_are_listed(models):
    outcome = benchmark('nowhere', '--pose2d', 'other.py')
    assert outcome.status == 2
    assert 'other.py' in outcome.err.splitlines()[-1]


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--precision', 'fp16'], 'precision: fp16 is not supported on a CPU'),
        (['--pose2d-weights', 'none.pth'], 'none.pth'),
    ],
)
def test_a_contender_that_cannot_run_is_one_line(models, two_photos, started, more, message):
    outcome = benchmark(two_photos, *models.one_stage, *more)
    assert outcome.status == 1
    assert message in outcome.err.splitlines()[-1]
