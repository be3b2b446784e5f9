"""A torchvision that is missing or broken is replaced, one that works is not.

Each case needs a separate process that has not imported torchvision yet. To save seconds of
imports, it loads only the file under test, with an empty module as torch.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmpose_batch.models import compat
from mmpose_batch.models.compat import ToPILImage

SCRIPT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location('compat', {path!r})
compat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compat)
{before}
compat.provide_torchvision()
import torchvision
from torchvision.transforms import ToPILImage
import torchvision.transforms as transforms
print(torchvision.__version__, ToPILImage is compat.ToPILImage, transforms.ToPILImage is ToPILImage)
print(sorted(name for name in sys.modules if name.startswith('torchvision')))
print(importlib.util.find_spec('torchvision').name)
"""

STAND_IN = ['0.0.0 True True', "['torchvision', 'torchvision.transforms']", 'torchvision']


def run(folder: Path, before: str = '') -> list[str]:
    (folder / 'torch.py').write_text('class Tensor:\n    pass\n')
    script = SCRIPT.format(path=compat.__file__, before=before)
    environment = {**os.environ, 'PYTHONPATH': str(folder)}
    process = subprocess.run(
        [sys.executable, '-c', script], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def package(folder: Path, **files: str) -> Path:
    (folder / 'torchvision').mkdir()
    for name, text in files.items():
        (folder / 'torchvision' / f'{name}.py').write_text(text)
    return folder


@pytest.mark.skipif(
    importlib.util.find_spec('torchvision') is not None
    and getattr(sys.modules.get('torchvision'), '__file__', None) is not None,
    reason='needs an environment without torchvision',
)
def test_a_missing_torchvision_is_replaced(tmp_path):
    assert run(tmp_path) == STAND_IN


@pytest.mark.parametrize(
    'raised',
    [
        "RuntimeError('operator torchvision::nms does not exist')",
        "OSError('libcudart.so.12: cannot open shared object file')",
        "ImportError('undefined symbol')",
        "AttributeError('partially initialized module torchvision has no attribute extension')",
    ],
)
def test_a_torchvision_that_fails_on_import_is_replaced(tmp_path, raised):
    init = 'from . import extension, transforms'
    folder = package(tmp_path, __init__=init, extension='', transforms=f'raise {raised}')
    assert run(folder) == STAND_IN


def test_a_torchvision_that_failed_before_is_replaced(tmp_path):
    # As in torchvision's own __init__: its extension stays in sys.modules, but is not an attribute
    # of the package at the second import, which therefore fails with another error.
    init = 'from .extension import loaded\nimport torchvision\ntorchvision.extension\nraise OSError'
    folder = package(tmp_path, __init__=init, extension='loaded = True')
    before = 'try:\n    import torchvision\nexcept OSError:\n    pass'
    assert run(folder, before) == STAND_IN


def test_a_working_torchvision_is_not_replaced(tmp_path):
    folder = package(
        tmp_path,
        __init__="__version__ = '0.99'\nfrom . import transforms",
        transforms='class ToPILImage:\n    pass',
    )
    assert run(folder)[0] == '0.99 False True'


@pytest.mark.parametrize('shape', [(3, 5), (1, 3, 5)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_float_map_becomes_a_grey_image(shape, dtype):
    values = torch.linspace(0, 1, 15, dtype=dtype).reshape(shape)
    image = ToPILImage()(values)
    assert (image.mode, image.size) == ('L', (5, 3))
    expected = np.floor(np.linspace(0, 1, 15) * 255)
    assert np.abs(np.asarray(image).ravel() - expected).max() <= 1  # rounding of the product


@pytest.mark.parametrize(
    ('value', 'error'),
    [
        (np.zeros((3, 5)), TypeError),
        (torch.zeros(3, 5, dtype=torch.uint8), TypeError),
        (torch.zeros(3, 3, 5), ValueError),
    ],
    ids=['array', 'integers', 'colours'],
)
def test_unsupported_inputs_of_the_stand_in_are_errors(value, error):
    with pytest.raises(error, match='expected'):
        ToPILImage()(value)
