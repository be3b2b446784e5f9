"""The driver of a run on a cluster, with jobs that run in this process instead of on Ray."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip('fsspec')
pytest.importorskip('pyarrow')

from mmpose_batch.cluster import driver
from mmpose_batch.cluster import run as run_on_cluster
from mmpose_batch.cluster.actor import Work
from mmpose_batch.cluster.driver import Driver
from mmpose_batch.cluster.files import ClusterFolder
from mmpose_batch.cluster.inputs import Inputs, write_inputs
from mmpose_batch.cluster.options import RayOptions
from mmpose_batch.cluster.outputs import read_info, records_name
from mmpose_batch.cluster.prepare import Prepared
from mmpose_batch.errors import RunError
from mmpose_batch.writers.parquet_tables import ModelInfo

CHUNK = 2
ANSWER = {'results': CHUNK, 'persons': 3, 'failures': 0, 'error': '', 'is_fatal': False}


class Jobs:
    """Stands in for :func:`mmpose_batch.cluster.driver.job`.

    Args:
        deaths: Number of the chunk that kills actors to the number of passes in which it does.
        errors: Number of a chunk to the error that it always has.
        fatal: Whether the errors concern all chunks.
    """

    def __init__(self, deaths=None, errors=None, fatal=False):
        self.deaths, self.errors, self.fatal = dict(deaths or {}), dict(errors or {}), fatal
        self.rows, self.isolated = [], []

    def __call__(self, rows, actor, work, options):
        self.rows.append([row['number'] for row in rows])
        self.isolated.append(work.isolated)
        for row in rows:
            number = row['number']
            if self.deaths.get(number, 0):
                self.deaths[number] -= 1
            elif number in self.errors:
                yield {**ANSWER, 'error': self.errors[number], 'is_fatal': self.fatal}
            else:
                work.folder.write(records_name(number), b'{}\n' * CHUNK)
                yield ANSWER


@pytest.fixture
def folder(tmp_path) -> ClusterFolder:
    return ClusterFolder(str(tmp_path / 'out'))


@pytest.fixture
def inputs(folder) -> Inputs:
    return write_inputs(folder, [f'/data/{number}.jpg' for number in range(10 * CHUNK)], CHUNK)


@pytest.fixture
def run_driver(folder, inputs, monkeypatch, capsys):
    def run(jobs: Jobs):
        monkeypatch.setattr(driver, 'job', jobs)
        work = Work(folder=folder, inputs=inputs, setup=None)
        return Driver(work, RayOptions(out_dir=folder.url))()

    return run


def test_without_deaths_there_is_one_pass(run_driver, capsys):
    jobs = Jobs()
    progress = run_driver(jobs)
    assert jobs.rows == [list(range(10))]
    assert (progress.passes, progress.rows, progress.counts.results) == (1, 10, 20)
    assert capsys.readouterr().err == ''


def test_a_second_start_computes_missing_chunks_only(run_driver, folder):
    for number in (0, 3):
        folder.write(records_name(number), b'{}\n')
    jobs = Jobs()
    run_driver(jobs)
    assert jobs.rows == [[1, 2, 4, 5, 6, 7, 8, 9]]
    assert run_driver(later := Jobs()).passes == 0
    assert later.rows == []


def test_chunks_that_lose_their_workers_are_isolated(run_driver, capsys):
    jobs = Jobs(deaths={2: 1, 7: 2})
    progress = run_driver(jobs)
    assert jobs.rows == [list(range(10)), [2, 7], [7]]
    assert jobs.isolated == [False, True, True]
    assert progress.counts.results == 20
    assert 'looking for the files that kill them' in capsys.readouterr().err


def test_chunks_that_always_lose_their_workers_end_the_run(run_driver):
    jobs = Jobs(deaths={number: 9 for number in range(1, 8)})
    message = (
        r'7 chunks are not computed \(0000001, 0000002, 0000003, 0000004, 0000005, \.\.\.\), since '
        'their workers died; start again'
    )
    with pytest.raises(RunError, match=message):
        run_driver(jobs)
    assert len(jobs.rows) == 3


def test_a_few_errors_are_repeated_and_then_named(run_driver):
    jobs = Jobs(errors={4: 'no space', 5: 'no space'})
    with pytest.raises(RunError, match=r'2 chunks are not computed .* since no space; start again'):
        run_driver(jobs)
    assert jobs.rows == [list(range(10)), [4, 5], [4, 5]]


def test_many_errors_end_the_run(run_driver):
    jobs = Jobs(errors={number: 'no space' for number in range(10)})
    with pytest.raises(RunError, match='4 chunks cannot be computed; the last: no space'):
        run_driver(jobs)
    assert len(jobs.rows) == 1


def test_an_error_of_all_chunks_ends_the_run(run_driver):
    with pytest.raises(RunError, match=r'^other records$'):
        run_driver(Jobs(errors={0: 'other records'}, fatal=True))


def test_many_chunks_are_several_jobs(run_driver, monkeypatch):
    monkeypatch.setattr(driver, 'JOB', 4)
    jobs = Jobs(deaths={5: 1})
    run_driver(jobs)
    assert jobs.rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [5]]


@pytest.fixture
def prepared() -> Prepared:
    identity = {'model': 'a', 'threads': 1}
    model = ModelInfo(keypoints=('nose',))
    return Prepared(setup=b'', identity=identity, selected={}, model=model, notes=[])


@pytest.fixture
def start(folder, inputs, prepared, monkeypatch):
    """Starts the run, with changed values of what is prepared."""

    class Ray:
        put = staticmethod(lambda setup: setup)

    monkeypatch.setattr(run_on_cluster, 'import_ray', Ray)
    monkeypatch.setattr(driver, 'job', Jobs())
    options = RayOptions(out_dir=folder.url, merge=True)

    def run(**changes):
        return run_on_cluster.run(replace(prepared, **changes), inputs, options)

    return run


def test_a_run_leaves_merged_files_and_a_summary(start, folder):
    summary = start()
    assert list(summary.lines())[:3] == [
        'images    20',
        'results   20 by the workers of this start, 30 persons',
        'failures  0',
    ]
    assert Path(folder.path('predictions.jsonl')).read_bytes() == b'{}\n' * 20
    info = read_info(folder)
    assert (info['status'], info['counts']['images']) == ('finished', 20)
    assert info['driver_peak_resident_bytes'] > 0


def test_a_run_of_another_model_is_rejected(start, prepared):
    start()
    assert start().progress.rows == 0
    with pytest.raises(RunError, match=r'changed since the earlier run: model, threads \('):
        start(identity={'model': 'b', 'threads': 2})
