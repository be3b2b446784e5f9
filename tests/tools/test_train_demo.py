"""tools/train_demo.py: a few iterations from scratch and resumed, and errors."""

import gc
import json
import logging
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import cv2
import mmdet.utils
import mmpose.utils
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpose.registry import HOOKS, MODELS
from support.factories import TOOLS, Outcome, load_tool, run_tool
from torch import nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mmpose_batch.models.names import load_config
from mmpose_batch.scenes import write_scenes

NAMES = load_tool('train_demo').NAMES
FEW = (
    *('train_cfg.val_interval=1', 'train_dataloader.batch_size=4'),
    *('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False'),
    *('val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False'),
)
# Threads are slower for networks this small.
ENVIRONMENT = {'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
# Seconds until a run counts as hanging.
PATIENCE = 300


def arguments(folder: Path, name: str, *options: object, epochs: int = 1) -> list[str]:
    words = (
        *(name, '--data-root', folder / 'scenes', '--train-scenes', 8, '--val-scenes', 2),
        *('--work-dir', folder / 'work', '--out', folder / 'weights.pth', *options),
        *('--cfg-options', *FEW, f'train_cfg.max_epochs={epochs}'),
    )
    return [str(word) for word in words]


@pytest.fixture(scope='module')
def trainer() -> Iterator[Callable[..., Outcome]]:
    """Calls the tool in a fork of a process that has imported everything, which takes seconds.

    A run needs a process of its own, which MMEngine's runner changes.
    """
    with ProcessPoolExecutor(
        1,
        mp_context=get_context('spawn'),  # a fork of this process would lack its threads
        initializer=import_module,  # before anything of mmpose, as in conftest.py
        initargs=('mmpose_batch',),
    ) as pool:
        with pytest.MonkeyPatch.context() as changes:
            for name, value in ENVIRONMENT.items():
                changes.setenv(name, value)
            pool.submit(import_all).result(PATIENCE)
        yield lambda *words: pool.submit(run_in_fork, *words).result()


def import_all() -> None:
    for package in (mmpose, mmdet):
        package.utils.register_all_modules(init_default_scope=False)
    import_module('torch._dynamo')  # optimizers ask for it
    gc.freeze()  # MMEngine collects garbage: not all of this, in every fork


def run_in_fork(words: list[str], log: Path, processes: int = 1) -> Outcome:
    run = run_logged if processes == 1 else torchrun(run_logged, processes)
    process = get_context('fork').Process(target=lambda: sys.exit(run(words, log)))
    process.start()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
    return Outcome(process.exitcode, '', log.read_text())


def torchrun(run: Callable[..., int], processes: int) -> Callable[..., int]:
    """Run a function in several processes, as torchrun runs a script."""
    config = LaunchConfig(
        *(1, 1, processes),
        rdzv_backend='c10d',
        rdzv_endpoint='localhost:0',
        start_method='fork',
        monitor_interval=0.1,
    )
    return lambda *words: max(elastic_launch(config, run)(*words).values())


def run_logged(words: list[str], log: Path) -> int:
    with log.open('a') as file, redirect_stdout(file), redirect_stderr(file):
        return load_tool('train_demo').main(words)


def run_script(words: list[str]) -> Outcome:
    """Run the tool as users do, in a new interpreter."""
    done = subprocess.run(
        [sys.executable, TOOLS / 'train_demo.py', *words],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def load_weights(outcome: Outcome, folder: Path) -> dict[str, torch.Tensor]:
    assert outcome.status == 0, outcome.err[-2000:]
    return torch.load(folder / 'weights.pth', weights_only=True)['state_dict']


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_from_scratch_and_resumed(tmp_path, trainer, name):
    log = tmp_path / 'log.txt'
    words = arguments(tmp_path, name, '--prepared', 2)
    # A detector and a pose model show that the script imports MMDetection and MMPose.
    outcome = run_script(words) if name in ('demo-rtmdet', 'demo-rtmo') else trainer(words, log)
    first = load_weights(outcome, tmp_path)
    prepared = prepared_samples(tmp_path)
    assert len(prepared) == 2
    assert (tmp_path / 'work' / 'epoch_1.pth').exists()
    people = most_people(tmp_path / 'scenes' / ('crowd' if name == 'demo-rtmo' else 'train'))
    assert people == (4 if name == 'demo-rtmo' else 3)
    options = ['--resume', '--prepared', 2]
    other_scenes = name == 'demo-rtmpose'
    if other_scenes:
        (tmp_path / 'scenes').rename(tmp_path / 'before')
        options += ['--train-scenes', 12]
    second = load_weights(trainer(arguments(tmp_path, name, *options, epochs=2), log), tmp_path)
    assert (tmp_path / 'work' / 'epoch_2.pth').exists()
    assert 'resumed epoch: 1' in logs(tmp_path)
    # Samples of changed scenes are prepared again; those of the same scenes are reused.
    assert prepared.items() <= prepared_samples(tmp_path).items()
    assert len(prepared_samples(tmp_path)) == (4 if other_scenes else 2)
    own = torch.load(load_config(name, _scope(name))[1], weights_only=True)
    assert first.keys() == second.keys() == own['state_dict'].keys()
    changed = [key for key in first if not np.array_equal(first[key], second[key])]
    assert any(key.startswith('backbone.') for key in changed)


def prepared_samples(folder: Path) -> dict[Path, int]:
    """The files of prepared samples, and when they were written."""
    files = (folder / 'work' / 'prepared').glob('*/*.bin')
    return {path: path.stat().st_mtime_ns for path in files}


def most_people(folder: Path) -> int:
    content = json.loads((folder / 'annotations.json').read_text())
    return max(Counter(person['image_id'] for person in content['annotations']).values())


def logs(folder: Path) -> str:
    return ''.join(path.read_text() for path in (folder / 'work').glob('*/*.log'))


def _scope(name: str) -> str:
    return 'mmdet' if name == 'demo-rtmdet' else 'mmpose'


def test_only_features_are_computed_in_bfloat16():
    with DefaultScope.overwrite_default_scope('mmpose'):
        model = MODELS.build(load_config('demo-rtmpose')[0].model).eval()
    image = torch.rand(1, 3, 192, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (exact,) = model.extract_feat(image)
        load_tool('train_demo').use_bfloat16(model)
        (rough,) = model.extract_feat(image)
    assert exact.dtype == rough.dtype == torch.float32
    error = (rough - exact).abs().max() / exact.abs().max()
    assert 0 < error < 2**-5  # a bfloat16 has 8 bits; rounding adds up over the layers


@pytest.mark.slow
def test_two_processes_share_a_batch(tmp_path, trainer):
    words = arguments(tmp_path, 'demo-rtmpose', '--train-scenes', 4)
    load_weights(trainer(words, tmp_path / 'log.txt', 2), tmp_path)
    assert 'Distributed training: True' in logs(tmp_path)
    assert 'GPU number: 2' in logs(tmp_path)  # MMEngine's term for processes


@pytest.mark.usefixtures('mmpose_scope')
def test_a_resumed_training_keeps_its_second_phase():
    cfg, _ = load_config('demo-rtmo')
    (hook,) = (hook for hook in cfg.custom_hooks if hook.type == 'RTMOModeSwitchHook')
    model = nn.Module()
    model.head = nn.Module()
    runner = SimpleNamespace(epoch=cfg.switch_epoch - 1, model=model, logger=logging.getLogger())
    del hook['priority']  # the runner's
    switch = HOOKS.build(hook)
    switch.before_train_epoch(runner)
    assert not hasattr(model.head, 'proxy_target_cc')
    runner.epoch = cfg.max_epochs - 1  # the first epoch of the resumed process
    switch.before_train_epoch(runner)
    assert model.head.proxy_target_cc


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--train-scenes', 0], '--train-scenes: expected an integer >= 1, found 0'),
        (['--prepared', -1], '--prepared: expected an integer >= 0, found -1'),
        (['--num-threads', 0], '--num-threads: expected an integer >= 1, found 0'),
        (['--resume'], '--resume: no checkpoint in'),
        (['--out', 'missing/weights.pth'], '--out: cannot write missing/weights.pth'),
        (['--out', '.'], '--out: cannot write .'),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else '',
)
def test_wrong_arguments(tmp_path, options, message):
    outcome = run_tool(*arguments(tmp_path, 'demo-rtmpose', *options), tool='train_demo')
    assert outcome.status == 2
    assert message in outcome.err
    assert not (tmp_path / 'scenes').exists()


def test_a_run_is_not_overwritten(tmp_path):
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'last_checkpoint').write_text('epoch_1.pth')
    outcome = run_tool(*arguments(tmp_path, 'demo-rtmpose'), tool='train_demo')
    assert outcome.status == 2
    assert 'contains a run: resume it (--resume)' in outcome.err


def relabel(annotations: Path) -> None:
    content = json.loads(annotations.read_text())
    content['annotations'][0]['keypoints'][2] = 0
    annotations.write_text(json.dumps(content))


def truncate(annotations: Path) -> None:
    annotations.write_text(annotations.read_text()[:-9])


def rejected(*words: object) -> str:
    """Error message of a rejected command line.

    It does so before a runner is built, and leaves the process as it was.
    """
    opencv_threads = cv2.getNumThreads()
    cv2.setNumThreads(2)  # drawing scenes sets 1
    before = state_of_process()
    other_threads = torch.get_num_threads() + 1
    with patch.object(Runner, 'from_cfg', side_effect=AssertionError('a runner is built')):
        outcome = run_tool(*words, '--num-threads', other_threads, tool='train_demo')
    after = state_of_process()
    cv2.setNumThreads(opencv_threads)
    assert outcome.status == 2
    assert after == before
    return outcome.err


def state_of_process() -> dict[str, object]:
    generators = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state())
    return dict(
        environment=dict(os.environ),
        folder=os.getcwd(),
        path=list(sys.path),
        signals=[signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        logging=(logging.root.level, list(logging.root.handlers)),
        scope=DefaultScope.get_current_instance(),
        distributed=torch.distributed.is_initialized(),
        threads=(torch.get_num_threads(), cv2.getNumThreads()),
        generators=hash(repr(generators)),
    )


def test_a_batch_that_cannot_be_shared_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '3')
    report = rejected(*arguments(tmp_path, 'demo-rtmpose'))
    assert report.endswith('train_demo: a batch of 4 cannot be divided among 3 processes\n')


