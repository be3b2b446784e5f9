"""The contact sheet shows every image completely, in order, and frames of videos."""

import sys
from pathlib import Path

import av
import numpy as np
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
        (['--videos', '0'], 2, '--videos'),
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


# -------------------------------------------------------------------------------- videos


def write_video(path: Path, frames: int = 9) -> Path:
    """A video of grey frames, which become lighter by 20 from each to the next."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=25, options={'crf': '0'})
        stream.width, stream.height, stream.pix_fmt = 32, 32, 'yuv420p'
        for number in range(frames):
            pixels = np.full((32, 32, 3), 40 + 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24')))
        container.mux(stream.encode(None))
    return path


def test_a_video_is_a_row_of_evenly_spaced_frames(folder, tmp_path):
    write_video(folder / 'b.mp4')
    out = tmp_path / 'sheet.png'
    assert make_sheet(folder, '--out', out, '--columns', 3, '--tile', 32).status == 0
    with Image.open(out) as sheet:
        assert sheet.size == (96, 64)  # the images come first
        centers = [sheet.getpixel((16 + 32 * column, 48)) for column in range(3)]
    assert [center[0] for center in centers] == pytest.approx([40, 120, 200], abs=3)


def test_inputs_may_be_files(folder, tmp_path):
    short = write_video(tmp_path / 'short.mp4', frames=2)
    inputs = short, folder / 'a.png', short  # named twice
    out = tmp_path / 'sheet.png'
    outcome = run_tool(*inputs, '--out', out, '--columns', 3, '--tile', 32, tool='contact_sheet')
    assert outcome.status == 0
    with Image.open(out) as sheet:
        assert sheet.size == (96, 64)
        assert sheet.getpixel((80, 48)) == (255, 255, 255)  # there are only two frames


def test_the_number_of_videos_is_limited(tmp_path):
    folder = tmp_path / 'in'
    folder.mkdir()
    for number in range(3):
        write_video(folder / f'{number}.mp4')
    out = tmp_path / 'sheet.png'
    assert make_sheet(folder, '--out', out, '--videos', 2, '--tile', 8).status == 0
    with Image.open(out) as sheet:
        assert sheet.size == (32, 16)


def test_a_file_that_is_not_a_video_is_one_line(tmp_path):
    (tmp_path / 'a.mp4').write_text('no video')
    outcome = make_sheet(tmp_path / 'a.mp4', '--out', tmp_path / 'sheet.png')
    assert outcome.status == 1
    assert outcome.err.startswith('contact_sheet: ')
    assert 'a.mp4' in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_videos_without_pyav_are_one_line(tmp_path, monkeypatch):
    path = write_video(tmp_path / 'a.mp4')
    monkeypatch.setitem(sys.modules, 'av', None)
    outcome = make_sheet(path, '--out', tmp_path / 'sheet.png')
    assert outcome.status == 1
    assert "pip install 'mmpose-batch[video]'" in outcome.err
