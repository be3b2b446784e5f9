"""The inputs of a run on a cluster: listed once, in files that all nodes read."""

from pathlib import Path

import pytest

pytest.importorskip('fsspec')

from mmpose_batch.cluster.files import ClusterFolder
from mmpose_batch.cluster.inputs import (
    PART,
    Inputs,
    image_chunk,
    list_paths,
    name_of,
    read_inputs,
    read_offsets,
    videos_of,
    write_inputs,
)
from mmpose_batch.errors import RunError, SourceError
from mmpose_batch.sources.numbering import number


@pytest.fixture(params=['folder', 'memory'])
def folder(request, tmp_path) -> ClusterFolder:
    """An output folder on this machine, and one in an object store."""
    if request.param == 'folder':
        return ClusterFolder(str(tmp_path / 'out'))
    return ClusterFolder(f'memory://{tmp_path.name}/out')


def frames_of(folder: ClusterFolder, inputs: Inputs) -> list[tuple[int, str, str]]:
    """Index, path and name of all images, as workers read them."""
    offsets = read_offsets(folder)
    chunks = [image_chunk(folder, inputs, n, offsets[n]) for n in range(inputs.chunks)]
    return [(frame.index, frame.data, frame.name) for chunk in chunks for frame in chunk.images]


def test_paths_come_back_in_order_and_videos_last(folder):
    paths = [f'/data/a/{index}.jpg' for index in range(PART * 2 + 3)]
    paths.insert(1, '/data/b/clip.mp4')
    paths.append('/data/a/line\nend and \udcff.jpg')
    written = write_inputs(folder, iter(paths), chunk=2)
    assert read_inputs(folder) == written
    assert (written.images, written.videos, written.root) == (len(paths) - 1, 1, '/data')
    images = [path for path in paths if not path.endswith('.mp4')]
    found = frames_of(folder, written)
    assert [(index, path) for index, path, _ in found] == list(enumerate(images))
    assert videos_of(folder, written) == ['/data/b/clip.mp4']
    assert written.chunks > PART  # so there are two files of paths


@pytest.mark.parametrize(
    'paths',
    [
        ['/data/one.jpg'],
        ['/data/a.jpg', '/data/sub/b.jpg', '/data/sub/deep/c.mp4'],
        ['/data/ab/1.jpg', '/data/a/2.jpg'],
        ['/one/1.jpg', '/other/2.jpg'],
        ['/a\udcff/1.jpg', '/a\udcff/2\udcfe.jpg'],
    ],
)
def test_names_in_records_are_those_of_infer(folder, paths):
    written = write_inputs(folder, paths, chunk=4)
    names = {frame.data: frame.name for frame in number(paths)}
    assert {path: name_of(path, written.root) for path in paths} == names


@pytest.mark.parametrize(
    ('paths', 'names', 'remote'),
    [
        (['s3://b/a/1.jpg', 's3://b/2.jpg'], ['a/1.jpg', '2.jpg'], ('s3',)),
        (['s3://b/1.jpg', 's3://c/1.jpg'], ['b/1.jpg', 'c/1.jpg'], ('s3',)),
        (['s3://b/1.jpg', '/d/1.jpg'], ['s3://b/1.jpg', 'd/1.jpg'], ('s3',)),
    ],
)
def test_names_of_urls_are_unique(folder, paths, names, remote):
    written = write_inputs(folder, paths, chunk=4)
    assert [name_of(path, written.root) for path in paths] == names
    assert written.remote == remote


def test_a_listing_that_was_killed_is_not_there(folder):
    def killed():
        yield from (f'/data/{index}.jpg' for index in range(PART * 4 + 1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_inputs(folder, killed(), chunk=4)
    assert read_inputs(folder) is None


def test_a_damaged_index_is_an_error(folder):
    folder.write('inputs/index.json', b'{}')
    with pytest.raises(RunError, match=r'index.json is damaged'):
        read_inputs(folder)


@pytest.mark.parametrize('end', ['\n', '\r\n', '\0'])
def test_a_list_is_not_checked(tmp_path, end, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ['/none/a.jpg', 'b c.jpg', 's3://bucket/d.jpg', '/none/../e.jpg', 'file:///f.jpg']
    ignored = [] if end == '\0' else ['# a comment', '']
    (tmp_path / 'list.txt').write_bytes(end.join([*lines, *ignored]).encode())
    found = list(list_paths(['@list.txt']))
    assert found == ['/none/a.jpg', f'{tmp_path}/b c.jpg', 's3://bucket/d.jpg', '/e.jpg', '/f.jpg']
    assert list(list_paths(['@list.txt'], limit=2)) == found[:2]


def test_a_long_list_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr('mmpose_batch.cluster.inputs._BLOCK', 7)
    paths = [f'/data/{index:05d}.jpg' for index in range(100)]
    (tmp_path / 'list.txt').write_text('\n'.join(paths))
    assert list(list_paths([f'@{tmp_path}/list.txt'])) == paths


def test_a_missing_list_is_an_error(tmp_path):
    with pytest.raises(SourceError, match=r'the list .*none.txt does not exist'):
        list(list_paths([f'@{tmp_path}/none.txt']))


def test_a_folder_of_this_machine_is_listed_as_by_infer(two_photos, tmp_path):
    (tmp_path / 'other.png').write_bytes(b'')
    found = list(list_paths([str(two_photos), str(tmp_path / 'other.png')]))
    photos = sorted(str(path) for path in Path(two_photos).iterdir())
    assert found == [*photos, str(tmp_path / 'other.png')]


def test_a_folder_of_another_file_system_is_listed():
    root = 'memory://listing'
    folder = ClusterFolder(root)
    for name in ('b.jpg', 'a/c.png', 'a/clip.mp4', 'notes.txt', '__MACOSX/d.jpg', 'a/._c.png'):
        folder.write(name, b'x')
    expected = [f'memory:///listing/{name}' for name in ('a/c.png', 'a/clip.mp4', 'b.jpg')]
    assert list(list_paths([root])) == expected
    assert list(list_paths([root], recursive=False)) == expected[2:]
    assert list(list_paths([f'{root}/*.jpg'])) == expected[2:]
    assert list(list_paths([f'{root}/b.jpg'])) == [f'{root}/b.jpg']
    with pytest.raises(SourceError, match='nothing found: memory://nowhere'):
        list(list_paths(['memory://nowhere']))
