"""What users name becomes frames: which, in which order, and under which names."""

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.tiny import picture

from mmpose_batch import sources
from mmpose_batch.sources import SourceError, list_inputs, number, open_source


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of files, and the working directory in it."""
    for name in (
        *('b.jpg', 'a.PNG', 'notes.txt', 'no_suffix', 'sub/c.jpeg', 'sub/a.PNG', 'sub/deep/d.webp'),
        *('space and ümlaut.jpg', '.hidden.jpg', 'sub/film.mp4'),
    ):
        path = tmp_path / 'in' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'in'


ALL = ['.hidden.jpg', 'a.PNG', 'b.jpg', 'space and ümlaut.jpg']
SUB = ['sub/a.PNG', 'sub/c.jpeg', 'sub/deep/d.webp']


@pytest.mark.parametrize(
    ('inputs', 'expected'),
    [
        pytest.param(['in'], [*ALL, *SUB], id='a folder and those in it'),
        pytest.param(['in/'], [*ALL, *SUB], id='with a slash'),
        pytest.param(['./in/../in'], [*ALL, *SUB], id='in a roundabout way'),
        pytest.param(['in/sub', 'in/b.jpg'], [*SUB, 'b.jpg'], id='in the order given'),
        pytest.param(['in/b.jpg', 'in', 'in/sub'], ['b.jpg', *ALL[:2], ALL[3], *SUB], id='once'),
        pytest.param(['in/*.jpg'], ['b.jpg', 'space and ümlaut.jpg'], id='a glob'),
        pytest.param(['in/**/*.PNG'], ['a.PNG', 'sub/a.PNG'], id='a glob through folders'),
        pytest.param(['in/s*'], ['space and ümlaut.jpg'], id='a glob passes over folders'),
        pytest.param(['in/notes.txt'], ['notes.txt'], id='a file that is named is taken'),
    ],
)
def test_inputs_are_listed(folder, inputs, expected):
    assert list_inputs(inputs) == [os.path.join('in', name) for name in expected]


def test_a_folder_alone_without_those_in_it(folder):
    assert list_inputs(['in'], recursive=False) == [os.path.join('in', name) for name in ALL]


@pytest.mark.parametrize('content', ['in/b.jpg\n\n  in/a.PNG  \n# no.jpg\nin/b.jpg\nmissing.jpg'])
def test_a_list_names_one_path_a_line(folder, content):
    Path('list.txt').write_text(content, encoding='utf-8')
    # A missing file stays: it becomes a failure record, not a hole.
    assert list_inputs(['@list.txt']) == ['in/b.jpg', 'in/a.PNG', 'missing.jpg']


def test_a_list_may_name_folders(folder):
    Path('list.txt').write_text('in\n')
    assert list_inputs(['@list.txt']) == list_inputs(['in'])
    assert len(list_inputs(['in'])) > 1


def test_a_glob_passes_over_what_is_no_image(folder):
    Path('in/notes.txt').write_text('')
    found = list_inputs(['in/*'])
    assert found
    assert not any(path.endswith('.txt') for path in found)


def test_a_file_whose_name_begins_with_an_at_sign_is_no_list(folder):
    Path('@photo.jpg').touch()
    assert list_inputs(['@photo.jpg']) == ['@photo.jpg']


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        pytest.param(['in', 'missing'], 'no such file or folder: missing', id='a path'),
        pytest.param(['in/*.gif'], 'no such file or folder: in/*.gif', id='a glob'),
        pytest.param(['i*'], 'no images match i*', id='a glob of folders'),
        pytest.param(['@missing.txt'], 'the list missing.txt cannot be read', id='a list'),
    ],
)
def test_inputs_that_name_nothing_are_an_error(folder, inputs, message):
    with pytest.raises(SourceError) as raised:
        list_inputs(inputs)
    assert message in str(raised.value)


def test_links_and_special_files_in_a_folder(folder):
    (folder / 'again').symlink_to(folder / 'sub')  # its files would come twice
    (folder / 'loop').symlink_to(folder)  # its files would never end
    (folder / 'link.jpg').symlink_to(folder / 'b.jpg')
    # Named like images, so they are inputs and get a failure record: nothing is silently missing.
    (folder / 'folder.jpg').symlink_to(folder / 'sub')
    (folder / 'dangling.jpg').symlink_to(folder / 'nowhere')
    os.mkfifo(folder / 'pipe.jpg')
    more = ['dangling.jpg', 'folder.jpg', 'link.jpg', 'pipe.jpg']
    listed = list_inputs(['in'])
    assert sorted(listed) == sorted(os.path.join('in', name) for name in (*ALL, *SUB, *more))


# ------------------------------------------------------------------------------- names


def names(items: Sequence[Any]) -> list[str]:
    return [frame.name for frame in number(items)]


@pytest.mark.parametrize(
    ('paths', 'expected'),
    [
        pytest.param(['x/a.jpg'], ['a.jpg'], id='one file'),
        pytest.param(['x/a.jpg', 'x/b.jpg'], ['a.jpg', 'b.jpg'], id='one folder'),
        pytest.param(['x/a.jpg', 'y/a.jpg'], ['x/a.jpg', 'y/a.jpg'], id='the same name'),
        pytest.param(['a.jpg', 'x/a.jpg'], ['a.jpg', 'x/a.jpg'], id='a folder and one in it'),
        pytest.param(['../a.jpg', 'x/a.jpg'], None, id='outside the working directory'),
        pytest.param(['/a.jpg', '/usr/a.jpg'], ['a.jpg', 'usr/a.jpg'], id='from the root'),
    ],
)
def test_outputs_are_named_by_the_path_below_what_all_inputs_share(
    tmp_path, monkeypatch, paths, expected
):
    monkeypatch.chdir(tmp_path)
    found = names(paths)
    assert expected is None or found == expected
    assert len(set(found)) == len(paths)
    assert not any(name.startswith(('/', '..')) for name in found)


@pytest.mark.parametrize('path', ['a.jpg', 'x/a.jpg', '../a.jpg', '/usr/a.jpg'])
def test_outputs_of_a_stream_stay_below_their_folder(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (frame,) = number(iter([path]))
    assert not frame.name.startswith(('/', '..'))
    assert frame.source == path


def test_arrays_are_named_as_stock_names_them():
    frames = list(number([picture(4, 4), 'x/a.jpg', picture(4, 4)]))
    assert [frame.name for frame in frames] == ['000000.jpg', 'a.jpg', '000002.jpg']
    assert [frame.path for frame in frames] == ['000000.jpg', 'x/a.jpg', '000002.jpg']
    assert [frame.index for frame in frames] == [0, 1, 2]


def test_an_item_of_another_type_is_an_error_that_says_where():
    frames = number(['a.jpg', 5])
    next(frames)
    with pytest.raises(SourceError, match='expected paths or arrays, found int at 1'):
        next(frames)


# --------------------------------------------------------------------------- open_source


@pytest.mark.parametrize(
    ('inputs', 'paths', 'length'),
    [
        pytest.param('in/b.jpg', ['in/b.jpg'], 1, id='file'),
        pytest.param(Path('in/b.jpg'), ['in/b.jpg'], 1, id='Path'),
        pytest.param('in/sub', [f'in/{name}' for name in SUB], 3, id='folder'),
        pytest.param('in/*.jpg', ['in/b.jpg', 'in/space and ümlaut.jpg'], 2, id='glob'),
        pytest.param(['in/b.jpg', Path('in/a.PNG')], ['in/b.jpg', 'in/a.PNG'], 2, id='list'),
        pytest.param(('in/b.jpg',), ['in/b.jpg'], 1, id='tuple'),
        pytest.param(iter(['in/b.jpg', 'x.jpg']), ['in/b.jpg', 'x.jpg'], None, id='stream'),
        pytest.param([], [], 0, id='nothing'),
        pytest.param('https://host/a.jpg?x=1', ['https://host/a.jpg?x=1'], 1, id='URL'),
        pytest.param('empty', [], 0, id='empty folder'),
    ],
)
def test_inputs_become_frames(folder, inputs, paths, length):
    Path('empty').mkdir()
    source = open_source(inputs)
    assert source.length == length
    assert (source.sequential, source.video_name) == (False, None)
    frames = list(source.frames)
    assert [frame.source for frame in frames] == paths
    assert [frame.index for frame in frames] == list(range(len(paths)))


def test_one_array_is_one_frame():
    image = picture(5, 4)
    (frame,) = open_source(image).frames
    assert frame.source is image


def test_a_stream_is_read_only_as_far_as_asked_for():
    taken = []

    def stream() -> Iterator[str]:
        for index in range(1_000_000):
            taken.append(index)
            yield f'{index}.jpg'

    frames = open_source(stream()).frames
    assert taken == []
    next(frames)
    assert taken == [0]


@pytest.mark.parametrize('inputs', [5, None, object()])
def test_inputs_of_another_type_are_an_error(inputs):
    with pytest.raises(SourceError, match='expected a path, an array, or an iterable'):
        open_source(inputs)


def test_a_missing_path_is_an_error_at_once(tmp_path):
    with pytest.raises(SourceError, match='no such file or folder'):
        open_source(str(tmp_path / 'missing.jpg'))


# ------------------------------------------------------------------------ video and camera


def write_video(path: Path, count: int) -> str:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 12, (64, 48))
    for index in range(count):
        writer.write(np.full((48, 64, 3), 20 * index, np.uint8))
    writer.release()
    return str(path)


def test_a_video_becomes_its_frames_in_order(tmp_path):
    source = open_source(write_video(tmp_path / 'film.mp4', 8))
    assert (source.sequential, source.camera) == (True, False)
    assert (source.video_name, source.length, source.fps) == ('film.mp4', 8, 12)
    frames = list(source.frames)
    assert [frame.name for frame in frames] == [f'{index:06}.jpg' for index in range(8)]
    greys = [frame.source.mean() for frame in frames]
    assert greys == sorted(greys)
    assert greys[-1] > greys[0] + 100


def test_a_file_that_is_only_named_like_a_video_is_an_error(tmp_path):
    path = tmp_path / 'film.mp4'
    path.write_bytes(b'no film')
    with pytest.raises(SourceError, match='expected a video'):
        open_source(str(path))


class Camera:
    """Stands in for ``cv2.VideoCapture``: three pictures, then nothing more."""

    def __init__(self, number: int) -> None:
        self.number, self.left, self.released = number, 3, threading.Event()
        cameras.append(self)

    def isOpened(self) -> bool:
        return self.number < 2

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, picture(8, 6)) if self.left >= 0 else (False, None)

    def get(self, property_id: int) -> float:
        return 30.0

    def release(self) -> None:
        self.released.set()


cameras: list[Camera] = []


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras.clear()
    monkeypatch.setattr(sources.cv2, 'VideoCapture', Camera)
    monkeypatch.setattr(sources.cv2, 'waitKey', lambda delay: -1)


@pytest.mark.parametrize(('text', 'number'), [('webcam', 0), ('webcam:1', 1)])
def test_a_camera_is_a_source_without_an_end(camera, text, number):
    source = open_source(text)
    assert (source.camera, source.sequential, source.length) == (True, True, None)
    assert len(list(source.frames)) == 3
    assert cameras[0].number == number
    assert cameras[0].released.is_set()


def test_a_camera_is_released_when_its_frames_are_no_longer_wanted(camera):
    source = open_source('webcam')
    next(iter(source.frames))
    del source
    assert cameras[0].released.is_set()


def test_escape_ends_the_camera_as_in_stock(camera, monkeypatch):
    monkeypatch.setattr(sources.cv2, 'waitKey', lambda delay: 27)
    assert list(open_source('webcam').frames) == []


@pytest.mark.parametrize('text', ['webcam:x', 'webcam:7'], ids=['no number', 'no camera'])
def test_a_camera_that_is_not_there_is_an_error(camera, text):
    with pytest.raises(SourceError, match=r'webcam|camera 7'):
        open_source(text)
