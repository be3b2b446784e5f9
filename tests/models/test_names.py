"""Finding the config and weights of a model, and building the model."""

import copy
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.infer import BaseInferencer
from mmengine.registry import init_default_scope
from mmpose.apis.inferencers import Pose2DInferencer
from support.tiny import TinyModel, mm_config, one_stage_config, top_down_config

from mmpose_batch.errors import CheckpointError
from mmpose_batch.models.checkpoint import load_checkpoint
from mmpose_batch.models.names import (
    build_model,
    default_filters,
    is_demo_model,
    load_config,
    own_configs,
)


@pytest.mark.parametrize(
    ('name', 'scope'),
    [
        pytest.param('human', 'mmpose', id='alias'),
        pytest.param('HUMAN', 'mmpose', id='in capitals'),
        pytest.param('td-hm_hrnet-w32_8xb64-210e_coco-256x192', 'mmpose', id='name'),
        pytest.param('rtmdet-m', 'mmdet', id='detector'),
    ],
)
def test_names_of_the_libraries_are_resolved_as_in_the_libraries(name, scope):
    upstream = Pose2DInferencer.__new__(Pose2DInferencer)
    upstream.scope = scope
    expected, expected_weights = upstream._load_model_from_metafile(name)
    cfg, weights = load_config(name, scope)
    assert (cfg.filename, weights) == (expected.filename, expected_weights)


def test_names_of_this_package_are_resolved_to_its_configs():
    cfg, weights = load_config('rtmo-s')
    assert cfg.inferencer.type == 'BatchPose2DInferencer'
    assert weights == cfg.inferencer.weights
    assert Path(own_configs()['rtmo-s']).samefile(cfg.filename)


@pytest.mark.parametrize(
    ('name', 'scope'), [('rtmo-s', 'mmdet'), ('demo', 'mmdet'), ('demo-rtmdet', 'mmpose')]
)
def test_pose_models_and_detectors_are_not_confused(name, scope):
    with pytest.raises(ValueError, match=f"a name of {scope}, found '{name}'") as raised:
        load_config(name, scope)
    added = str(raised.value).split('(this package adds ')[1].rstrip(')').split(', ')
    assert ('demo-rtmdet' in added) == (scope == 'mmdet')
    assert name not in added


def test_demo_models_are_recognised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('demo.py').touch()
    named = ['demo', 'demo-rtmo', 'demo-rtmdet', own_configs()['demo-rtmpose'], 'demo.py']
    assert [is_demo_model(name) for name in named] == [True, True, True, True, False]
    assert not any(map(is_demo_model, ('rtmo-s', 'human', 'rtmdet-m')))


@pytest.mark.parametrize(
    ('inferencer', 'weights'),
    [('', None), ("inferencer = dict(weights='model.pth')", 'model.pth')],
    ids=['a third-party config', 'a config with weights'],
)
def test_a_config_file_is_read(tmp_path, inferencer, weights):
    path = tmp_path / 'my_model.py'
    path.write_text(f'answer = 42\n{inferencer}')
    cfg, found = load_config(str(path))
    assert (cfg.answer, found) == (42, weights)


