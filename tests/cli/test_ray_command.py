"""The command `ray`: its arguments and errors, without a cluster."""

import sys

import pytest
from support.factories import Outcome, run_tool

from mmpose_batch.cluster.options import RayOptions

pytest.importorskip('ray')
pytest.importorskip('pyarrow')

from mmpose_batch.cluster import driver
from mmpose_batch.errors import RunError
from mmpose_batch.runs.locking import locked

WORKER = 'no worker in this test'


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    def prepare(*_) -> None:
        raise RunError(WORKER)

    monkeypatch.setattr('mmpose_batch.cli.ray_job.connect', lambda options: None)
    monkeypatch.setattr('mmpose_batch.cli.ray_job.check_resources', lambda options: None)
    monkeypatch.setattr('mmpose_batch.cli.ray_job.prepare', prepare)


def run_ray(*arguments: object) -> Outcome:
    return run_tool(*arguments, tool='batch_infer_ray')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--workers', '2'], 'argument --workers: expected 2 arguments'),
        (['--workers', '3', '2'], 'workers: expected MIN MAX, 1 <= MIN <= MAX, found 3 2'),
        (['--workers', '0', '2'], 'workers: expected MIN MAX, 1 <= MIN <= MAX, found 0 2'),
        (['--num-gpus', '1.5'], 'num_gpus: expected an integer, or a fraction below 1, found 1.5'),
        (['--num-gpus', '-1'], 'num_gpus: expected an integer, or a fraction below 1, found -1'),
        (['--num-cpus', '0'], 'num_cpus: expected a number above 0, found 0'),
        (['--timeout-per-chunk', '0'], 'timeout_per_chunk: expected seconds above 0, found 0'),
        (['--limit', '0'], 'argument --limit: expected an integer >= 1, found 0'),
        (['--start', 'x'], 'start: expected'),
        (['--bboxes', 'file'], 'unrecognized arguments: --bboxes file'),
        (['--on-error', 'raise'], 'unrecognized arguments: --on-error raise'),
        (['--batch-size', '0'], 'batch_size: expected'),
        (['--det-weights', 'x.pth'], 'det_weights: only valid for top-down models'),
        (['--cfg-options', 'x'], 'expected KEY=VALUE'),
    ],
)
def test_wrong_arguments_end_with_status_2(arguments, message, two_photos, tmp_path):
    done = run_ray(two_photos, '--out-dir', tmp_path / 'out', *arguments)
    assert done.status == 2
    assert message in done.err.splitlines()[-1]
    assert not (tmp_path / 'out').exists()


def test_options_have_the_defaults_of_the_help():
    options = RayOptions(out_dir='poses')
    assert (options.address, options.workers) == ('auto', (1, 4))
    assert (options.num_gpus, options.num_cpus, options.threads) == (0, 1, 1)
    assert RayOptions(out_dir='poses', num_cpus=4).threads == 4
    assert RayOptions(out_dir='poses', num_cpus=0.5).threads == 1


