"""Optional packages: reported when they are missing, imported when they are used."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmpose_batch.engines.external_onnx import ExternalFile
from mmpose_batch.engines.optional import import_nncf, import_onnx, require
from mmpose_batch.engines.registry import get
from mmpose_batch.errors import EngineError


@pytest.fixture
def broken(tmp_path: Path, monkeypatch) -> Callable[[str], None]:
    """Provides an installed library that cannot be imported."""

    def broken(name: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text("raise ImportError('its own library is gone')")
        for module in [m for m in sys.modules if m.split('.')[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.syspath_prepend(tmp_path)

    return broken


def test_build_packages_are_not_imported_to_run(broken):
    """It would delay a warm start of an int8 engine by seconds."""
    pytest.importorskip('openvino')
    broken('onnx')
    broken('nncf')
    require(get('openvino'), 'int8')
    assert not {'onnx', 'nncf'} & sys.modules.keys()


@pytest.mark.parametrize(('name', 'use'), [('onnx', import_onnx), ('nncf', import_nncf)])
def test_a_package_that_cannot_be_imported_is_reported_when_it_is_used(broken, name, use):
    broken(name)
    with pytest.raises(EngineError, match=f'{name}, which .* cannot be imported: its own library'):
        use()


def test_an_external_file_cannot_be_read_without_onnx(broken, tmp_path):
    broken('onnx')
    with pytest.raises(
        EngineError, match='onnx, which is needed to build engines, cannot be imported'
    ):
        ExternalFile(str(tmp_path / 'network.onnx'))