def test_a_file_has_priority_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('human.py').write_text('answer = 42')
    assert load_config('human.py')[0].answer == 42


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        ('missing.py', 'model: no such config file: missing.py'),
        ('folder/model', 'model: no such config file: folder/model'),
        ('humans', 'model: expected a config file or a name of mmpose, found'),
    ],
)
def test_an_unknown_name_or_path_is_an_error(tmp_path, monkeypatch, model, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as raised:
        load_config(model)
    assert message in str(raised.value)


def test_the_error_of_an_unknown_name_lists_the_names_of_this_package():
    with pytest.raises(ValueError) as raised:
        load_config('humans')
    poses = own_configs().keys() - {'demo-rtmdet'}
    assert all(f'{name},' in f'{raised.value},' for name in poses)


@pytest.mark.parametrize(
    ('config', 'special'),
    [
        ('body_2d_keypoint/rtmo/coco/rtmo-l_16xb16-600e_coco-640x640.py', 'rtmo'),
        ('body_2d_keypoint/yoloxpose/coco/yoloxpose_tiny_4xb64-300e_coco-416.py', 'yoloxpose'),
        ('body_2d_keypoint/rtmpose/coco/rtmpose-m_8xb256-420e_coco-256x192.py', None),
        ('body_2d_keypoint/dekr/coco/dekr_hrnet-w32_8xb10-140e_coco-512x512.py', None),
        ('body_2d_keypoint/cid/coco/cid_hrnet-w32_8xb20-140e_coco-512x512.py', None),
    ],
)
def test_thresholds_are_those_of_mmposes_demo(config, special):
    folder = Path(BaseInferencer._get_repo_or_mim_dir('mmpose'))
    spec = importlib.util.spec_from_file_location('demo', folder / 'demo' / 'inferencer_demo.py')
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    expected = demo.POSE2D_SPECIFIC_ARGS[special] if special else demo.filter_args
    assert default_filters(mm_config('mmpose', f'configs/{config}')) == expected


def test_a_config_can_override_thresholds():
    cfg = Config({'model': {'head': {'type': 'RTMOHead'}}, 'default_filters': {'bbox_thr': 0.5}})
    assert default_filters(cfg) == {'bbox_thr': 0.5, 'nms_thr': 0.65, 'pose_based_nms': True}
    cfg.default_filters.score_thr = 0.5
    with pytest.raises(ValueError, match=r'default_filters: expected some of bbox_thr.*score_thr'):
        default_filters(cfg)


# ------------------------------------------------------------------------- build_model


def ignore(model: torch.nn.Module, checkpoint: dict | None, cfg: Config) -> None:
    """A `_load_weights_to_model` that does nothing."""


def test_the_config_inside_a_checkpoint_is_never_run():
    with pytest.raises(CheckpointError, match='Python code, which is never run'):
        build_model(None, 'model.pth', 'cpu', ignore)


@pytest.mark.parametrize('cfg', [{}, Config()])
def test_an_empty_config_is_an_error(cfg):
    with pytest.raises(ValueError, match=r'^model: expected a .* model, found an empty'):
        build_model(cfg, 'model.pth', 'cpu', ignore)


def test_missing_weights_are_an_error_before_the_model_is_built(monkeypatch):
    monkeypatch.setattr('mmpose_batch.models.names.MODELS.build', lambda cfg: pytest.fail('built'))
    with pytest.raises(CheckpointError, match='no such file'):
        build_model(one_stage_config(), 'missing.pth', 'cpu', ignore)


@pytest.fixture
def mmpose_scope() -> None:
    """The scope that an inferencer sets; earlier tests may have left that of a detector."""
    init_default_scope('mmpose')


@pytest.mark.usefixtures('mmpose_scope')
def test_pretrained_weights_of_a_backbone_are_not_downloaded(top_down: TinyModel):
    # They would be downloaded and then overwritten by the checkpoint.
    cfg = top_down_config()
    cfg.model.pretrained = 'https://127.0.0.1/backbone.pth'
    build_model(cfg, top_down.weights, 'cpu', ignore)


@pytest.mark.usefixtures('mmpose_scope')
def test_a_model_is_ready_to_use(top_down: TinyModel):
    seen = {}

    def finish(model: torch.nn.Module, checkpoint: dict | None, cfg: Config) -> None:
        seen.update(checkpoint['meta'])

    model = build_model(top_down_config(), top_down.weights, 'cpu', finish)
    assert not any(module.training for module in model.modules())
    assert model.cfg.data_mode == 'topdown'
    assert seen['dataset_meta']['num_keypoints'] == 17  # for `finish` to attach
    state = load_checkpoint(top_down.weights)['state_dict']
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.usefixtures('mmpose_scope')
@pytest.mark.parametrize('at_the_top', [True, False])
def test_dataset_meta_is_read_from_both_places_of_a_checkpoint(
    top_down: TinyModel, tmp_path, at_the_top
):
    """In MMEngine's ``meta``, or at the top level, as the error of a rejected file advises."""
    checkpoint = load_checkpoint(top_down.weights)
    meta = {**checkpoint['meta']['dataset_meta'], 'dataset_name': 'mine'}
    where = {'dataset_meta': meta} if at_the_top else {'meta': {'dataset_meta': meta}}
    model = built_from({'state_dict': checkpoint['state_dict'], **where}, tmp_path / 'own.pth')
    assert model.dataset_meta['dataset_name'] == 'mine'
    notes = [f'weights: {tmp_path / "own.pth"}: using dataset_meta from the top level of the file']
    assert model.load_notes == (notes if at_the_top else [])


def built_from(checkpoint: dict[str, Any], path: Path) -> torch.nn.Module:
    """Build the tiny top-down model with a checkpoint, including upstream's attributes."""
    torch.save(checkpoint, path)
    return TinyModel(top_down_config(), str(path)).ours().model


@pytest.mark.usefixtures('mmpose_scope')
@pytest.mark.parametrize('differs', [True, False])
def test_two_dataset_metas_that_differ_cause_a_warning(
    top_down: TinyModel, tmp_path, caplog, differs
):
    checkpoint = load_checkpoint(top_down.weights)
    meta = checkpoint['meta']['dataset_meta']
    checkpoint['dataset_meta'] = copy.deepcopy(meta)
    if differs:
        checkpoint['dataset_meta']['sigmas'][3] = 1
    model = built_from(checkpoint, tmp_path / 'two.pth')
    assert model.dataset_meta['sigmas'][3] == meta['sigmas'][3]
    warned = 'two.pth: dataset_meta at the top level of the file differs from that in meta; using'
    assert (warned in caplog.text) == differs
    assert model.load_notes == []


# It has five keypoints, but the model has 17.
MINE = {'dataset_name': 'mine', 'num_keypoints': 5, 'flip_indices': [0, 2, 1, 4, 3]}


@pytest.mark.usefixtures('mmpose_scope')
@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        ([1], 'expected a dict as dataset_meta, found list'),
        ({'classes': ('a',)}, 'expected num_keypoints.* in dataset_meta, found no num_keypoints'),
        (MINE, 'expected num_keypoints 17 in dataset_meta, as model.head has, found 5'),
        ({**MINE, 'num_keypoints': '17'}, "expected an integer .*num_keypoints .*found '17'"),
        ({**MINE, 'flip_indices': [0]}, 'expected as many flip_indices as .*, 5, found 1'),
        ({**MINE, 'sigmas': np.ones(17)}, 'expected as many sigmas as .*, 5, found 17'),
    ],
)
def test_a_dataset_meta_that_does_not_fit_the_model_is_an_error(
    top_down: TinyModel, tmp_path, meta, message
):
    checkpoint = load_checkpoint(top_down.weights)
    with pytest.raises(CheckpointError, match=f'weights: .*own.pth: {message}'):
        built_from({**checkpoint, 'meta': {'dataset_meta': meta}}, tmp_path / 'own.pth')


