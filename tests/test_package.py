"""Importing the package registers the inferencer, and loads only what is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mmpose_batch

LIGHT = """
import sys
import mmpose_batch
import mmpose_batch.cores, mmpose_batch.memory, mmpose_batch.scenes
loaded = [name for name in ('torch', 'mmcv', 'mmengine', 'mmdet', 'mmpose') if name in sys.modules]
assert not loaded, loaded
"""
REGISTERED = """
from mmpose_batch import build_inferencer  # the first that imports MMPose
from mmpose.registry import INFERENCERS
found = INFERENCERS.get('BatchPose2DInferencer')
assert found is mmpose_batch.BatchPose2DInferencer
assert 'torchvision' in sys.modules
"""
# MMPose is imported first.
AFTER_MMPOSE = """
for name in [name for name in sys.modules if name.split('.')[0] == 'mmpose_batch']:
    del sys.modules[name]
del INFERENCERS.module_dict['BatchPose2DInferencer']
import mmpose_batch
again = INFERENCERS.get('BatchPose2DInferencer')
assert again is mmpose_batch.BatchPose2DInferencer is not found
"""


def test_nothing_heavy_is_imported_and_mmpose_finds_the_inferencer_before_and_after():
    script = LIGHT + REGISTERED + AFTER_MMPOSE
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_inferencer_does_not_import_those_of_mmpose():
    """Importing those registers ours, so that a module would be imported while half loaded."""
    folder = Path(mmpose_batch.__file__).parent
    importing = {
        path.name
        for path in folder.rglob('*.py')
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('mmpose.apis')
    }
    assert importing == {'inferencer.py'}


def test_every_exported_name_exists():
    for name in mmpose_batch.__all__:
        assert getattr(mmpose_batch, name) is not None
    assert set(mmpose_batch.__all__) <= set(dir(mmpose_batch))
    assert mmpose_batch.errors.SourceError is mmpose_batch.SourceError
    with pytest.raises(AttributeError, match="'mmpose_batch' has no attribute 'Inferencer'"):
        mmpose_batch.Inferencer  # noqa: B018
