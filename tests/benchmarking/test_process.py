"""Contenders in separate processes: results, failures, and the end."""

import multiprocessing
import os
import signal
import threading

import pytest
import torch
from mmpose_batch.benchmarking import limits, process
from mmpose_batch.benchmarking.contenders import Contender, Models
from mmpose_batch.benchmarking.process import ContenderError, ContenderProcess, serve
from mmpose_batch.benchmarking.work import Image
from support.contender import serve_on_threads
from support.factories import Models as TinyModels

IMAGES = [Image(f'{index}.jpg') for index in range(20)]
CONTENDER = Contender(system='upstream', models=Models(pose2d='rtmo-s'))
# Seconds of each step of the scripted system, on a simulated clock.
IMPORTS, LOADING, PREPARING, RUNNING = 8.0, 4.0, 2.0, 1.0


class Scripted:
    """A system that records the number of images of each run."""

    def __init__(self) -> None:
        self.now = 100.0
        self.prepared = 0
        self.runs: list[int] = []

    def set_up(self, contender):
        self.now += IMPORTS
        return self.build

    def build(self, contender):
        self.now += LOADING
        return self

    def prepare(self, images):
        assert not self.runs
        self.now += PREPARING
        self.prepared = len(images)

    def run(self, images):
        self.now += RUNNING
        self.runs.append(len(images))
        return {'seconds': float(len(self.runs)), 'persons': 0, 'stages': {}}

    def limits(self, images):
        return {'network_only': len(images)}

    def ap(self, images, ann_file):
        raise OSError(f'{ann_file}:\nno such file')

    def report(self):
        return {'num_threads': 1}


@pytest.fixture
def warm_up():
    return True


@pytest.fixture
def served(monkeypatch, warm_up):
    """A scripted system behind a connection, on a thread."""
    system = Scripted()
    monkeypatch.setattr(process, '_set_up', system.set_up)
    here, there = multiprocessing.Pipe()
    arguments = (CONTENDER, IMAGES, warm_up, 97.0, there, lambda: system.now)
    thread = threading.Thread(target=serve, args=arguments)
    thread.start()
    yield system, here
    here.close()
    thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.parametrize(('warm_up', 'runs'), [(True, [1, 20]), (False, [1])])
def test_a_contender_is_warmed_up_before_it_counts(served, runs):
    system, connection = served
    imports = 3.0 + IMPORTS  # the start of the process is before this clock starts
    first_run = PREPARING + RUNNING
    assert connection.recv() == (
        True,
        {
            'imports': imports,
            'load': imports + LOADING,
            'first_result': imports + LOADING + first_run,
            'first_run': first_run,
        },
    )
    assert system.prepared == 20
    connection.send(('report',))
    assert connection.recv()[0]
    assert system.runs == runs


def test_commands_return_results(served):
    system, connection = served
    connection.recv()
    for command, expected in (
        ('run', {'seconds': 3.0, 'persons': 0, 'stages': {}}),
        ('limits', {'network_only': 20}),
        ('latency', 18.5),  # median of the 14th to the 23rd run, after one for each size
    ):
        connection.send((command,))
        assert connection.recv() == (True, expected)
    assert system.runs == [1, 20, 20, *[1] * 20]
    connection.send(('report',))
    good, report = connection.recv()
    assert good
    assert report['num_threads'] == 1
    assert report['peak_memory']['resident'] > 2**20


def test_a_failure_is_one_line(served):
    _, connection = served
    connection.recv()
    connection.send(('ap', 'ann.json'))
    assert connection.recv() == (False, 'ann.json: no such file')
    connection.send(('limits',))
    assert connection.recv()[0]  # the process continues


def tiny(models: TinyModels, **settings) -> Contender:
    return Contender(
        system='ours',
        models=Models(
            pose2d=models.file('rtmo.py'), pose2d_weights=models.file('rtmo.pth'), device='cpu'
        ),
        settings={'engine': 'torch', 'precision': 'fp32', **settings},
        num_threads=1,
    )


@pytest.mark.slow
def test_a_process_runs_a_real_contender_and_ends(models: TinyModels, two_photos):
    photos = [Image(str(path)) for path in sorted(two_photos.iterdir())]
    with ContenderProcess(tiny(models), photos) as running:
        start = running.start
        assert 0 < start['imports'] < start['load'] < start['first_result']
        sample = running.ask('run')
        assert sample['persons'] > 0
        assert sample['seconds'] > sample['stages']['network'] > 0
        assert running.ask('latency') > 0
        report = running.ask('report')
        assert report['num_threads'] == 1
        assert report['peak_memory']['resident'] > 2**20
        os.kill(running._process.pid, signal.SIGKILL)
        running._process.join()
        for _ in range(2):
            with pytest.raises(ContenderError, match='its process ended with status -9'):
                running.ask('run')
    assert not running._process.is_alive()


def test_an_interrupted_start_leaves_no_process(monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(ContenderProcess, '_receive', interrupted)
    before = multiprocessing.active_children()
    with pytest.raises(KeyboardInterrupt):
        ContenderProcess(CONTENDER, IMAGES)
    assert multiprocessing.active_children() == before


def test_a_contender_that_cannot_be_built_reports_the_reason(monkeypatch):
    started = serve_on_threads(monkeypatch)
    contender = Contender(system='upstream', models=Models(pose2d='nowhere.py'))
    with pytest.raises(ContenderError, match=r'nowhere\.py'):
        ContenderProcess(contender, [Image('a.jpg')])
    assert started == ['upstream']


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'precision': 'fp16'}, 'precision: fp16 is not supported on a CPU'),
        ({'precision': 'int8'}, 'precision: engine torch supports fp32, fp16, bf16, not int8'),
        ({'num_workers': -1}, 'num_workers: expected an integer >= 0'),
    ],
)
def test_no_process_starts_for_invalid_settings(monkeypatch, models, settings, message):
    started = serve_on_threads(monkeypatch)
    with pytest.raises(ContenderError, match=message):
        ContenderProcess(tiny(models, **settings), IMAGES)
    assert started == []


def test_a_process_that_uses_no_gpu_opens_no_context(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for name in ('max_memory_reserved', 'synchronize'):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: pytest.fail(name))
    assert process.peak_memory().keys() == {'resident'}
    limits._wait_for_device()
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'max_memory_reserved', lambda: 5)
    assert process.peak_memory()['gpu'] == 5
