"""The throughput tool: what it prints and what it refuses; no test asks how fast anything is."""

import json
from pathlib import Path

import pytest
import torch
from factories import Models, Outcome, run_tool, write_photos
from mmpose.apis.inferencers import Pose2DInferencer

from mmpose_batch.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures('one_thread')


def benchmark(*arguments: object) -> Outcome:
    return run_tool('--device', 'cpu', *arguments, tool='benchmark_throughput')


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('photos')
    write_photos(folder, 2)
    return folder


@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
def test_every_setting_is_compared_with_stock(models: Models, photos, tmp_path, kind):
    arguments = getattr(models, kind)
    if kind == 'top_down':
        arguments = arguments[: arguments.index('--bbox-thr')]
    outcome = benchmark(
        *(photos, *arguments, '--images', '3', '--rounds', '2', '--batch-size', '1', '2'),
        *('--num-workers', '0', '--json', tmp_path / 'out.json'),
    )
    assert outcome.status == 0
    assert 'fewer than 3 rounds' in outcome.err
    header, *rows = outcome.out.splitlines()[-4:]
    assert 'ratio to stock' in header
    assert [row.split('  ')[0] for row in rows] == [
        'stock',
        'fp32, batch 1, 0 workers',
        'fp32, batch 2, 0 workers',
    ]
    assert len({row.split()[-1] for row in rows[1:]}) == 1  # persons
    samples = json.loads((tmp_path / 'out.json').read_text())['images_per_second']
    assert {name: len(rates) for name, rates in samples.items()} == {
        'stock': 2,
        'fp32, batch 1, 0 workers': 2,
        'fp32, batch 2, 0 workers': 2,
    }


def test_engines_are_compared_too(models: Models, photos):
    arguments = models.top_down[: models.top_down.index('--bbox-thr')]
    outcome = benchmark(
        *(photos, *arguments, '--images', '3', '--rounds', '1', '--no-flip-test'),
        *('--engine', 'torch', 'openvino'),
    )
    assert outcome.status == 0, outcome.err
    rows = outcome.out.splitlines()[-3:]
    assert [row.split('  ')[0] for row in rows] == ['stock', 'fp32', 'openvino fp32']
    assert rows[1].split()[-1] == rows[2].split()[-1]  # persons


@pytest.mark.parametrize(
    ('more', 'status', 'message'),
    [
        (['--rounds', '0'], 2, '--rounds: expected a number from 1, found 0'),
        (['--batch-size', '2', '0'], 2, '--batch-size: expected a number from 1, found 0'),
        (['--num-threads', '0'], 2, '--num-threads: expected a number from 1, found 0'),
        (['--num-workers', '-1'], 2, '--num-workers: expected a number from 0, found -1'),
        (['--json', '/proc/nowhere/x.json'], 2, '--json: cannot write into /proc/nowhere'),
        (['--device', 'abacus'], 1, 'the model cannot be built as asked for: RuntimeError'),
        (['--images', '0'], 2, '--images: expected a number from 1, found 0'),
        (['--precision', 'int3'], 2, 'precision: expected one of'),
        (['--pose2d-weights', 'no.pth'], 1, 'weights: no such file: no.pth'),
    ],
)
def test_wrong_arguments_are_one_line(models, photos, more, status, message):
    outcome = benchmark(photos, *models.one_stage, *more)
    assert outcome.status == status
    assert message in outcome.err.splitlines()[-1]


def test_a_bad_image_is_named(models, tmp_path):
    write_photos(tmp_path, 1)
    (tmp_path / 'text.jpg').write_text('hello\nworld')
    outcome = benchmark(tmp_path, *models.one_stage, '--images', '2')
    assert outcome.status == 1
    assert 'text.jpg: expected an image, found 11 bytes' in outcome.err.splitlines()[-1]


def test_stock_gets_the_detector_that_the_config_names(models, photos, tmp_path, monkeypatch):
    (tmp_path / 'detector.py').write_text(
        f'_base_ = {models.file("rtmdet.py")!r}\n'
        f'inferencer = dict(weights={models.file("rtmdet.pth")!r})\n'
    )
    (tmp_path / 'pose.py').write_text(
        f'_base_ = {models.file("rtmpose.py")!r}\n'
        f"inferencer = dict(weights={models.file('rtmpose.pth')!r}, det_model='detector.py')\n"
    )
    monkeypatch.chdir(tmp_path)
    built = []

    def remember(self, *arguments, **settings):
        init(self, *arguments, **settings)
        built.append(self.detector.model.backbone.stem[0].conv.weight.detach().clone())

    init = Pose2DInferencer.__init__
    monkeypatch.setattr(Pose2DInferencer, '__init__', remember)
    outcome = benchmark(photos, '--pose2d', 'pose.py', '--images', '1', '--rounds', '1')
    assert outcome.status == 0, outcome.err
    expected = load_checkpoint(models.file('rtmdet.pth'))['state_dict']
    assert torch.equal(built[-1], expected['backbone.stem.0.conv.weight'])
