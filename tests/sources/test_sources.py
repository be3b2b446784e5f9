"""Inputs become frames: their selection, order and names."""

import contextlib
import errno
import glob
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny import picture

from mmpose_batch.errors import ImageError, SourceError
from mmpose_batch.sources import folders, live
from mmpose_batch.sources.base import CHUNK, Frame, in_chunks
from mmpose_batch.sources.files import list_inputs
from mmpose_batch.sources.folders import Skipped, is_input, list_images
from mmpose_batch.sources.inputs import open_source
from mmpose_batch.sources.numbering import number
from mmpose_batch.sources.registry import specs
from mmpose_batch.workers import CHUNK_END, FLUSH, Marker


def frames_of(inputs: Any) -> list[Frame]:
    return [item for item in open_source(inputs) if not isinstance(item, Marker)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of files, which is the working directory."""
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
SUB = ['sub/a.PNG', 'sub/c.jpeg', 'sub/deep/d.webp', 'sub/film.mp4']


@pytest.mark.parametrize(
    ('inputs', 'expected'),
    [
        pytest.param(['in'], [*ALL, *SUB], id='a folder and its subfolders'),
        pytest.param(['in/'], [*ALL, *SUB], id='with a slash'),
        pytest.param(['./in/../in'], [*ALL, *SUB], id='by another path'),
        pytest.param(['in/sub', 'in/b.jpg'], [*SUB, 'b.jpg'], id='in the order given'),
        pytest.param(['in/b.jpg', 'in', 'in/sub'], ['b.jpg', *ALL[:2], ALL[3], *SUB], id='once'),
        pytest.param(['in/*.jpg'], ['b.jpg', 'space and ümlaut.jpg'], id='a glob'),
        pytest.param(['in/**/*.PNG'], ['a.PNG', 'sub/a.PNG'], id='a glob through folders'),
        pytest.param(['in/s*'], ['space and ümlaut.jpg'], id='a glob skips folders'),
        pytest.param(['in/notes.txt'], ['notes.txt'], id='a named file is used'),
    ],
)
def test_inputs_are_listed(folder, inputs, expected):
    assert list_inputs(inputs) == [os.path.join('in', name) for name in expected]


def test_a_folder_without_its_subfolders(folder):
    assert list_inputs(['in'], recursive=False) == [os.path.join('in', name) for name in ALL]


@pytest.mark.parametrize('content', ['in/b.jpg\n\n  in/a.PNG  \n# no.jpg\nin/b.jpg\nmissing.jpg'])
def test_a_list_has_one_path_per_line(folder, content):
    Path('list.txt').write_text(content, encoding='utf-8')
    # A missing file stays in the list and becomes a failure record.
    assert list_inputs(['@list.txt']) == ['in/b.jpg', 'in/a.PNG', 'missing.jpg']


def test_a_list_may_name_folders(folder):
    Path('list.txt').write_text('in\n')
    assert list_inputs(['@list.txt']) == list_inputs(['in'])
    assert len(list_inputs(['in'])) > 1


def test_a_glob_skips_files_that_are_not_images(folder):
    Path('in/notes.txt').write_text('')
    found = list_inputs(['in/*'])
    assert found
    assert not any(path.endswith('.txt') for path in found)


def test_a_file_whose_name_starts_with_an_at_sign_is_not_a_list(folder):
    Path('@photo.jpg').touch()
    assert list_inputs(['@photo.jpg']) == ['@photo.jpg']


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        pytest.param(['in', 'missing'], 'no such file or folder: missing', id='a path'),
        pytest.param(['in/*.gif'], 'no such file or folder: in/*.gif', id='a glob'),
        pytest.param(['i*'], 'no images or videos match i*', id='a glob of folders'),
        pytest.param(['@missing.txt'], 'the list missing.txt cannot be read', id='a list'),
    ],
)
def test_inputs_that_match_nothing_are_an_error(folder, inputs, message):
    with pytest.raises(SourceError) as raised:
        list_inputs(inputs)
    assert message in str(raised.value)


def test_links_and_special_files_in_a_folder(folder):
    (folder / 'again').symlink_to(folder / 'sub')  # its files would be listed twice
    (folder / 'loop').symlink_to(folder)  # an endless recursion
    (folder / 'link.jpg').symlink_to(folder / 'b.jpg')
    # They have suffixes of images, so they are inputs that fail.
    (folder / 'folder.jpg').symlink_to(folder / 'sub')
    (folder / 'dangling.jpg').symlink_to(folder / 'nowhere')
    os.mkfifo(folder / 'pipe.jpg')
    more = ['dangling.jpg', 'folder.jpg', 'link.jpg', 'pipe.jpg']
    listed = list_inputs(['in'])
    assert sorted(listed) == sorted(os.path.join('in', name) for name in (*ALL, *SUB, *more))


# --------------------------------------------------------------------------- list files


def listed(content: str | bytes) -> list[str]:
    """Paths in a list file with this content."""
    data = content if isinstance(content, bytes) else content.encode(errors='surrogateescape')
    Path('list.txt').write_bytes(data)
    return list_inputs(['@list.txt'])


@pytest.mark.parametrize(
    'name',
    [
        *('#1.jpg', '# 1.jpg', ' #1.jpg', '@a.jpg', '@list.txt', '*.jpg', '[a].jpg', '"a".jpg'),
        *(
            'a ',
            ' a',
            ' a.jpg ',
            '\ta.jpg',
            'a.jpg\u00a0',
            ' ',
            'a\r',
            'a\rb',
            'a\x85b',
            'a\u2028b',
        ),
        *('\udcff.jpg', '~', '$HOME', 'webcam.jpg', '-', 'a\\b', 'file:a', 'a%20b'),
    ],
    ids=ascii,
)
@pytest.mark.parametrize('end', ['\n', '\r\n', ''], ids=['LF', 'CR LF', 'no line end'])
def test_a_list_can_name_every_file(tmp_path, monkeypatch, name, end):
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    assert listed(name + end) == [name]


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        pytest.param('  a.jpg \t\n', ['a.jpg'], id='blanks around a name that has none'),
        pytest.param('b.jpg \nb.jpg\n', ['b.jpg ', 'b.jpg'], id='with and without the blank'),
        pytest.param('a.jpg\r\n\r\nb.jpg\r\n', ['a.jpg', 'b.jpg'], id='CR LF'),
        pytest.param('#a.jpg\n # b.jpg\n#\n', [], id='comments'),
        pytest.param('\n \n\t\n', [], id='empty lines'),
        pytest.param(' none.jpg \r\n', [' none.jpg '], id='a missing file stays as written'),
        pytest.param('*.jpg\n@a.jpg\n', ['*.jpg', '@a.jpg'], id='neither globs nor lists'),
        pytest.param('\ufeffa.jpg\n', ['a.jpg'], id='UTF-8 with a byte order mark'),
        pytest.param('a.jpg\r\nü\r\n'.encode('utf-16'), ['a.jpg', 'ü'], id='UTF-16'),
        pytest.param('c\nd\0 a.jpg\0#x\0', ['c\nd', ' a.jpg', '#x'], id='NUL bytes'),
    ],
)
def test_lines_of_a_list(tmp_path, monkeypatch, content, expected):
    monkeypatch.chdir(tmp_path)
    for name in ('a.jpg', 'b.jpg', 'b.jpg ', 'c\nd'):
        Path(name).touch()
    assert listed(content) == expected


def test_a_list_that_is_not_text_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r'the list list.txt is not text'):
        listed(b'\xff\xfea')


def test_a_path_through_a_linked_folder_keeps_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs('other/folder')
    for name in ('a.jpg', 'other/a.jpg'):
        Path(name).touch()
    Path('link').symlink_to('other/folder')
    first, second = list_inputs(['a.jpg', 'link/../a.jpg'])
    assert os.path.samefile(second, 'other/a.jpg')
    assert not os.path.samefile(first, second)


# ---------------------------------------------------------------------------- deep folders


DEEP = 1200


@pytest.fixture(scope='module')
def deep() -> Iterator[Path]:
    """A folder tree 1,200 deep, with further levels whose paths are too long; files in three."""
    memory = '/dev/shm' if os.path.isdir('/dev/shm') else None  # a disk takes seconds
    top = Path(tempfile.mkdtemp(dir=memory))
    names = [*['d'] * DEEP, *['x' * 250] * 20]
    with contextlib.chdir(top):
        for depth, name in enumerate(names):
            if depth in (600, DEEP, DEEP + 19):
                Path('a.jpg').touch()
            os.mkdir(name)
            os.chdir(name)
    yield top
    with contextlib.chdir(top):  # level by level, since `shutil.rmtree` recurses
        for name in names:
            os.chdir(name)
        for name in reversed(names):
            os.chdir('..')
            os.rmdir(name)
            Path('a.jpg').unlink(missing_ok=True)
    top.rmdir()


def test_a_folder_may_be_deeper_than_the_recursion_limit(deep):
    files = [str(deep / ('d/' * depth) / 'a.jpg') for depth in (DEEP, 600)]
    *found, too_long = list_inputs([str(deep)])
    assert sorted(found) == sorted(files)
    # A folder with too long a path is a single input, which fails.
    with pytest.raises(OSError) as raised:
        os.scandir(too_long)
    assert raised.value.errno == errno.ENAMETOOLONG
    assert [frame.data for frame in frames_of(str(deep))] == [*found, too_long]


def test_a_glob_reaches_any_depth(deep):
    files = [str(deep / ('d/' * depth) / 'a.jpg') for depth in (DEEP, 600)]
    assert list_inputs([f'{deep}/**/*.jpg']) == sorted(files)


@pytest.mark.parametrize(
    ('pattern', 'expected'),
    [
        pytest.param('**/*.PNG', ['in/a.PNG', 'in/sub/a.PNG'], id='relative'),
        pytest.param('**', ['in/a.PNG', 'in/b.jpg', f'in/{ALL[3]}', *(f'in/{s}' for s in SUB)]),
        pytest.param('in/**/sub/**/*.webp', ['in/sub/deep/d.webp'], id='twice'),
        pytest.param('in/**/**/c.*', ['in/sub/c.jpeg'], id='found in two ways'),
        pytest.param('i*/**/deep/*', ['in/sub/deep/d.webp'], id='after a wildcard'),
        pytest.param('in/**.jpg', ['in/b.jpg', f'in/{ALL[3]}'], id='no component of its own'),
    ],
)
def test_globs_match_as_those_of_python(folder, pattern, expected):
    (folder / 'loop').symlink_to('loop')
    (folder / '.git').mkdir()
    (folder / '.git' / 'a.jpg').touch()
    assert list_inputs([pattern]) == expected
    matched = set(glob.glob(pattern, recursive=True))
    assert matched & set(expected) == set(expected)
    assert {p for p in matched if is_input(p)} == set(expected)


class Unknown:
    """Stands in for an entry whose type the system cannot determine."""

    name, path = 'unknown', 'in/unknown'

    def is_dir(self, follow_symlinks: bool) -> bool:
        raise OSError(errno.EIO, 'Input/output error')


@pytest.mark.parametrize('recursive', [True, False])
def test_an_entry_of_unknown_kind_is_an_input_that_fails(monkeypatch, recursive):
    def entries(folder: str) -> Iterator[Unknown]:
        if folder == Unknown.path:
            raise OSError(errno.EIO, 'Input/output error')
        return iter([Unknown()])

    monkeypatch.setattr(folders, '_entries', entries)
    assert list(list_images('in', recursive)) == [Unknown.path]


def test_a_walk_opens_folders_lazily(folder, monkeypatch):
    opened = []
    scandir = os.scandir

    def counted(path: str) -> Any:
        opened.append(path)
        return scandir(path)

    monkeypatch.setattr(folders.os, 'scandir', counted)
    images = list_images('in')
    assert [next(images) for _ in ALL] == [os.path.join('in', name) for name in ALL]
    assert opened == ['in']


def test_folders_are_walked_in_the_order_of_their_names(tmp_path):
    names = ['a.jpg', 'b/a.jpg', 'b/b/z.jpg', 'b/c.jpg', 'b.jpg', 'c/a.jpg', 'd.jpg']
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(list_images(str(tmp_path))) == [str(tmp_path / name) for name in names]


# ----------------------------------------------------------------------------- skipped files

SIDECARS = [
    *('._a.jpg', 'sub/._b.png', '__MACOSX/in/x.jpg', 'sub/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg'),
    *('.ipynb_checkpoints/a-checkpoint.png', '.AppleDouble/a.jpg', '.@__thumb/a.jpg'),
]


@pytest.fixture
def sidecars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ('a.jpg', 'sub/b.png', *SIDECARS):
        path = tmp_path / 'in' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'in'


@pytest.mark.parametrize('text', ['in', 'in/**', 'in/**/*', 'in/**/*.*g'])
def test_sidecars_are_not_images(sidecars, text):
    assert list_inputs([text]) == ['in/a.jpg', 'in/sub/b.png']


@pytest.mark.parametrize('name', SIDECARS)
def test_a_named_sidecar_is_used(sidecars, name):
    path = os.path.join('in', name)
    assert list_inputs([path]) == [path]
    assert listed(path) == [path]


@pytest.mark.parametrize('text', ['in/__MACOSX', 'in/__MACOSX/**/*.jpg', 'in/__MACOSX/*/*'])
def test_a_named_folder_of_sidecars_is_walked(sidecars, text):
    assert list_inputs([text]) == ['in/__MACOSX/in/x.jpg']


def skipped(inputs: Sequence[str], **options: Any) -> str:
    collector = Skipped()
    assert list_inputs(inputs, skipped=collector, **options) == list_inputs(inputs, **options)
    return str(collector)


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        pytest.param([], 'nothing', id='nothing'),
        pytest.param(['a.nef', 'b.NEF', 'd/c.nef', 'n.txt'], '3 .nef, 1 .txt', id='suffixes'),
        pytest.param(['a.txt', 'b.zip', 'c.zip'], '2 .zip, 1 .txt', id='most first'),
        pytest.param(['README', 'b.', 'a.'], '2 ., 1 no suffix', id='no suffix'),
        pytest.param(
            ['.DS_Store', '._a.jpg', '@eaDir/a/b.jpg', '@eaDir/c'], '3 hidden', id='hidden'
        ),
        pytest.param(['l/'], '1 linked folder', id='a linked folder'),
        pytest.param(['l/', 'm/', 'x.txt'], '1 .txt, 2 linked folders', id='linked folders'),
        pytest.param(
            [f'log.{n}' for n in range(9)],
            '1 .0, 1 .1, 1 .2, 1 .3, 1 .4, 4 with other suffixes',
            id='many suffixes',
        ),
        pytest.param(['a.x\ny', 'b.\udcff'], '1 .x?y, 1 .?', id='suffixes that are no text'),
    ],
)
def test_skipped_files_of_a_walk_are_counted(tmp_path, names, expected):
    (tmp_path / 'elsewhere').mkdir()
    for name in ('a.jpg', *names):
        path = tmp_path / 'in' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith('/'):
            path.symlink_to(tmp_path / 'elsewhere')
        else:
            path.touch()
    assert skipped([str(tmp_path / 'in')]) == f'skipped: {expected}'


def test_sidecars_that_a_glob_reaches_are_counted(sidecars):
    assert skipped(['in/**']) == 'skipped: 2 hidden'


def test_skipped_files_of_globs_lists_and_single_folders_are_counted(folder):
    assert skipped(['in/*']) == 'skipped: 1 .txt, 1 no suffix'
    assert skipped(['in'], recursive=False) == 'skipped: 1 .txt, 1 no suffix'
    Path('list.txt').write_text('in')
    assert skipped(['@list.txt']) == 'skipped: 1 .txt, 1 no suffix'
    assert skipped(['in/notes.txt']) == 'skipped: nothing'


def test_a_count_is_true_where_something_was_skipped():
    some = Skipped()
    some.add('in/a.txt')
    assert some
    assert not Skipped()


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
def test_outputs_are_named_by_the_path_below_the_common_folder(
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
    assert frame.data == path


def test_arrays_are_named_as_by_upstream():
    frames = list(number([picture(4, 4), 'x/a.jpg', picture(4, 4)]))
    assert [frame.name for frame in frames] == ['000000.jpg', 'a.jpg', '000002.jpg']
    assert [frame.path for frame in frames] == ['000000.jpg', 'x/a.jpg', '000002.jpg']
    assert [frame.index for frame in frames] == [0, 1, 2]


def test_an_item_of_another_type_is_an_error_with_its_position():
    frames = number(['a.jpg', 5])
    next(frames)
    with pytest.raises(SourceError, match='expected paths or arrays, found int at 1'):
        next(frames)


DATA = cv2.imencode('.jpg', picture(8, 8))[1].tobytes()


@pytest.mark.parametrize(
    ('item', 'advice'),
    [
        pytest.param(
            DATA, 'found bytes{}: an encoded image becomes an array by cv2.imdecode(', id='bytes'
        ),
        pytest.param(bytearray(DATA), 'found bytearray{}: an encoded image', id='bytearray'),
        pytest.param(memoryview(DATA), 'found memoryview{}: an encoded image', id='memoryview'),
        pytest.param(torch.zeros(3, 4, 5), 'found Tensor{}: an image (3, H, W)', id='tensor'),
        pytest.param(torch.nn.Parameter(torch.zeros(1)), 'found Parameter{}: an im', id='subclass'),
        pytest.param(Image.new('L', (4, 5)), 'found Image{}: it becomes an array by', id='PIL'),
    ],
)
def test_other_forms_of_an_image_are_an_error_with_advice(item, advice):
    with pytest.raises(SourceError, match=re.escape(advice.format(' at 1'))):
        list(open_source(iter(['a.jpg', item])))
    with pytest.raises(SourceError, match=re.escape(advice.format(' at 1'))):
        list(open_source(['a.jpg', item]))
    with pytest.raises(SourceError, match=re.escape(advice.format(''))):
        open_source(item)


def test_the_advice_for_bytes_and_images_yields_the_same_image_as_a_file(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(DATA)
    expected = cv2.imread(str(tmp_path / 'a.jpg'))
    names = {'np': np, 'cv2': cv2, 'data': DATA, 'image': Image.open(tmp_path / 'a.jpg')}
    advised = [
        'cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)',
        "cv2.cvtColor(np.array(image.convert('RGB')), cv2.COLOR_RGB2BGR)",
        'tensor.flip(0).permute(1, 2, 0).byte().cpu().numpy()',
    ]
    names['tensor'] = torch.from_numpy(expected[..., ::-1].copy()).permute(2, 0, 1)
    given = [names['data'], names['image'], names['tensor']]
    for item, text in zip(given, advised, strict=True):
        with pytest.raises(SourceError, match=re.escape(text)):
            open_source(item)
        found = eval(text, names)
        assert found.dtype == np.uint8
        assert np.abs(found.astype(int) - expected).max() <= 2  # decoders round differently


@pytest.mark.parametrize('group', [['a.jpg'], ('a.jpg', 'b.jpg'), (x for x in 'a')], ids=type)
def test_groups_of_images_are_an_error_with_advice(group):
    message = f'found {type(group).__name__} at 0: for images in groups, itertools.chain'
    with pytest.raises(SourceError, match=message):
        list(open_source([group]))


def test_a_path_of_bytes_is_an_error_with_its_position(folder):
    with os.scandir(b'in') as entries:
        entry = next(entries)
    with pytest.raises(SourceError, match=r'found bytes at 1: .* os.fsdecode'):
        list(open_source(['in/b.jpg', entry]))
    with pytest.raises(SourceError, match=r'found bytes: .* os.fsdecode'):
        open_source(entry)


# --------------------------------------------------------------------------- open_source


@pytest.mark.parametrize(
    ('inputs', 'paths', 'length'),
    [
        pytest.param('in/b.jpg', ['in/b.jpg'], 1, id='file'),
        pytest.param(Path('in/b.jpg'), ['in/b.jpg'], 1, id='Path'),
        pytest.param('in/sub/deep', ['in/sub/deep/d.webp'], 1, id='folder'),
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
    frames = [item for item in source if not isinstance(item, Marker)]
    assert [frame.data for frame in frames] == paths
    assert [frame.index for frame in frames] == list(range(len(paths)))


def test_one_array_is_one_frame():
    image = picture(5, 4)
    (frame,) = frames_of(image)
    assert frame.data is image


def test_a_stream_is_not_read_ahead():
    taken = []

    def stream() -> Iterator[str]:
        for index in range(1_000_000):
            taken.append(index)
            yield f'{index}.jpg'

    frames = iter(open_source(stream()))
    assert taken == []
    next(frames)
    assert taken == [0]


@pytest.mark.parametrize('inputs', [5, None, object()])
def test_inputs_of_another_type_are_an_error(inputs):
    with pytest.raises(SourceError, match='expected a path, an array, or an iterable'):
        open_source(inputs)


class Lazy(Sequence):
    """Three images of one colour each, created in one buffer when they are requested."""

    def __init__(self) -> None:
        self.buffer = np.empty((3, 4, 3), np.uint8)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> np.ndarray:
        if index >= 3:
            raise IndexError(index)
        self.buffer[:] = index
        return self.buffer


@pytest.mark.parametrize(
    'make',
    [
        pytest.param(lambda: (image for image in Lazy()), id='generator'),
        pytest.param(lambda: map(lambda image: image[:, ::-1], Lazy()), id='views of it'),
        pytest.param(lambda: map(lambda image: image.view(np.memmap), Lazy()), id='subclass'),
        pytest.param(Lazy, id='sequence that is no list'),
    ],
)
def test_frames_of_a_producer_with_one_buffer_are_copied(make):
    frames = frames_of(make())
    assert [np.unique(frame.data).tolist() for frame in frames] == [[0], [1], [2]]
    assert all(frame.data.shape == (3, 4, 3) for frame in frames)


@pytest.mark.parametrize('kind', [list, tuple])
def test_arrays_that_exist_at_the_same_time_are_not_copied(kind):
    images = kind(picture(5, 4) for _ in range(3))
    frames = frames_of(images)
    assert all(f.data is image for f, image in zip(frames, images, strict=True))


@pytest.mark.parametrize('name', ['webcam.jpg', 'webcam_1'])
def test_a_file_named_like_a_camera_is_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    assert [frame.data for frame in frames_of(name)] == [name]


def test_a_missing_path_is_an_error_when_it_is_opened(tmp_path):
    with pytest.raises(SourceError, match='no such file or folder'):
        open_source(str(tmp_path / 'missing.jpg'))


# ------------------------------------------------------------------------ video and camera


def write_video(path: Path, count: int) -> str:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 12, (64, 48))
    for index in range(count):
        writer.write(np.full((48, 64, 3), 20 * index % 256, np.uint8))
    writer.release()
    return str(path)


def test_a_video_becomes_its_frames_in_order(tmp_path):
    source = open_source(write_video(tmp_path / 'film.mp4', 8))
    assert (source.sequential, source.live) == (True, False)
    assert (source.video_name, source.length, source.fps) == ('film.mp4', 8, 12)
    frames = [item for item in source if not isinstance(item, Marker)]
    assert {frame.name for frame in frames} == {'film.mp4'}
    assert [frame.frame_id for frame in frames] == list(range(8))
    greys = [frame.data.read().mean() for frame in frames]
    assert greys == sorted(greys)
    assert greys[-1] > greys[0] + 100


def test_a_video_that_cannot_be_read_is_a_failure(tmp_path):
    path = tmp_path / 'film.mp4'
    path.write_bytes(b'no film')
    (frame,) = frames_of(str(path))
    with pytest.raises(ImageError, match='expected a video, found 7 bytes'):
        frame.data.read()


class Camera:
    """Stands in for ``cv2.VideoCapture``, with three frames."""

    def __init__(self, number: int) -> None:
        self.number, self.left, self.released = number, 3, threading.Event()
        cameras.append(self)

    def isOpened(self) -> bool:
        return self.number < 2

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        images.append(picture(8, 6))
        return (True, images[-1]) if self.left >= 0 else (False, None)

    def get(self, property_id: int) -> float:
        return 30.0

    def release(self) -> None:
        self.released.set()


cameras: list[Camera] = []
images: list[np.ndarray] = []


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras.clear()
    images.clear()
    monkeypatch.setattr(live.cv2, 'VideoCapture', Camera)
    monkeypatch.setattr(live.cv2, 'waitKey', lambda delay: -1)


@pytest.mark.parametrize(('text', 'number'), [('webcam', 0), ('webcam:1', 1)])
def test_a_camera_flushes_every_frame(camera, text, number):
    source = open_source(text)
    assert (source.live, source.sequential, source.length) == (True, True, None)
    frames = list(source)
    assert len(frames) == 6 and frames[1::2] == [FLUSH] * 3
    assert cameras[0].number == number
    assert cameras[0].released.is_set()


def test_a_camera_is_released_when_its_frames_are_closed(camera):
    source = open_source('webcam')
    next(iter(source))
    del source
    assert cameras[0].released.is_set()


def test_frames_of_a_camera_are_not_copied(camera):
    frames = frames_of('webcam')
    assert [id(frame.data) for frame in frames] == list(map(id, images[: len(frames)])) != []


def test_escape_ends_the_camera_as_in_upstream(camera, monkeypatch):
    monkeypatch.setattr(live.cv2, 'waitKey', lambda delay: 27)
    assert list(open_source('webcam')) == []


@pytest.mark.parametrize('text', ['webcam:x', 'webcam:7'], ids=['no number', 'no camera'])
def test_a_missing_camera_is_an_error(camera, text):
    with pytest.raises(SourceError, match=r'webcam|camera 7'):
        open_source(text)


@pytest.mark.parametrize(
    ('start', 'count', 'ends'),
    [(0, 7, [3, 7, 9]), (3, 7, [3, 5]), (0, 6, [3, 7]), (0, 0, [])],
    ids=['a shorter one at the end', 'a resumed run', 'complete chunks', 'nothing'],
)
def test_every_chunk_has_an_end(start, count, ends):
    frames = list(number([np.zeros((2, 2, 3), np.uint8)] * count))[start:]
    assert [i for i, item in enumerate(in_chunks(frames, 3)) if item is CHUNK_END] == ends


@pytest.mark.parametrize('kind', [list, tuple, iter])
def test_inputs_of_known_length_are_split_into_chunks(kind):
    source = open_source(kind([np.zeros((2, 2, 3), np.uint8)] * (CHUNK + 1)))
    found = [i for i, item in enumerate(source) if item is CHUNK_END]
    assert found == ([] if kind is iter else [CHUNK, CHUNK + 2])


def test_a_video_is_split_into_chunks(tmp_path):
    path = write_video(tmp_path / 'film.mp4', CHUNK + 2)
    found = [i for i, item in enumerate(open_source(path)) if item is CHUNK_END]
    assert found == [CHUNK, CHUNK + 3]


def test_frames_of_a_video_have_its_id_and_time(tmp_path):
    path = write_video(tmp_path / 'film.mp4', 3)
    frames = frames_of(path)
    assert {frame.source_id for frame in frames} == {path}
    assert [frame.time for frame in frames] == pytest.approx([0, 1 / 12, 2 / 12])
    (frame,) = frames_of(picture(4, 4))
    assert (frame.source_id, frame.time) == ('', None)


def test_frames_of_a_camera_have_its_id_and_time(camera):
    frames = frames_of('webcam:1')
    assert {frame.source_id for frame in frames} == {'webcam:1'}
    assert 0 <= frames[0].time <= frames[1].time <= frames[2].time


# ---------------------------------------------------------------------------- the registry


@pytest.mark.parametrize(
    ('inputs', 'name'),
    [
        ('webcam', 'webcam'),
        ('webcam:3', 'webcam'),
        ('webcam:x', 'webcam'),
        ('in/sub/film.mp4', 'video'),
        ('in/missing.mp4', 'files'),
        ('in', 'files'),
        ('in/*.jpg', 'files'),
        ('https://host/a.jpg', 'files'),
        (picture(4, 4), 'arrays'),
        (['in/b.jpg', picture(4, 4)], 'arrays'),
        (iter([]), 'arrays'),
        (5, None),
        (b'bytes', None),
        (torch.zeros(3, 4, 4), None),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_first_source_that_recognises_an_input_opens_it(folder, inputs, name):
    recognised = [spec.name for spec in specs().values() if spec.recognises(inputs)]
    assert next(iter(recognised), None) == name


def test_the_documentation_lists_all_sources():
    guide = Path(__file__).parents[2] / 'docs' / 'guides' / 'python.md'
    rows = re.findall(r'^\| `(\w+)` \| (an? .+) \|$', guide.read_text(encoding='utf-8'), re.M)
    assert dict(rows) == {spec.name: spec.help for spec in specs().values()}
