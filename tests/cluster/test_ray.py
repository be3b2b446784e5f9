"""Runs on a real Ray cluster of this machine: whatever is killed, every image is answered once.

All tests of this module share one cluster, which starts once.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from support.factories import ToolProcess, read_lines, run_tool

from mmpose_batch.scenes import write_scenes

ray = pytest.importorskip('ray')
pytest.importorskip('ray.data')
pytest.importorskip('pyarrow')

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('ray')]

CHUNK = 4
CHUNK_OF_RUNS = 256
REPOSITORY = Path(__file__).resolve().parents[2]
BUCKET = 's3://poses'
MODEL = ('--num-threads', '1', '--num-workers', '1')


@pytest.fixture(scope='module')
def environment(tmp_path_factory) -> Iterator[None]:
    """Environment of the cluster, which its workers inherit."""
    paths = (str(REPOSITORY), str(REPOSITORY / 'tests'), os.environ.get('PYTHONPATH', ''))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            'PYTHONPATH': os.pathsep.join(filter(None, paths)),
            'RAY_USAGE_STATS_ENABLED': '0',
            'AWS_ACCESS_KEY_ID': 'test',
            'AWS_SECRET_ACCESS_KEY': 'test',
            'AWS_DEFAULT_REGION': 'us-east-1',
        }.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope='module')
def s3(environment) -> Iterator[Any]:
    """An S3 server on loopback, and its empty bucket, as a file system."""
    pytest.importorskip('s3fs')
    server = pytest.importorskip('moto.server').ThreadedMotoServer('127.0.0.1', 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('AWS_ENDPOINT_URL', f'http://{host}:{port}')
        import s3fs

        files = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        files.mkdir(BUCKET)
        yield files
    server.stop()


@pytest.fixture(scope='module')
def cluster(s3) -> Iterator[str]:
    """A cluster of this machine; its address."""
    folder = tempfile.mkdtemp(prefix='ray-')  # those of pytest are too long for Ray's sockets
    try:
        context = ray.init(
            address='local',
            _temp_dir=folder,
            num_cpus=2,
            object_store_memory=200 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level='ERROR',
        )
    except Exception as error:  # no shared memory, no free ports, ...
        pytest.skip(f'Ray cannot start a cluster on this machine: {error}')
    yield context.address_info['gcs_address']
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    """22 scenes, a file that kills the process that reads it, and a file that is no image."""
    folder = tmp_path_factory.mktemp('scenes')
    write_scenes(folder, 22, seed=0, num_workers=1, quiet=True)
    (folder / '000009.jpg').rename(folder / 'kills.jpg')
    (folder / 'text.jpg').write_text('no image')
    return folder


@pytest.fixture(scope='module')
def of_infer(scenes, small_chunks, tmp_path_factory) -> Path:
    """The output of one process, which is not killed."""
    out_dir = tmp_path_factory.mktemp('infer') / 'out'
    assert run_tool(scenes, '--out-dir', out_dir, *MODEL).status == 3
    return out_dir


@pytest.fixture
def config(tmp_path) -> Path:
    """The demo model, in workers that one file kills."""
    path = tmp_path / 'killed.py'
    demo = REPOSITORY / 'configs' / 'demo' / 'demo-rtmo'
    imports = {'imports': ['support.killing'], 'allow_failed_imports': False}
    path.write_text(
        f'_base_ = {f"{demo}.py"!r}\n'
        f"inferencer = dict(type='BatchPose2DInferencer', weights={f'{demo}.pth'!r})\n"
        f'custom_imports = {imports!r}\n'
    )
    return path


def main_of_driver(arguments: list[str], log: str, chunk: int) -> None:
    """Run the command in a process of its own, with the environment in its first argument."""
    os.environ.update(json.loads(arguments.pop(0)))
    from mmpose_batch.cli import ray as command
    from mmpose_batch.cluster import run

    run.CHUNK = chunk
    with open(log, 'w') as file, redirect_stdout(file), redirect_stderr(file):
        sys.exit(command.main(arguments))


def start(log: Path, *arguments: object) -> ToolProcess:
    # A server forks it that was started with another environment.
    names = [
        name for name in os.environ if name.startswith(('RAY_', 'AWS_')) or name == 'PYTHONPATH'
    ]
    environment = json.dumps({name: os.environ[name] for name in names})
    return ToolProcess([environment, *arguments], log, checkpoint_every=CHUNK, main=main_of_driver)


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> Any:
    """What a condition returns, as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f'nothing after {seconds} s')


def workers_of(parent: int) -> list[int]:
    """Processes of the cluster of this process that run an actor of ours."""
    table = subprocess.run(
        ['ps', '-eo', 'pid=,ppid=,args='], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in table.splitlines()]
    parents = {int(pid): int(ppid) for pid, ppid, *_ in rows}

    def is_below(pid: int) -> bool:
        while pid > 1 and pid != parent:
            pid = parents.get(pid, 0)
        return pid == parent

    names = ('ray::MapWorker(Map(ChunkActor))',)
    return [
        int(row[0])
        for row in rows
        if row[2:] and row[2].startswith(names) and is_below(int(row[0]))
    ]


