"""Arguments of runs in several processes; no process is started."""

from pathlib import Path

import pytest
from support.factories import Models, run_tool, write_photos

from mmpose_batch.cli.console import with_default_threads
from mmpose_batch.cores import available_cores, default_threads
from mmpose_batch.distributed.options import ParallelOptions
from mmpose_batch.factory import plan_inferencer

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def arguments(models: Models, tmp_path: Path) -> list[str]:
    folder = tmp_path / 'in'
    folder.mkdir()
    write_photos(folder, 2)
    return [str(folder), *models.one_stage, '--out-dir', str(tmp_path / 'out')]


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('--devices cpu --device cpu', '--device cannot be combined with --devices'),
        ('--devices cpu --cpu-affinity 0', '--cpu-affinity cannot be combined with --devices'),
        ('--workers-per-device 2', 'workers_per_device: only valid with devices'),
        ('--timeout-per-chunk 5', 'timeout_per_chunk: only valid with devices'),
        ('--devices cpu --timeout-per-chunk 0', 'timeout_per_chunk: expected seconds above 0'),
        ('--devices cpu cuda:0', 'devices: expected devices of one kind'),
        ('--devices gpu', 'device: gpu cannot be used'),
        ('--devices cpu foo', 'device: foo cannot be used: RuntimeError: Expected one of cpu, '),
        ('--devices cpu cuda:x', 'device: cuda:x cannot be used: RuntimeError: Invalid device'),
        ('--devices cpu --precision fp16', 'precision: fp16 is not supported on a CPU'),
    ],
)
def test_wrong_combinations_are_rejected_before_a_model_is_built(arguments, given, message):
    ended = run_tool(*arguments, *given.split())
    assert (ended.status, ended.out) == (2, '')
    assert message in ended.err


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'devices': 'cpu'}, 'devices: expected a list of devices'),
        ({'devices': []}, 'devices: expected a list of devices'),
        ({'devices': [0]}, 'devices: expected a list of devices'),
        ({'devices': ['cpu', '']}, "device: '' cannot be used"),
        ({'devices': ['cpu', 'CPU']}, 'device: CPU cannot be used'),
        ({'devices': ['cpu', 'cuda']}, 'one kind, .* found cpu and cuda'),
        ({'devices': ['cpu'], 'workers_per_device': 0}, 'workers_per_device: expected an integer'),
        ({'devices': ['cpu'], 'timeout_per_chunk': True}, 'timeout_per_chunk: expected seconds'),
    ],
)
def test_options_are_checked_when_they_are_built(options, message):
    with pytest.raises(ValueError, match=message):
        ParallelOptions(**options)


def test_devices_are_repeated_for_several_workers():
    options = ParallelOptions(devices=['cuda:0', 'cuda:1'], workers_per_device=2)
    assert options.workers == ('cuda:0', 'cuda:1', 'cuda:0', 'cuda:1')
    assert ParallelOptions().workers == ()


def test_a_dry_run_names_the_workers(arguments):
    ended = run_tool(*arguments, '--devices', 'cpu', 'cpu', '--dry-run')
    assert ended.status == 0, ended.err
    assert 'workers   2 processes: cpu, cpu' in ended.out


def test_workers_share_the_cores(models):
    plan = plan_inferencer(models.file('rtmo.py'), models.file('rtmo.pth'))
    settings = with_default_threads(plan, 2).settings
    assert settings['num_threads'] == max(1, default_threads() // 2)
    assert settings['num_workers'] == max(1, min(8, available_cores() // 2))
    assert 'num_workers' not in with_default_threads(plan).settings
    given = plan_inferencer(models.file('rtmo.py'), models.file('rtmo.pth'), num_threads=3)
    assert with_default_threads(given, 2).settings['num_threads'] == 3


def test_a_resumed_run_has_the_threads_of_the_earlier_one(arguments, monkeypatch):
    monkeypatch.setattr('mmpose_batch.cores.default_threads', lambda: 2)
    assert run_tool(*arguments, '--num-threads', '1').status == 0
    refused = run_tool(*arguments, '--resume', '--num-threads', '2')
    assert refused.status == 1
    assert 'changed since the earlier run: threads' in refused.err
    again = run_tool(*arguments, '--resume')
    assert again.status == 0, again.err
    assert 'threads: 1 for the networks' in again.err
