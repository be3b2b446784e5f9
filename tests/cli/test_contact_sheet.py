"""The contact sheet shows every image completely, in order."""

from pathlib import Path

import pytest
from PIL import Image
from support.factories import Outcome, run_tool

COLORS = ('red', 'lime', 'blue')


def make_sheet(folder: Path, *options: object) -> Outcome:
    return run_tool(folder, *options, tool='contact_sheet')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / 'in'
    (folder / 'deep').mkdir(parents=True)
    for name, size, color in zip(
        ('a.png', 'b.png', 'deep/c.png'), ((40, 20), (20, 40), (30, 30)), COLORS, strict=True
    ):
        Image.new('RGB', size, color).save(folder / name)
    return folder


def test_files_that_are_not_images_are_skipped(folder, tmp_path):
    (folder / 'annotations.json').write_text('{}')
    out = tmp_path / 'sheet.png'
    assert make_sheet(folder, '--out', out, '--columns', 3, '--tile', 9).status == 0
    with Image.open(out) as sheet:
        assert sheet.size == (27, 9)


def test_images_come_in_reading_order(folder, tmp_path):
    out = tmp_path / 'new' / 'sheet.png'
    assert make_sheet(folder, '--out', out, '--columns', 2, '--tile', 50).status == 0
    with Image.open(out) as sheet:
        assert sheet.size == (100, 100)
        centers = [sheet.getpixel(place) for place in ((25, 25), (75, 25), (25, 75), (75, 75))]
        assert sheet.getpixel((25, 2)) == (255, 255, 255)  # next to a wide image
    assert centers == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def test_the_number_of_images_is_limited(folder, tmp_path):
    out = tmp_path / 'sheet.png'
    assert make_sheet(folder, '--out', out, '--images', 1, '--tile', 9).status == 0
    with Image.open(out) as sheet:
        assert sheet.size == (9, 9)


@pytest.mark.parametrize(
    ('more', 'status', 'message'),
    [
        (['--images', '0'], 2, '--images: expected an integer >= 1, found 0'),
        (['--columns', '-1'], 2, '--columns'),
        (['--tile', '0'], 2, '--tile'),
        (['--out', '/proc/nowhere/sheet.png'], 1, 'contact_sheet: '),
    ],
)
def test_wrong_arguments_are_one_line(folder, tmp_path, more, status, message):
    outcome = make_sheet(folder, '--out', tmp_path / 'sheet.png', *more)
    assert outcome.status == status
    assert message in outcome.err.splitlines()[-1]


@pytest.mark.parametrize(
    ('text', 'message'), [(None, 'no images in '), ('no image', 'cannot identify image file')]
)
def test_a_folder_without_images_is_one_line(tmp_path, text, message):
    folder = tmp_path / 'in'
    folder.mkdir()
    if text is not None:
        (folder / 'a.jpg').write_text(text)
    outcome = make_sheet(folder, '--out', tmp_path / 'sheet.png')
    assert outcome.status == 1
    assert outcome.err.startswith(f'contact_sheet: {message}')