def test_rejections_do_not_wait_for_other_processes(tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    write_scenes(tmp_path / 'scenes' / 'train', 7, 1, quiet=True)
    report = rejected(*arguments(tmp_path, 'demo-rtmpose'))
    assert 'contains other scenes' in report


@pytest.mark.parametrize(
    ('count', 'seed', 'change'),
    [(7, 1, None), (8, 9, None), (8, 1, relabel), (8, 1, truncate)],
    ids=['fewer', 'another series', 'other labels', 'half a file'],
)
def test_other_scenes_are_rejected(tmp_path, count, seed, change):
    path = write_scenes(tmp_path / 'scenes' / 'train', count, seed, quiet=True)
    if change:
        change(path)
    report = rejected(*arguments(tmp_path, 'demo-rtmpose'))
    assert 'contains other scenes than the config needs (8 of seed 1)' in report


def test_scenes_with_other_people_are_rejected(tmp_path):
    write_scenes(tmp_path / 'scenes' / 'crowd', 8, 1, quiet=True)
    report = rejected(*arguments(tmp_path, 'demo-rtmo'))
    assert f'{tmp_path / "scenes" / "crowd"} contains other scenes' in report


def test_an_unknown_option_of_scenes_is_rejected(tmp_path):
    report = rejected(*arguments(tmp_path, 'demo-rtmo'), 'scene_options.crowds=3')
    assert 'scene_options: ' in report
    assert "'crowds'" in report
    assert not (tmp_path / 'scenes').exists()
