"""Images and videos of a run: the names of their chunks."""

from itertools import accumulate

import pytest
from support.factories import write_photos
from support.videos import painted, write_video

from mmpose_batch.sources.base import Frame, chunk_name
from mmpose_batch.sources.items import Items, Position
from mmpose_batch.workers import Marker

CHUNK = 4
# Name and length of each chunk: of 9 images, a video without frames, and two videos.
CHUNKS = {
    '0000000': 4,
    '0000001': 4,
    '0000002': 1,
    'v00000-00000': 1,
    'v00001-00000': 4,
    'v00001-00001': 3,
    'v00002-00000': 4,
}
# Images, videos and frames of the next video at the end of each of these chunks.
ENDS = [(4, 0, 0), (8, 0, 0), (9, 0, 0), (9, 0, 1), (9, 1, 4), (9, 1, 7), (9, 2, 4)]


@pytest.fixture(scope='module')
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp('inputs')
    write_photos(folder, 9)
    (folder / 'a.mp4').write_bytes(b'no video')
    write_video(folder / 'b.mp4', painted(7))
    write_video(folder / 'c.mp4', painted(4))
    return sorted(map(str, folder.iterdir()))


def frames_of(paths: list[str], start: Position) -> list[Frame]:
    return [item for item in Items(paths).stream(start) if not isinstance(item, Marker)]


def test_chunks_are_named_in_the_order_of_results(paths):
    frames = frames_of(paths, Position())
    names = [frame.chunk for frame in frames]
    assert {name: names.count(name) for name in names} == CHUNKS
    assert names == sorted(names)
    last = [frame.chunk for frame in frames if frame.ends_chunk]
    assert last == list(CHUNKS)


@pytest.mark.parametrize('number', range(len(CHUNKS)))
def test_names_do_not_depend_on_where_the_stream_begins(paths, number):
    done = list(accumulate(CHUNKS.values()))[number]
    rest = frames_of(paths, Position(done, *ENDS[number]))
    complete = frames_of(paths, Position())
    assert [(f.index, f.chunk) for f in rest] == [(f.index, f.chunk) for f in complete[done:]]


def test_names_of_chunks_sort_by_their_numbers():
    names = [
        *(chunk_name(number) for number in (0, 9, 10, 1_000_000)),
        *(chunk_name(number, video) for video in (0, 2, 10) for number in (0, 9, 10)),
    ]
    assert names == sorted(names)
