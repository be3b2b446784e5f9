"""Building an inferencer from a config and arguments, without other side effects."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpose.models import BottomupPoseEstimator
from mmpose.models.heads import RTMOHead
from support.tiny import TinyModel, detector_config, picture

from mmpose_batch import BatchPose2DInferencer, CheckpointError, build_inferencer
from mmpose_batch.factory import plan_inferencer
from mmpose_batch.models import compat
from mmpose_batch.models.names import default_filters

pytestmark = pytest.mark.usefixtures('one_thread')

PICTURES = [picture(60, 90), picture(83, 70, 1)]


@pytest.fixture(scope='module')
def base_config(one_stage: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('configs') / 'base.py'
    one_stage.cfg.dump(path)
    return path


@pytest.fixture
def config(base_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Writes a config file with an inferencer, and a module that it imports."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'imported_by_a_config.py').write_text('')

    def write(**inferencer: Any) -> str:
        (tmp_path / 'config.py').write_text(
            f'_base_ = {str(base_config)!r}\n'
            "custom_imports = dict(imports=['mmpose_batch', 'imported_by_a_config'])\n"
            f"inferencer = dict(type='BatchPose2DInferencer', {as_arguments(inferencer)})\n"
        )
        return str(tmp_path / 'config.py')

    yield write
    sys.modules.pop('imported_by_a_config', None)


def as_arguments(options: dict[str, Any]) -> str:
    return ', '.join(f'{key}={value!r}' for key, value in options.items())


def assert_same_weights(one: BatchPose2DInferencer, other: BatchPose2DInferencer) -> None:
    state, expected = one.model.state_dict(), other.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_a_config_decides_how_the_inferencer_is_built(config, one_stage):
    path = config(batch_size=7, num_workers=0, on_error='raise', weights=one_stage.weights)
    inferencer = build_inferencer(path, device='cpu')
    assert 'imported_by_a_config' in sys.modules
    options = inferencer.options
    assert (options.batch_size, options.num_workers, options.on_error) == (7, 0, 'raise')
    assert_same_weights(inferencer, one_stage.ours())


def test_the_class_reads_the_config_too(config, one_stage):
    path = config(batch_size=7, num_workers=0, on_error='raise', weights=one_stage.weights)
    inferencer = BatchPose2DInferencer(path, device='cpu', batch_size=3)
    options = inferencer.options
    assert (options.batch_size, options.num_workers, options.on_error) == (3, 0, 'raise')
    assert_same_weights(inferencer, one_stage.ours())


def test_arguments_with_upstreams_default_take_the_value_of_the_config(config, one_stage):
    path = config(show_progress=True, weights=one_stage.weights)
    assert BatchPose2DInferencer(path, device='cpu').show_progress
    with pytest.raises(ValueError, match=r'model: .* in the mmdet::model registry'):
        BatchPose2DInferencer(config(scope='mmdet'), device='cpu')


@pytest.mark.parametrize('given', [True, False])
def test_progress_is_as_given_to_the_builder(config, one_stage, given):
    path = config(show_progress=not given, weights=one_stage.weights)
    assert build_inferencer(path, device='cpu', show_progress=given).show_progress is given


def test_none_in_a_config_is_ignored(config, one_stage):
    path = config(precision=None, weights=one_stage.weights)
    assert build_inferencer(path, device='cpu').options.precision == 'fp32'


def test_building_insists_on_weights(one_stage, top_down, tmp_path):
    with pytest.raises(ValueError, match="pass a file, or 'none' for random weights"):
        build_inferencer(one_stage.cfg, device='cpu')
    (tmp_path / 'detector.py').write_text('model = dict()')
    with pytest.raises(ValueError, match='det_weights: pass the checkpoint of the detector'):
        build_inferencer(
            top_down.cfg, 'none', det_model=str(tmp_path / 'detector.py'), device='cpu'
        )
    for detector in (detector_config(), detector_config().to_dict()):
        with pytest.raises(ValueError, match='det_weights: pass the checkpoint of the detector'):
            build_inferencer(top_down.cfg, 'none', det_model=detector, device='cpu')


def test_changes_to_a_config_leave_the_callers_as_it_was(one_stage):
    before = copy.deepcopy(one_stage.cfg.to_dict())
    build_inferencer(one_stage.cfg, one_stage.weights, {'model.test_cfg.nms_pre': 1}, device='cpu')
    assert one_stage.cfg.to_dict() == before


@pytest.mark.parametrize(
    ('model', 'error', 'message'),
    [
        (None, CheckpointError, 'never run from a weights file'),
        ({'data_mode': 'topdown'}, ValueError, 'expected a config with a model'),
        ({'model': {'type': 'RTMDet'}}, ValueError, 'of a pose model, with data_mode .* None'),
    ],
)
def test_a_config_must_have_a_model(model, error, message):
    with pytest.raises(error, match=message):
        BatchPose2DInferencer(model, 'weights.pth', device='cpu')


def test_arguments_take_precedence_over_the_config(config, one_stage):
    path = config(batch_size=7, num_workers=0, weights='missing.pth')
    inferencer = build_inferencer(
        path, one_stage.weights, batch_size=2, num_workers=None, device='cpu'
    )
    assert (inferencer.options.batch_size, inferencer.options.num_workers) == (2, 0)


def test_changes_to_the_config_reach_the_model(config, one_stage):
    changes = {'model.test_cfg.nms_pre': 1, 'inferencer.batch_size': 3}
    inferencer = build_inferencer(config(batch_size=7), one_stage.weights, changes, device='cpu')
    assert inferencer.options.batch_size == 3
    found = inferencer(PICTURES, bbox_thr=0.0)
    assert [len(result['predictions'][0]) for result in found] == [1, 1]


def test_no_weights_are_the_same_random_ones_each_time(config):
    path = config(weights='missing.pth')
    assert_same_weights(*(build_inferencer(path, 'none', device='cpu') for _ in range(2)))


@pytest.mark.parametrize(
    ('inferencer', 'error', 'message'),
    [
        ({'batchsize': 4}, ValueError, 'expected some of weights, .* found batchsize'),
        ({'batch_size': '4'}, ValueError, 'batch_size: expected an integer'),
    ],
)
def test_a_wrong_option_in_a_config_is_an_error(config, inferencer, error, message):
    with pytest.raises(error, match=message):
        build_inferencer(config(**inferencer), 'none', device='cpu')


def test_another_inferencer_in_a_config_is_an_error(one_stage):
    cfg = copy.deepcopy(one_stage.cfg)
    cfg.inferencer = {'type': 'Pose2DInferencer'}
    with pytest.raises(ValueError, match='expected type BatchPose2DInferencer'):
        build_inferencer(cfg, 'none', device='cpu')


def test_types_may_be_classes(one_stage):
    # As in MMEngine's pure Python configs.
    cfg = copy.deepcopy(one_stage.cfg)
    cfg.inferencer = {'type': BatchPose2DInferencer, 'weights': one_stage.weights}
    cfg.model.type, cfg.model.head.type = BottomupPoseEstimator, RTMOHead
    assert default_filters(cfg) == default_filters(one_stage.cfg)
    inferencer = build_inferencer(cfg, device='cpu')
    call = inferencer.call_options(bbox_thr=0.7, nms_thr=0.6)
    assert (call.test_cfg.score_thr, call.test_cfg.nms_thr) == (0.7, 0.6)


def test_a_plain_config_needs_no_inferencer_in_it(one_stage):
    inferencer = build_inferencer(one_stage.cfg, one_stage.weights, device='cpu', batch_size=4)
    assert inferencer.options.batch_size == 4


@pytest.mark.parametrize(
    ('changes', 'settings', 'message'),
    [
        ({}, {}, None),
        ({'model.backbone.type': 'Nobody'}, {}, 'no Nobody in the mmpose::model registry'),
        ({'model.head.type': 'mmdet.Nobody'}, {}, 'no mmdet.Nobody in the mmpose::model registry'),
        ({}, {'device': 'abacus'}, 'device: abacus cannot be used'),
        ({}, {'flip_test': True}, 'flip_test: this model has no flip test'),
        ({}, {'engine': 'openvino', 'engine_file': 'no.onnx'}, 'engine_file: no.onnx: No such'),
    ],
)
def test_a_plan_is_checked_and_nothing_is_built(one_stage, monkeypatch, changes, settings, message):
    def build(*_: Any, **__: Any) -> None:
        raise AssertionError('something is built')

    monkeypatch.setattr('mmpose_batch.factory.INFERENCERS.build', build)
    settings = {'device': 'cpu', **settings}
    plan = plan_inferencer(one_stage.cfg, one_stage.weights, changes, **settings)
    before = copy.deepcopy(plan.cfg.to_dict())
    if message is None:
        plan.check()
    else:
        with pytest.raises(ValueError, match=message):
            plan.check()
    assert plan.cfg.to_dict() == before


SNAPSHOT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location('compat', {compat!r})
compat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compat)
compat.provide_torchvision()  # without it upstream cannot be imported

import mmcv, mmdet.apis, mmdet.models, mmengine, mmpose.apis, mmpose.models
import torch
from mmcv.cnn import ConvModule

def snapshot():
    seen = {{}}
    for name, module in list(sys.modules.items()):
        if name.split('.')[0] not in ('mmcv', 'mmdet', 'mmengine', 'mmpose', 'torch'):
            continue
        for key, value in list(vars(module).items()):
            if callable(value):
                seen[name, key] = value
            if isinstance(value, type) and value.__module__ == name:
                for attribute, member in list(vars(value).items()):
                    if callable(member) or isinstance(member, (classmethod, property)):
                        seen[name, key, attribute] = member
    return seen

before = snapshot()
import mmpose_batch
{use}
after = snapshot()
changed = sorted(str(key) for key, value in before.items() if after.get(key) is not value)
print(len(before), changed)
"""


@pytest.mark.slow
def test_no_class_or_function_of_the_libraries_is_changed(base_config):
    use = (
        f'from mmpose_batch import build_inferencer\n'
        f"i = build_inferencer({str(base_config)!r}, 'none', device='cpu')\n"
        f'import numpy as np\n'
        f'list(i(np.zeros((64, 64, 3), np.uint8), return_vis=True))\n'
    )
    script = SNAPSHOT.format(compat=compat.__file__, use=use)
    process = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    count, changed = process.stdout.splitlines()[-1].split(' ', 1)
    assert int(count) > 10_000
    assert changed == '[]'
