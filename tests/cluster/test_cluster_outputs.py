"""The files of a run on a cluster, and what they say about what is done."""

import json

import pytest

pytest.importorskip('fsspec')
pytest.importorskip('pyarrow')

from mmpose_batch.cluster.files import ClusterFolder
from mmpose_batch.cluster.inputs import Inputs
from mmpose_batch.cluster.outputs import (
    GROUP,
    Counts,
    count_failures,
    end_video,
    is_written,
    merge,
    missing_chunks,
    missing_videos,
    read_info,
    read_records,
    write_chunk,
    write_info,
)
from mmpose_batch.distributed.chunks import Chunk
from mmpose_batch.errors import RunError
from mmpose_batch.runs.identity import check_same
from mmpose_batch.sources.base import Frame
from mmpose_batch.writers.parquet_tables import ModelInfo

MODEL = ModelInfo(keypoints=('nose',))
GOOD = {
    'image': 'a.jpg',
    'width': 4,
    'height': 3,
    'instances': [{'keypoints': [[1.0, 2.0]], 'keypoint_scores': [0.5]}],
}
BAD = {'image': 'b.jpg', 'error': 'no image'}


@pytest.fixture(params=['folder', 'memory'])
def folder(request, tmp_path) -> ClusterFolder:
    if request.param == 'folder':
        return ClusterFolder(str(tmp_path / 'out'))
    return ClusterFolder(f'memory://{tmp_path.name}/out')


def inputs_of(images: int, videos: int = 0) -> Inputs:
    return Inputs(images=images, videos=videos, root='', chunk=2, digest='')


def video_chunk(number: int) -> Chunk:
    return Chunk(number, 2 * number, 2, video=Frame(0, 'v.mp4', 'v.mp4'), video_number=0)


def test_records_mark_a_chunk_as_done(folder):
    inputs = inputs_of(GROUP * 4 + 1)
    chunk = Chunk(GROUP + 1, 0, 2)
    assert not is_written(folder, chunk)
    write_chunk(folder, chunk, [GOOD, BAD], MODEL)
    assert is_written(folder, chunk)
    missing = set(range(inputs.chunks)) - {GROUP + 1}
    assert set(missing_chunks(folder, inputs)) == missing
    assert read_records(folder, chunk) == [GOOD, BAD]
    assert Counts.of([GOOD, BAD]) == Counts(results=2, persons=1, failures=1)
    assert count_failures(folder) == 1


def test_records_are_written_last(folder, monkeypatch):
    """A worker that dies before leaves the chunk to be computed again."""

    def killed(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr('mmpose_batch.cluster.outputs.write_table', killed)
    with pytest.raises(KeyboardInterrupt):
        write_chunk(folder, Chunk(0, 0, 2), [GOOD], MODEL)
    assert not is_written(folder, Chunk(0, 0, 2))


def test_tables_can_be_read_with_pyarrow(tmp_path):
    import pyarrow.dataset

    folder = ClusterFolder(str(tmp_path))
    for number in range(2):
        write_chunk(folder, Chunk(number, 0, 2), [GOOD, BAD], MODEL)
    images = pyarrow.dataset.dataset(tmp_path / 'parquet' / 'images').to_table()
    assert images['source'].to_pylist() == ['a.jpg', 'b.jpg'] * 2
    assert images['error'].to_pylist() == [None, 'no image'] * 2
    poses = pyarrow.dataset.dataset(tmp_path / 'parquet' / 'poses').to_table()
    assert poses['keypoints'].to_pylist() == [[1.0, 2.0]] * 2


def test_a_chunk_that_is_done_twice_is_the_same(folder):
    chunk = Chunk(0, 0, 2)
    write_chunk(folder, chunk, [GOOD], MODEL)
    write_chunk(folder, chunk, [GOOD], MODEL)
    with pytest.raises(RunError, match='second worker has computed other records'):
        write_chunk(folder, chunk, [BAD], MODEL)
    assert read_records(folder, chunk) == [GOOD]


def test_merged_files_are_in_the_order_of_the_inputs(folder):
    inputs = inputs_of(images=3, videos=1)
    frames = [{'video': 'v.mp4', 'frame': n, 'error': f'{n}'} for n in range(3)]
    write_chunk(folder, video_chunk(1), frames[2:], None)
    write_chunk(folder, video_chunk(0), frames[:2], None)
    write_chunk(folder, Chunk(1, 2, 2), [BAD], None)
    write_chunk(folder, Chunk(0, 0, 2), [GOOD, GOOD], None)
    assert missing_videos(folder, inputs) == [0]
    with pytest.raises(RunError, match=r'v00000\.json is gone'):
        merge(folder, inputs)
    end_video(folder, 0, 2)
    assert missing_videos(folder, inputs) == []
    merge(folder, inputs)
    records = [json.loads(line) for line in folder.read('predictions.jsonl').splitlines()]
    assert records == [GOOD, GOOD, BAD, *frames]
    failures = [json.loads(line) for line in folder.read('failures.jsonl').splitlines()]
    assert failures == [BAD, *frames]
    assert count_failures(folder) == 4


def test_a_merge_without_a_chunk_leaves_no_file(tmp_path):
    folder = ClusterFolder(str(tmp_path))
    write_chunk(folder, Chunk(0, 0, 2), [GOOD, GOOD], None)
    with pytest.raises(RunError, match=r'0000001\.jsonl is gone'):
        merge(folder, inputs_of(3))
    assert folder.read('predictions.jsonl') is None


def test_a_folder_knows_its_run(folder):
    assert read_info(folder) is None
    write_info(folder, identity={'model': 'a'}, selected={})
    assert read_info(folder)['identity'] == {'model': 'a'}
    folder.write('cluster.json', b'[]')
    with pytest.raises(RunError, match='is damaged'):
        read_info(folder)


def test_a_folder_with_a_run_of_one_machine_is_rejected(folder):
    folder.write('predictions.jsonl', b'')
    with pytest.raises(RunError, match='already contains a run of one machine'):
        read_info(folder)


def test_another_run_is_rejected():
    check_same({'model': 'a', 'workers': 2}, {'model': 'a'}, complete=False)
    with pytest.raises(RunError, match=r'changed since the earlier run: inputs, model \('):
        check_same({'model': 'a'}, {'model': 'b', 'inputs': 'c'}, complete=False)
