"""Every config builds an inferencer, with the weights that MMPose publishes for it."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmpose.registry import INFERENCERS

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.models.names import config_folder, load_config, own_configs

ALL = own_configs()
CONFIGS = {name: path for name, path in ALL.items() if 'data_mode' in Config.fromfile(path)}
PUBLISHED = [name for name in CONFIGS if not name.startswith('demo')]
OVERRIDES = {'custom_imports', 'inferencer'}


def build(path: str) -> BatchPose2DInferencer:
    cfg = Config.fromfile(path)
    settings = {'weights': 'none', 'device': 'cpu', 'det_model': 'whole_image'}
    return INFERENCERS.build({**cfg.inferencer, 'model': cfg, **settings})


def without_scope(node):
    """A config without the ``_scope_`` keys that a ``_base_`` of another package adds."""
    if isinstance(node, dict):
        return {key: without_scope(value) for key, value in node.items() if key != '_scope_'}
    return [without_scope(value) for value in node] if isinstance(node, list | tuple) else node


@pytest.mark.parametrize('name', CONFIGS)
def test_builds_an_inferencer(name):
    inferencer = build(CONFIGS[name])
    assert isinstance(inferencer, BatchPose2DInferencer)
    assert not inferencer.model.training


@pytest.mark.parametrize('name', PUBLISHED)
def test_weights_are_published_for_the_base_config(name):
    cfg, weights = load_config(name)
    assert weights == cfg.inferencer.weights
    folder = BaseInferencer._get_repo_or_mim_dir('mmpose')
    published = [
        entry['Config']
        for entry in BaseInferencer._get_models_from_metafile(folder)
        if entry['Weights'] == weights
    ]
    assert len(published) == 1
    base = Config.fromfile(str(Path(folder) / published[0]))
    ours = {key: value for key, value in cfg.items() if key not in OVERRIDES}
    assert without_scope(ours) == without_scope(base.to_dict())


def test_names_that_mmpose_has_too_mean_the_same_model():
    folder = BaseInferencer._get_repo_or_mim_dir('mmpose')
    aliases = {
        alias: entry['Weights']
        for entry in BaseInferencer._get_models_from_metafile(folder)
        for alias in np.atleast_1d(entry.get('Alias', []))
    }
    common = {name: load_config(name)[1] for name in PUBLISHED if name in aliases}
    assert common == {name: aliases[name] for name in common}
    assert 'rtmpose-l' in common


def test_readme_lists_every_config():
    text = (Path(config_folder()) / 'README.md').read_text(encoding='utf-8')
    listed = [line.split('`')[1] for line in text.splitlines() if line.startswith('| `')]
    assert sorted(listed) == sorted(ALL)


def test_runs_an_image():
    image = np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8)
    (result,) = build(CONFIGS['rtmpose-t'])(image, return_datasamples=True)
    instances = result['predictions'][0].pred_instances
    assert instances.keypoints.shape == (1, 17, 2)
    assert np.isfinite(instances.keypoints).all()
