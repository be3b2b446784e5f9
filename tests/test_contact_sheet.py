"""The contact sheet shows every image whole, in order."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

TOOL = Path(__file__).resolve().parents[1] / 'tools' / 'contact_sheet.py'
COLORS = ('red', 'lime', 'blue')


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location('contact_sheet', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / 'in'
    (folder / 'deep').mkdir(parents=True)
    for name, size, color in zip(
        ('a.png', 'b.png', 'deep/c.png'), ((40, 20), (20, 40), (30, 30)), COLORS, strict=True
    ):
        Image.new('RGB', size, color).save(folder / name)
    return folder


def test_images_come_in_reading_order(tool, folder, tmp_path):
    out = tmp_path / 'new' / 'sheet.png'
    assert tool.main([str(folder), '--out', str(out), '--columns', '2', '--tile', '50']) == 0
    with Image.open(out) as sheet:
        assert sheet.size == (100, 100)
        centers = [sheet.getpixel(place) for place in ((25, 25), (75, 25), (25, 75), (75, 75))]
        assert sheet.getpixel((25, 2)) == (255, 255, 255)  # beside a wide image
    assert centers == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def test_no_more_images_than_asked_for(tool, folder, tmp_path):
    out = tmp_path / 'sheet.png'
    assert tool.main([str(folder), '--out', str(out), '--images', '1', '--tile', '9']) == 0
    with Image.open(out) as sheet:
        assert sheet.size == (9, 9)


@pytest.mark.parametrize(
    ('more', 'status', 'message'),
    [
        (['--images', '0'], 2, '--images: expected a number from 1, found 0'),
        (['--columns', '-1'], 2, '--columns'),
        (['--tile', '0'], 2, '--tile'),
        (['--out', '/proc/nowhere/sheet.png'], 1, 'contact_sheet: '),
    ],
)
def test_wrong_arguments_are_one_line(tool, folder, tmp_path, capsys, more, status, message):
    try:
        found = tool.main([str(folder), '--out', str(tmp_path / 'sheet.png'), *more])
    except SystemExit as stop:
        found = stop.code
    assert found == status
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize('text', [None, 'no image'])
def test_a_folder_without_images_is_one_line(tool, tmp_path, capsys, text):
    folder = tmp_path / 'in'
    folder.mkdir()
    if text is not None:
        (folder / 'a.jpg').write_text(text)
    assert tool.main([str(folder), '--out', str(tmp_path / 'sheet.png')]) == 1
    assert 'contact_sheet: ' in capsys.readouterr().err
