"""The registry of engines, and the precisions that they support."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.factories import run_tool, write_photos
from support.tiny import picture

from mmpose_batch import hardware
from mmpose_batch.engines import registry, selector
from mmpose_batch.engines.base import EngineOptions, EngineSpec
from mmpose_batch.engines.registry import parallel_batches, resolve_precision, splits_cores
from mmpose_batch.errors import OutputsDeviate


@pytest.mark.parametrize(
    ('precision', 'device', 'cpu_bf16', 'expected'),
    [
        ('fp32', 'cpu', True, 'fp32'),
        ('bf16', 'cpu', False, 'bf16'),
        ('auto', 'cpu', True, 'bf16'),
        ('auto', 'cpu', False, 'fp32'),
        ('fp32', 'cuda:0', False, 'fp32'),
        ('fp16', 'cuda:0', False, 'fp16'),
        ('bf16', 'cuda', False, 'bf16'),
        ('auto', 'cuda', False, 'fp16'),
        ('fp16', 'mps', True, 'fp16'),
        ('auto', 'mps', True, 'fp32'),
    ],
)
def test_precision_is_resolved_for_the_device(precision, device, cpu_bf16, expected, monkeypatch):
    monkeypatch.setattr(hardware, 'cpu_has_bf16', lambda: cpu_bf16)
    assert resolve_precision(precision, device) == expected


@pytest.mark.parametrize(
    ('precision', 'message'),
    [
        ('fp16', 'precision: fp16 is not supported on a CPU; use bf16'),
        ('half', "expected one of fp32, fp16, bf16, int8, auto, found 'half'"),
    ],
)
def test_a_precision_that_a_cpu_does_not_support_is_rejected(precision, message):
    with pytest.raises(ValueError) as raised:
        resolve_precision(precision, 'cpu')
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ('precision', 'engine', 'expected'),
    [
        ('int8', 'openvino', 'int8'),
        ('int8', 'onnxruntime', 'int8'),
        ('int8', 'auto', 'int8'),
        ('auto', 'openvino', 'bf16'),
        ('auto', 'onnxruntime', 'fp32'),
    ],
)
def test_auto_precision_depends_on_the_engine(precision, engine, expected, monkeypatch):
    monkeypatch.setattr(hardware, 'cpu_has_bf16', lambda: True)
    assert resolve_precision(precision, 'cpu', engine) == expected


def test_precision_depends_on_the_device_of_the_engine():
    assert resolve_precision('auto', 'cpu', 'openvino', 'GPU') == 'fp16'
    assert resolve_precision('fp16', 'cpu', 'openvino', 'GPU.1') == 'fp16'
    assert resolve_precision('auto', 'cuda', 'openvino') in ('fp32', 'bf16')


@pytest.mark.parametrize(
    ('precision', 'engine', 'message'),
    [
        (
            'int8',
            'torch',
            'engine torch supports fp32, fp16, bf16, not int8; engines that support it: '
            'onnxruntime, openvino, ',
        ),
        ('int8', 'torch-compile', 'not int8; engines that support it: onnxruntime'),
        ('bf16', 'onnxruntime', 'engine onnxruntime supports fp32, int8, not bf16; '),
    ],
)
def test_a_precision_that_an_engine_does_not_support_is_rejected(precision, engine, message):
    with pytest.raises(ValueError) as raised:
        resolve_precision(precision, 'cpu', engine)
    assert message in str(raised.value)


FAKE = '''
import torch

from mmpose_batch.engines.base import Engine, EngineSpec
from mmpose_batch.engines.registry import register


class FakeEngine(Engine):
    """PyTorch with shifted outputs."""

    def __init__(self, source, options):
        self.source, self.shift = source, {shift}
        self.description = f'fake for {{options.device}}'

    @torch.no_grad()
    def __call__(self, inputs):
        if inputs.dtype == torch.uint8:
            inputs = self.source.normalization(inputs)
        return [output.roll(self.shift, -1) for output in self.source.network(inputs)]


register(EngineSpec(name='fake', build=FakeEngine, takes_device=True))
'''


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns a function that writes a module, whose import registers an engine."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(registry, 'ENGINES', dict(registry.specs()))
    monkeypatch.syspath_prepend(tmp_path)

    def write(shift: int = 0) -> None:
        registry.ENGINES.pop('fake', None)
        monkeypatch.delitem(sys.modules, 'fake_engine', raising=False)
        (tmp_path / 'fake_engine.py').write_text(FAKE.format(shift=shift))

    yield write
    sys.modules.pop('fake_engine', None)


def test_a_third_party_engine_runs(top_down, fake):
    images = [picture(120, 90, seed, persons=1 + seed % 3) for seed in range(5)]
    fake()
    with pytest.raises(ValueError, match=r'engine: expected one of .*, auto, found .fake.'):
        top_down.ours(engine='fake')
    importlib.import_module('fake_engine')
    ours = top_down.ours(engine='fake', engine_device='anywhere', batch_size=2)
    found = list(ours(images))
    assert ours.runner.selection.description == 'fake for anywhere'
    assert ours.runner.selection.self_check.instances > 0
    for one, other in zip(found, top_down.ours(batch_size=2)(images), strict=True):
        for ours, expected in zip(one['predictions'][0], other['predictions'][0], strict=True):
            np.testing.assert_allclose(ours['keypoints'], expected['keypoints'], atol=0.01)


def test_a_third_party_engine_is_verified(top_down, fake):
    fake(shift=20)
    importlib.import_module('fake_engine')
    with pytest.raises(OutputsDeviate, match='engine: fake in fp32: outputs deviate'):
        list(top_down.ours(engine='fake')([picture(120, 90, 0, persons=4)]))


def test_auto_tries_a_third_party_engine(top_down, fake, monkeypatch):
    fake()
    importlib.import_module('fake_engine')
    for name in ('onnxruntime', 'openvino'):
        monkeypatch.delitem(registry.ENGINES, name)
    monkeypatch.setattr(selector, 'candidates', lambda options, on_cuda: ['fake'])
    ours = top_down.ours(engine='auto')
    list(ours([picture(120, 90, 0, persons=2)]))
    assert ours.runner.selection.engine == 'fake'
    assert ours.runner.selection.seconds_of_a_batch.keys() == {'fake'}


def test_auto_considers_all_registered_engines(fake):
    fake()
    importlib.import_module('fake_engine')
    assert 'fake' in selector.candidates(EngineOptions(engine='auto'), on_cuda=False)
    bf16 = EngineOptions(engine='auto', precision='bf16')
    assert 'fake' not in selector.candidates(bf16, on_cuda=False)


def test_the_tool_runs_an_engine_that_a_config_imports(models, fake, tmp_path):
    fake()
    write_photos(tmp_path / 'in', 2)
    config = tmp_path / 'pose.py'
    imports = "custom_imports = dict(imports=['fake_engine'])\n"
    config.write_text(Path(models.file('rtmo.py')).read_text() + imports)
    arguments = (tmp_path / 'in', '--out-dir', tmp_path / 'out', '--engine', 'fake')
    weights = ('--pose2d-weights', models.file('rtmo.pth'))
    outcome = run_tool(*arguments, *models.one_stage)
    assert outcome.status == 2
    assert 'engine: expected one of torch, torch-compile, onnxruntime, openvino' in outcome.err
    outcome = run_tool(*arguments, '--pose2d', config, *weights)
    assert outcome.status == 0, outcome.err
    report = json.loads((tmp_path / 'out' / 'run.json').read_text())
    assert report['engines']['pose']['engine'] == report['settled']['engines']['pose'] == 'fake'


@pytest.mark.parametrize(
    ('spec', 'message'),
    [
        ({'name': 'torch'}, "the name 'torch' is already in use"),
        ({'name': 'auto'}, "the name 'auto' is already in use"),
        ({'name': 'other', 'precisions': ('fp8',)}, 'other: expected precisions of .* found fp8'),
    ],
)
def test_an_invalid_spec_is_rejected(spec, message, monkeypatch):
    monkeypatch.setattr(registry, 'ENGINES', dict(registry.specs()))
    with pytest.raises(ValueError, match=message):
        registry.register(EngineSpec(build=None, **spec))


@pytest.mark.parametrize(
    ('options', 'parallel', 'split'),
    [
        ({'engine': 'torch'}, 1, False),
        ({'engine': 'onnxruntime'}, 1, False),
        ({'engine': 'openvino'}, 2, True),
        ({'engine': 'openvino', 'latency': True}, 1, False),
        ({'engine': 'openvino', 'device': 'GPU'}, 2, False),
        ({'engine': 'auto'}, 2, False),
    ],
)
def test_batches_run_concurrently_if_the_engine_supports_it(options, parallel, split):
    asked = EngineOptions(**options)
    assert (parallel_batches(asked), splits_cores(asked)) == (parallel, split)


def test_listing_engines_does_not_import_their_libraries():
    """Importing OpenVINO, ONNX Runtime or inductor takes seconds."""
    script = (
        'import sys; from mmpose_batch.engines.registry import choices; print(*choices());'
        "slow = {'openvino', 'onnxruntime', 'onnx', 'nncf', 'torch._inductor'};"
        'assert not slow & sys.modules.keys(), slow & sys.modules.keys()'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ['torch', 'torch-compile', 'onnxruntime', 'openvino', 'auto']