@pytest.mark.parametrize('missing', ['ray', 'ray.data'])
def test_without_ray_one_line_names_the_extra(missing, two_photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    done = run_ray(two_photos, '--out-dir', tmp_path / 'out')
    assert done.status == 1
    assert done.err.startswith(
        "ray: ray: Ray Data is not installed: pip install 'mmpose-batch[ray]'"
    )
    assert done.err.count('\n') == 1


def test_without_inputs_nothing_is_written(two_photos, tmp_path):
    (tmp_path / 'in').mkdir()
    done = run_ray(tmp_path / 'in', '--out-dir', tmp_path / 'out')
    assert done.status == 1
    assert 'no images or videos in' in done.err
    assert not (tmp_path / 'out').exists()
    done = run_ray(two_photos, '--out-dir', tmp_path / 'out')
    assert WORKER in done.err


def test_missing_inputs_are_wrong_arguments(two_photos, tmp_path):
    for inputs in ([tmp_path / 'none'], [two_photos, tmp_path / 'none'], [f'@{tmp_path}/none']):
        done = run_ray(*inputs, '--out-dir', tmp_path / 'out')
        assert done.status == 2
        assert 'none' in done.err
        assert done.err.count('\n') == 1
        assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name', ['file', 'file/sub'])
def test_an_output_folder_that_is_a_file_is_an_error(name, two_photos, tmp_path):
    (tmp_path / 'file').write_text('')
    done = run_ray(two_photos, '--out-dir', tmp_path / name)
    assert done.status == 1
    path = f'{tmp_path}/file'
    assert done.err == f'ray: cannot write below {tmp_path}/{name}: {path} is not a folder\n'


def test_a_second_start_lists_nothing_and_has_the_same_inputs(two_photos, tmp_path):
    out_dir = tmp_path / 'out'
    listing = out_dir / 'inputs' / 'images-00000.jsonl'
    assert WORKER in run_ray(two_photos, '--out-dir', out_dir).err
    before = listing.stat().st_mtime_ns
    assert WORKER in run_ray(two_photos, '--out-dir', out_dir).err
    assert listing.stat().st_mtime_ns == before
    for other in ([tmp_path], [two_photos, '--limit', 1], [two_photos, '--no-recursive']):
        done = run_ray(*other, '--out-dir', out_dir)
        assert done.status == 1
        assert 'cannot resume: changed since the earlier run: ' in done.err


def test_a_folder_with_a_run_of_infer_is_rejected(two_photos, tmp_path):
    (tmp_path / 'predictions.jsonl').write_text('{}\n')
    done = run_ray(two_photos, '--out-dir', tmp_path)
    assert done.status == 1
    assert 'already contains a run of one machine: name another folder' in done.err


def test_a_second_driver_is_rejected_while_the_first_one_runs(two_photos, tmp_path):
    out_dir = tmp_path / 'out'
    out_dir.mkdir()
    with locked(str(out_dir)):
        done = run_ray(two_photos, '--out-dir', out_dir)
    assert done.status == 1
    assert f'{out_dir} is in use by another run; wait for its end' in done.err
    assert {path.name for path in out_dir.iterdir()} == {'.lock'}
    done = run_ray(two_photos, '--out-dir', out_dir)
    assert WORKER in done.err


@pytest.mark.parametrize(
    ('name', 'error'), [('connect', RunError), ('check_resources', ValueError)]
)
def test_without_a_cluster_nothing_is_written(name, error, two_photos, tmp_path, monkeypatch):
    def fail(options: RayOptions) -> None:
        raise error('on purpose')

    monkeypatch.setattr(f'mmpose_batch.cli.ray_job.{name}', fail)
    done = run_ray(two_photos, '--out-dir', tmp_path / 'out')
    assert (done.status, done.err) == (1 if error is RunError else 2, 'ray: on purpose\n')
    assert not (tmp_path / 'out').exists()


def test_an_address_without_a_cluster_is_an_error(monkeypatch):
    import ray

    def init(**_) -> None:
        raise ConnectionError('\x1b[31mno such cluster\x1b[0m\nTraceback ...')

    monkeypatch.setattr(ray, 'init', init)
    with pytest.raises(RunError, match='cannot connect to auto: no such cluster; --address local'):
        driver.connect(RayOptions(out_dir='poses'))


@pytest.mark.parametrize(
    ('nodes', 'warned'),
    [
        ([], True),
        ([{'CPU': 8}], True),
        ([{'CPU': 1, 'GPU': 1}, {'CPU': 2}], True),
        ([{'CPU': 8}, {'CPU': 2, 'GPU': 1}], False),
    ],
)
def test_a_cluster_without_the_resources_of_a_worker(nodes, warned, monkeypatch):
    import ray

    monkeypatch.setattr(ray, 'nodes', lambda: [{'Alive': True, 'Resources': n} for n in nodes])
    settings = {'out_dir': 'poses', 'num_cpus': 2, 'num_gpus': 1}
    warning = driver.check_resources(RayOptions(**settings))
    assert bool(warning) == warned
    if warned:
        assert 'no node has 2 CPUs and 1 GPUs for a worker; waiting' in warning
        with pytest.raises(ValueError, match='no node has 2 CPUs'):
            driver.check_resources(RayOptions(**settings, address='local'))
