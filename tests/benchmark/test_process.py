"""Contenders in processes of their own: answers, failures, and an end."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
from factories import Models as TinyModels
from factories import write_photos

from mmpose_batch.benchmark import process
from mmpose_batch.benchmark.contenders import Contender, Models
from mmpose_batch.benchmark.process import ContenderError, ContenderProcess, serve
from mmpose_batch.benchmark.work import Image

IMAGES = [Image(f'{index}.jpg') for index in range(20)]
CONTENDER = Contender(system='stock', models=Models(pose2d='rtmo-s'))


class Scripted:
    """A system that remembers how many images it was given."""

    def __init__(self) -> None:
        self.prepared = 0
        self.runs: list[int] = []

    def prepare(self, images):
        assert not self.runs
        time.sleep(0.05)
        self.prepared = len(images)

    def run(self, images):
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
    monkeypatch.setattr(process, '_set_up', lambda contender: lambda contender: system)
    here, there = multiprocessing.Pipe()
    arguments = (CONTENDER, IMAGES, warm_up, time.monotonic(), there)
    thread = threading.Thread(target=serve, args=arguments)
    thread.start()
    yield system, here
    here.close()
    thread.join(timeout=10)
    assert not thread.is_alive()


@pytest.mark.parametrize(('warm_up', 'runs'), [(True, [1, 20]), (False, [1])])
def test_a_contender_is_warmed_up_before_it_counts(served, runs):
    system, connection = served
    good, start = connection.recv()
    assert good
    assert start['load'] >= start['imports'] >= 0
    assert start['first_run'] >= 0.05  # with what is prepared
    assert start['first_result'] == pytest.approx(start['load'] + start['first_run'])
    assert system.prepared == 20
    connection.send(('report',))
    assert connection.recv()[0]
    assert system.runs == runs


def test_commands_are_answered(served):
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
    assert connection.recv()[0]  # and it goes on


@pytest.mark.slow
def test_a_process_runs_a_real_contender_and_ends(models: TinyModels, tmp_path):
    photos = [Image(str(path)) for path in write_photos(tmp_path, 2)]
    contender = Contender(
        system='ours',
        models=Models(
            pose2d=models.file('rtmo.py'), pose2d_weights=models.file('rtmo.pth'), device='cpu'
        ),
        settings={'engine': 'torch', 'precision': 'fp32'},
        num_threads=1,
    )
    with ContenderProcess(contender, photos) as running:
        assert running.start['first_result'] > running.start['load'] > 0
        assert running.ask('run')['persons'] > 0
        assert running.ask('report')['num_threads'] == 1
        os.kill(running._process.pid, signal.SIGKILL)
        running._process.join()
        for _ in range(2):
            with pytest.raises(ContenderError, match='its process ended with status -9'):
                running.ask('run')
    assert not running._process.is_alive()


def test_what_interrupts_a_start_leaves_no_process(monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(ContenderProcess, '_answer', interrupted)
    before = multiprocessing.active_children()
    with pytest.raises(KeyboardInterrupt):
        ContenderProcess(CONTENDER, IMAGES)
    assert multiprocessing.active_children() == before


@pytest.mark.slow
def test_a_contender_that_cannot_be_built_says_why():
    contender = Contender(system='stock', models=Models(pose2d='no-such-model'))
    with pytest.raises(ContenderError, match='no-such-model'):
        ContenderProcess(contender, [Image('a.jpg')])