def test_every_image_is_answered_once_whatever_is_killed(
    cluster, scenes, config, of_infer, tmp_path
):
    """The driver three times, a random worker, and the workers that read a certain file."""
    out_dir = tmp_path / 'out'
    arguments = (scenes, '--out-dir', out_dir, '--pose2d', config, *MODEL, '--address', cluster)
    records = out_dir / 'records' / '0000'
    # When the inputs are listed, when the inferencer is built, and when some chunks are done.
    marks = (out_dir / 'inputs' / 'index.json', out_dir / 'cluster.json', records / '0000001.jsonl')
    for number, file in enumerate(marks):
        driver = start(tmp_path / f'{number}.log', *arguments, '--workers', 1, 1)
        wait_for(file.exists)
        driver.send(signal.SIGKILL)
        driver.wait()
    assert not (out_dir / 'predictions.jsonl').exists()

    driver = start(tmp_path / 'last.log', *arguments, '--workers', 1, 2, '--merge')
    os.kill(wait_for(lambda: workers_of(os.getpid()))[0], signal.SIGKILL)
    done = driver.wait(300)
    assert done.status == 3, done.err
    assert 'looking for the files that kill them' in done.err
    assert 'failures  2, see failures/' in done.err

    expected = read_lines(of_infer / 'predictions.jsonl')
    found = read_lines(out_dir / 'predictions.jsonl')
    (killed,) = [place for place, record in enumerate(expected) if record['image'] == 'kills.jpg']
    assert found[killed] == {
        'image': 'kills.jpg',
        'error': 'the process that reads it dies: killed by SIGKILL',
    }
    # An unreadable file in the same batches changes no other result of this model.
    assert found[:killed] + found[killed + 1 :] == expected[:killed] + expected[killed + 1 :]
    failures = read_lines(out_dir / 'failures.jsonl')
    assert [failure['image'] for failure in failures] == ['kills.jpg', 'text.jpg']
    assert json.loads((out_dir / 'cluster.json').read_bytes())['status'] == 'finished'

    import pyarrow.dataset

    images = pyarrow.dataset.dataset(out_dir / 'parquet' / 'images').to_table()
    assert json.loads(images.schema.metadata[b'mmpose_batch'])['config'] == 'killed.py'
    assert images['source'].to_pylist() == [record['image'] for record in found]


def test_inputs_and_outputs_in_s3(cluster, s3, scenes, of_infer, tmp_path):
    """One worker is killed."""
    files = [path for path in scenes.iterdir() if path.suffix == '.jpg']
    for path in files:
        s3.pipe_file(f'{BUCKET}/photos/{path.name}', path.read_bytes())
    arguments = (f'{BUCKET}/photos', '--out-dir', f'{BUCKET}/out', *MODEL, '--merge', '--quiet')
    driver = start(tmp_path / 'log', *arguments, '--address', cluster, '--workers', 1, 1)
    wait_for(lambda: s3.exists(f'{BUCKET}/out/records/0000/0000000.jsonl'))
    os.kill(workers_of(os.getpid())[0], signal.SIGKILL)
    done = driver.wait(300)
    assert done.status == 3, done.err
    for name in ('predictions.jsonl', 'failures.jsonl'):
        assert s3.cat_file(f'{BUCKET}/out/{name}') == (of_infer / name).read_bytes()
    tables = s3.ls(f'{BUCKET}/out/parquet/poses', detail=False)
    assert [Path(path).name for path in sorted(tables)] == [
        f'part-{number:07d}.parquet' for number in range(6)
    ]


def test_a_pipeline_of_the_user_with_a_batch_of_any_size(cluster, scenes):
    from mmpose_batch.cluster.actor import PoseActor
    from mmpose_batch.factory import plan_inferencer

    paths = sorted(str(path) for path in scenes.glob('0000*.jpg'))[:6]
    dataset = ray.data.from_items(paths).map_batches(
        PoseActor,
        fn_constructor_args=(plan_inferencer('demo').spec,),
        batch_size=4,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )
    rows = sorted(dataset.take_all(), key=lambda row: row['item'])
    assert [row['item'] for row in rows] == paths
    assert all(row['error'] is None and row['persons'] for row in rows)


def test_the_driver_is_measured_with_workers_that_compute_nothing(cluster):
    from mmpose_batch.benchmarking.ray_driver import measure

    found = measure(CHUNK_OF_RUNS * 20 + 1, workers=1)
    assert found.chunks == 21
    assert f'{found.paths} paths: listed in' in str(found)
    assert 0 < found.before_bytes <= found.peak_bytes


def test_a_merge_that_fails_leaves_no_file_in_s3(s3):
    from mmpose_batch.cluster.files import ClusterFolder

    folder = ClusterFolder(f'{BUCKET}/aborted')
    with pytest.raises(RuntimeError, match='on purpose'), folder.writing('file') as file:
        file.write(b'x')
        raise RuntimeError('on purpose')
    assert folder.read('file') is None
