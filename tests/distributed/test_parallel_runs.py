"""Runs in several processes: their files are those of one process, whatever dies."""

import signal
import tempfile
import time
from pathlib import Path

import pytest
from support.factories import (
    Models,
    ToolProcess,
    files_below,
    main_of_process,
    read_lines,
    run_tool,
    write_photos,
)
from support.videos import painted, write_video

pytestmark = [pytest.mark.usefixtures('one_thread'), pytest.mark.slow]

CHUNK = 4
FORMATS = ('--format', 'json', 'coco', '--save-vis', '--track')
# Seconds for a chunk: enough for four small images on a busy machine.
TIMEOUT = 8
PROCESSES = (
    *('--devices', 'cpu', 'cpu', '--num-workers', '1'),
    *('--timeout-per-chunk', str(TIMEOUT)),
)


@pytest.fixture(scope='module')
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and videos, of which some end the process that reads them (support/crashing.py)."""
    folder = tmp_path_factory.mktemp('inputs')
    photos = write_photos(folder, 10)
    for photo, name in zip(photos[2::2], ('crash', 'once', 'hang', 'last'), strict=True):
        photo.rename(photo.with_name(f'{name}.jpg'))
    (folder / 'text.jpg').write_text('no image')
    (folder / 'sub').mkdir()
    write_video(folder / 'a.mp4', painted(11))
    write_video(folder / 'crash.mp4', painted(9))
    write_video(folder / 'sub' / 'b.mp4', painted(8))
    (folder / 'none.mp4').write_bytes(b'no video')
    return folder


@pytest.fixture(scope='module')
def arguments(inputs: Path, models: Models) -> list[str]:
    config = models.folder / 'crashing.py'
    imports = {'imports': ['support.crashing'], 'allow_failed_imports': False}
    text = Path(models.file('rtmo.py')).read_text()
    config.write_text(f'{text}custom_imports = {imports!r}\n')
    weights = ['--pose2d-weights', models.file('rtmo.pth')]
    return [str(inputs), '--pose2d', str(config), *weights, *FORMATS, '--num-threads', '1']


@pytest.fixture(scope='module')
def in_one_process(
    arguments: list[str], one_thread: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of one process, in which the files that crash cannot be decoded."""
    out_dir = tmp_path_factory.mktemp('one') / 'out'
    assert run_tool(*arguments, '--out-dir', out_dir).status == 3
    return out_dir


def files_of(out_dir: Path) -> dict[str, bytes]:
    """All files, without those that name errors; in the last one, errors are painted."""
    other = ('run.json', 'predictions.jsonl', 'failures.jsonl', 'vis/crash.mp4')
    return {name: data for name, data in files_below(out_dir).items() if name not in other}


def without_errors(out_dir: Path) -> list[dict]:
    """The records, without the texts of errors."""
    return [
        {key: value for key, value in record.items() if key != 'error'}
        for record in read_lines(out_dir / 'predictions.jsonl')
    ]


def test_the_files_of_two_processes_are_those_of_one_whatever_dies(
    arguments, inputs, in_one_process, tmp_path
):
    out_dir = tmp_path / 'out'
    ended = run_tool(*arguments, '--out-dir', out_dir, *PROCESSES)
    assert ended.status == 3, ended.err
    assert (inputs / 'once.killed').exists()
    assert files_of(out_dir) == files_of(in_one_process)
    assert without_errors(out_dir) == without_errors(in_one_process)
    failures = {
        record.get('image') or (record['video'], record.get('frame')): record['error']
        for record in read_lines(out_dir / 'failures.jsonl')
    }
    dies = 'the process that reads it dies: '
    assert failures['crash.jpg'] == f'{dies}killed by SIGKILL'
    assert failures['hang.jpg'] == f'{dies}it took longer than {TIMEOUT} s'
    assert failures['crash.mp4', 5] == f'{dies}killed by SIGKILL'
    assert set(failures) == {
        *('crash.jpg', 'hang.jpg', 'text.jpg'),
        *(('crash.mp4', 5), ('none.mp4', None)),
    }
    # crash.jpg and hang.jpg with their chunk and alone, once.jpg, the video three times.
    assert 'workers   2 processes; 8 died and were replaced' in ended.out
    assert not (out_dir / '.chunks').exists()


def children(pid: int) -> set[int]:
    """Processes that another one has started, and those that they have started."""
    found: set[int] = set()
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            parent = int(stat.read_text().rpartition(')')[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(stat.parent.name)
            found |= {child} | children(child)
    return found


def is_running(pid: int) -> bool:
    """Whether a process exists that is not only waiting for its parent to note that it ended."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def main_with_temporary_folder(arguments: list[str], log: str, checkpoint_every: int) -> None:
    """Run the tool with its temporary files beside its log."""
    tempfile.tempdir = str(Path(log).with_name('temporary'))
    main_of_process(arguments, log, checkpoint_every)


def test_a_run_whose_process_is_killed_is_resumed_and_leaves_nothing(models, tmp_path):
    inputs, one, out_dir = tmp_path / 'in', tmp_path / 'one', tmp_path / 'out'
    inputs.mkdir()
    write_photos(inputs, 10)
    write_video(inputs / 'a.mp4', painted(11))
    arguments = [str(inputs), *models.one_stage, *FORMATS, '--num-threads', '1']
    assert run_tool(*arguments, '--out-dir', one).status == 0
    (tmp_path / 'temporary').mkdir()
    started = ToolProcess(
        [*arguments, '--out-dir', out_dir, *PROCESSES],
        tmp_path / 'log',
        CHUNK,
        main=main_with_temporary_folder,
    )
    chunks = out_dir / '.chunks'
    deadline = time.monotonic() + 120
    while not list(chunks.glob('*/*.jsonl')):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = children(started.pid)
    assert list(tmp_path.glob('temporary/mmpose_batch-*/setup')), (
        'the weights are handed over in another way'
    )
    started.send(signal.SIGKILL)
    started.wait()
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, 'a worker process outlives its run'
        time.sleep(0.2)
    assert not list(tmp_path.glob('temporary/mmpose_batch-*'))
    # As if it had been killed before its first record.
    (out_dir / 'predictions.jsonl').write_bytes(b'')
    complete = list(chunks.glob('*/*.jsonl'))
    # A worker of another run in this folder may have written a chunk in the meantime.
    stale = chunks / 'of another run' / '0000000.jsonl'
    stale.parent.mkdir()
    stale.write_text('{"count": 0, "ended": true}\n')
    again = run_tool(*arguments, '--out-dir', out_dir, *PROCESSES, '--resume')
    assert again.status == 0, again.err
    assert ('by an earlier run' in again.out) == bool(complete)
    assert files_below(out_dir) == files_below(one)