@pytest.mark.usefixtures('mmpose_scope')
@pytest.mark.parametrize('meta', [None, [], {}, {'dataset_meta': None}])
def test_without_a_dataset_meta_that_of_the_config_is_used(top_down: TinyModel, tmp_path, meta):
    state_dict = load_checkpoint(top_down.weights)['state_dict']
    model = built_from({'state_dict': state_dict, 'meta': meta}, tmp_path / 'own.pth')
    assert model.dataset_meta['dataset_name'] == 'coco'


@pytest.mark.usefixtures('mmpose_scope')
def test_averaged_weights_are_used_and_that_is_noted(top_down: TinyModel, tmp_path):
    """MMEngine's hook swaps them when it saves: ``state_dict`` has the averaged weights."""
    checkpoint = load_checkpoint(top_down.weights)
    averaged = {name: value + 1 for name, value in checkpoint['state_dict'].items()}
    hook = EMAHook()
    hook.ema_model = torch.nn.ModuleDict({'module': torch.nn.Module()})
    hook.ema_model.state_dict = lambda: {f'module.{k}': v for k, v in averaged.items()}
    hook.before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / 'ema.pth')
    model = build_model(top_down_config(), str(tmp_path / 'ema.pth'), 'cpu', ignore)
    name, parameter = next(iter(model.named_parameters()))
    assert torch.equal(parameter, averaged[name])
    (note,) = model.load_notes
    assert 'ema.pth: using state_dict, in which the EMAHook of MMEngine saves the averaged' in note


def test_a_home_folder_may_be_abbreviated(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'mine.py').write_text('answer = 42')
    assert load_config('~/mine.py')[0].answer == 42


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('model = dict(', 'SyntaxError: '),
        ("_base_ = 'no.py'", 'FileNotFoundError: '),
        ("custom_imports = dict(imports=['no_such_module'])", 'ImportError: .*no_such_module'),
        ('raise KeyError("mine")', 'KeyError: mine'),
        ('assert 0', 'AssertionError: assert 0'),
    ],
    ids=['syntax', 'base', 'custom_imports', 'an exception', 'an assertion'],
)
@pytest.mark.parametrize(('scope', 'option'), [('mmpose', 'model'), ('mmdet', 'det_model')])
def test_a_config_that_cannot_be_read_is_a_one_line_error(tmp_path, text, reason, scope, option):
    path = tmp_path / 'broken.py'
    path.write_text(text)
    with pytest.raises(ValueError) as raised:
        load_config(str(path), scope)
    line = f'{option}: {re.escape(str(path))} cannot be read as a config: {reason}.*'
    assert re.fullmatch(line, str(raised.value))
