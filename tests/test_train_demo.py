"""tools/train_demo.py: a few iterations from scratch and on, and what it refuses."""

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factories import TOOLS, Outcome, load_tool, run_tool
from mmengine.registry import DefaultScope
from mmpose.registry import HOOKS, MODELS
from torch import nn

from mmpose_batch.models import load_config
from mmpose_batch.scenes import write_scenes

NAMES = load_tool('train_demo').NAMES
FEW = (
    *('train_cfg.val_interval=1', 'train_dataloader.batch_size=4'),
    *('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False'),
    *('val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False'),
)


def arguments(folder: Path, name: str, *options: object, epochs: int = 1) -> tuple:
    return (
        *(name, '--data-root', folder / 'scenes', '--train-scenes', 8, '--val-scenes', 2),
        *('--work-dir', folder / 'work', '--out', folder / 'weights.pth', *options),
        *('--cfg-options', *FEW, f'train_cfg.max_epochs={epochs}'),
    )


def run_alone(*words: object, start: tuple = (), **environment: str) -> Outcome:
    """Run the tool in a process of its own: MMEngine's runner changes that in which it runs."""
    done = subprocess.run(
        [sys.executable, *start, TOOLS / 'train_demo.py', *map(str, words)],
        env={**os.environ, 'CUDA_VISIBLE_DEVICES': '', **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def train(folder: Path, name: str, *options: object, epochs: int = 1) -> dict[str, torch.Tensor]:
    outcome = run_alone(*arguments(folder, name, *options, epochs=epochs))
    assert outcome.status == 0, outcome.err[-2000:]
    return torch.load(folder / 'weights.pth', weights_only=True)['state_dict']


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_from_scratch_and_on(tmp_path, name):
    first = train(tmp_path, name, '--prepared', 2)
    assert len(list((tmp_path / 'work' / 'prepared').glob('*/*.bin'))) == 2
    assert (tmp_path / 'work' / 'epoch_1.pth').exists()
    people = most_people(tmp_path / 'scenes' / ('crowd' if name == 'demo-rtmo' else 'train'))
    assert people == (4 if name == 'demo-rtmo' else 3)
    second = train(tmp_path, name, '--resume', '--prepared', 2, epochs=2)
    assert (tmp_path / 'work' / 'epoch_2.pth').exists()
    assert 'resumed epoch: 1' in logs(tmp_path)
    own = torch.load(load_config(name, _scope(name))[1], weights_only=True)
    assert first.keys() == second.keys() == own['state_dict'].keys()
    changed = [key for key in first if not np.array_equal(first[key], second[key])]
    assert any(key.startswith('backbone.') for key in changed)


def most_people(folder: Path) -> int:
    content = json.loads((folder / 'annotations.json').read_text())
    return max(Counter(person['image_id'] for person in content['annotations']).values())


def logs(folder: Path) -> str:
    return ''.join(path.read_text() for path in (folder / 'work').glob('*/*.log'))


def _scope(name: str) -> str:
    return 'mmdet' if name == 'demo-rtmdet' else 'mmpose'


def test_features_alone_are_computed_in_bfloat16():
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
def test_two_processes_share_a_batch(tmp_path):
    two = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2')
    outcome = run_alone(*arguments(tmp_path, 'demo-rtmpose'), start=two, OMP_NUM_THREADS='1')
    assert outcome.status == 0, outcome.err[-2000:]
    assert (tmp_path / 'weights.pth').exists()
    assert 'Distributed training: True' in logs(tmp_path)
    assert 'GPU number: 2' in logs(tmp_path)  # MMEngine's word for processes


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    outcome = run_alone(*arguments(tmp_path, 'demo-rtmpose'), WORLD_SIZE='3')
    assert outcome.status == 2
    assert outcome.err.endswith('train_demo: a batch of 4 cannot be shared by 3\n')


@pytest.mark.slow
def test_samples_of_other_scenes_are_prepared_anew(tmp_path):
    train(tmp_path, 'demo-rtmpose', '--prepared', 1)
    (tmp_path / 'scenes').rename(tmp_path / 'before')
    more = '--resume', '--prepared', 1, '--train-scenes', 12
    train(tmp_path, 'demo-rtmpose', *more, epochs=2)
    assert len(list((tmp_path / 'work' / 'prepared').glob('*/*.bin'))) == 2


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
    runner.epoch = cfg.max_epochs - 1  # the first of the process that resumes
    switch.before_train_epoch(runner)
    assert model.head.proxy_target_cc


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--train-scenes', 0], '--train-scenes: expected a number from 1, found 0'),
        (['--prepared', -1], '--prepared: expected a number from 0, found -1'),
        (['--num-threads', 0], '--num-threads: expected a number from 1, found 0'),
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


def test_a_run_is_not_trained_over(tmp_path):
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'last_checkpoint').write_text('epoch_1.pth')
    outcome = run_tool(*arguments(tmp_path, 'demo-rtmpose'), tool='train_demo')
    assert outcome.status == 2
    assert 'holds a run; --resume goes on' in outcome.err


def relabel(annotations: Path) -> None:
    content = json.loads(annotations.read_text())
    content['annotations'][0]['keypoints'][2] = 0
    annotations.write_text(json.dumps(content))


def truncate(annotations: Path) -> None:
    annotations.write_text(annotations.read_text()[:-9])


@pytest.mark.parametrize(
    ('count', 'seed', 'change'),
    [(7, 1, None), (8, 9, None), (8, 1, relabel), (8, 1, truncate)],
    ids=['fewer', 'another series', 'other labels', 'half a file'],
)
def test_other_scenes_are_refused(tmp_path, count, seed, change):
    path = write_scenes(tmp_path / 'scenes' / 'train', count, seed, quiet=True)
    if change:
        change(path)
    outcome = run_alone(*arguments(tmp_path, 'demo-rtmpose'))
    assert outcome.status == 2
    assert 'holds other scenes than the 8 of series 1 that the config asks for' in outcome.err


def test_scenes_with_other_people_are_refused(tmp_path):
    write_scenes(tmp_path / 'scenes' / 'crowd', 8, 1, quiet=True)
    outcome = run_alone(*arguments(tmp_path, 'demo-rtmo'))
    assert outcome.status == 2
    assert f'{tmp_path / "scenes" / "crowd"} holds other scenes' in outcome.err


def test_an_unknown_option_of_scenes_is_refused(tmp_path):
    outcome = run_alone(*arguments(tmp_path, 'demo-rtmo'), 'scene_options.crowds=3')
    assert outcome.status == 2
    assert 'scene_options: ' in outcome.err and "'crowds'" in outcome.err
