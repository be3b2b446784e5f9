"""The actors of a run on a cluster, called without Ray: what they write is what `infer` writes."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import orjson
import pytest
from mmengine.fileio.backends.registry_utils import backends, prefix_to_backends
from support.factories import files_below, read_lines, run_tool, write_photos
from support.videos import painted, write_video

pytest.importorskip('fsspec')
pytest.importorskip('pyarrow')

from mmpose_batch.cluster.actor import ChunkActor, PoseActor, Work
from mmpose_batch.cluster.files import ClusterFolder
from mmpose_batch.cluster.inputs import list_paths, read_offsets, write_inputs
from mmpose_batch.cluster.outputs import merge
from mmpose_batch.cluster.prepare import Preparation
from mmpose_batch.config import VideoOptions
from mmpose_batch.factory import plan_inferencer
from mmpose_batch.spec import InferencerSpec

CHUNK = 4
pytestmark = pytest.mark.usefixtures('one_thread')
THRESHOLDS = {'bbox_thr': 0.1, 'nms_thr': 0.65, 'pose_based_nms': True, 'select_thr': 0.1}


@pytest.fixture(scope='module')
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('inputs')
    write_photos(folder, 6)
    (folder / 'text.jpg').write_text('no image')
    write_video(folder / 'a.mp4', painted(9))
    write_video(folder / 'b.mp4', painted(8))  # two complete chunks
    (folder / 'none.mp4').write_bytes(b'no video')
    return folder


@pytest.fixture(scope='module')
def spec(models) -> InferencerSpec:
    plan = plan_inferencer(models.file('rtmo.py'), models.file('rtmo.pth'))
    return replace(plan, settings={'device': 'cpu', 'num_threads': 1, 'num_workers': 1}).spec


@pytest.fixture(scope='module')
def expected(inputs, models, small_chunks, tmp_path_factory) -> Path:
    """The output of `infer`."""
    out_dir = tmp_path_factory.mktemp('infer') / 'out'
    done = run_tool(
        *(inputs, '--out-dir', out_dir, *models.one_stage, '--num-threads', 1, '--track'),
        *('--format', 'parquet'),
    )
    assert done.status == 3, done.err
    return out_dir


@pytest.fixture
def work(inputs, spec, tmp_path, monkeypatch) -> Work:
    """What actors share, with the setup itself instead of Ray's reference to it."""
    monkeypatch.setitem(sys.modules, 'ray', SimpleNamespace(get=lambda setup: setup))
    folder = ClusterFolder(str(tmp_path / 'out'))
    listed = write_inputs(folder, list_paths([str(inputs)]), CHUNK)
    preparation = Preparation(
        spec=spec,
        call=THRESHOLDS,
        video=VideoOptions(track=True),
        folder=folder,
        inputs=listed,
        selected={},
        config='rtmo.py',
    )
    prepared = preparation()
    return Work(folder=folder, inputs=listed, setup=prepared.setup, model=prepared.model)


def rows_of(work: Work) -> list[dict[str, int]]:
    places = read_offsets(work.folder).tolist()
    images = [
        {'video': -1, 'number': number, 'start': start, 'end': end}
        for number, (start, end) in enumerate(places)
    ]
    videos = [dict.fromkeys(('number', 'start', 'end'), 0) for _ in range(work.inputs.videos)]
    return images + [{**row, 'video': video} for video, row in enumerate(videos)]


def check_output(work: Work, expected: Path) -> None:
    merge(work.folder, work.inputs)
    out_dir = Path(work.folder.url)
    for name in ('predictions.jsonl', 'failures.jsonl'):
        assert (out_dir / name).read_bytes() == (expected / name).read_bytes()
    tables = files_below(expected / 'parquet')
    assert len(tables) == 16  # two for each chunk
    assert files_below(out_dir / 'parquet') == tables


def test_actors_write_what_infer_writes(work, expected):
    actor = ChunkActor(work)
    found = [actor(row) for row in rows_of(work)]
    assert [row['error'] for row in found] == [''] * len(found)
    assert [row['results'] for row in found] == [4, 3, 9, 8, 1]
    assert sum(row['failures'] for row in found) == 2
    check_output(work, expected)


def test_an_actor_continues_a_video_where_another_one_died(work, expected):
    """Also its tracks, and also if the video was complete except for the mark of its end."""
    rows, first, second = rows_of(work), ChunkActor(work), ChunkActor(work)
    for row in rows:
        first(row)
    out_dir = Path(work.folder.url)
    for name in ('v00000-00001', 'v00000-00002', 'v00001-00001'):
        (out_dir / 'records' / name[:6] / f'{name}.jsonl').unlink()
    for name in ('v00000', 'v00001', 'v00002'):
        (out_dir / 'videos' / f'{name}.json').unlink()
    found = [second(row) for row in rows]
    assert [row['results'] for row in found] == [4, 3, 9, 8, 1]
    check_output(work, expected)


def test_actors_of_two_drivers_at_the_same_time_write_the_same(work, expected):
    """As on a file system without locks, where two drivers may compute the same chunks."""

    def compute_all(actor: ChunkActor) -> list[dict[str, Any]]:
        return [actor(row) for row in rows_of(work)]

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(compute_all, [ChunkActor(work), ChunkActor(work)]))
    for found in both:
        assert [row['error'] for row in found] == [''] * len(found)
        assert [row['results'] for row in found] == [4, 3, 9, 8, 1]
    check_output(work, expected)


def test_videos_of_another_file_system_are_copied_to_the_node(work, inputs, expected):
    videos = ClusterFolder('memory://videos')
    videos.write('a.mp4', (inputs / 'a.mp4').read_bytes())
    paths = ['memory://videos/a.mp4', 'memory://videos/gone.mp4']
    other = replace(work, inputs=write_inputs(work.folder, paths, CHUNK))
    actor = ChunkActor(other)
    for row in rows_of(other):
        assert actor(row)['error'] == ''
    merge(other.folder, other.inputs)
    *frames, gone = read_lines(Path(work.folder.url) / 'predictions.jsonl')
    of_infer = read_lines(expected / 'predictions.jsonl')
    assert frames == [record for record in of_infer if record.get('video') == 'a.mp4']
    assert gone['video'] == 'gone.mp4'
    assert gone['error'].startswith('expected a readable file, found ')


@pytest.mark.slow
def test_an_isolated_actor_writes_the_same(work, expected):
    actor = ChunkActor(replace(work, isolated=True))
    try:
        found = [actor(row) for row in rows_of(work)]
    finally:
        actor._inference.close()
    assert [row['error'] for row in found] == [''] * len(found)
    check_output(work, expected)


def test_an_error_of_a_chunk_is_returned_not_raised(work, monkeypatch):
    def full(*_) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmpose_batch.cluster.outputs.write_chunk', full)
    found = ChunkActor(work)(rows_of(work)[0])
    assert (found['error'], found['is_fatal']) == (
        'OSError: [Errno 28] No space left on device',
        False,
    )


def test_an_actor_that_hangs_ends_itself(work, monkeypatch):
    """So that Ray replaces it."""
    ended = Event()
    monkeypatch.setattr('mmpose_batch.cluster.actor.os._exit', lambda _: ended.set())
    actor = ChunkActor(replace(work, timeout=0.05))
    actor._inference = SimpleNamespace(records=lambda chunk: (ended.wait(20) and [], False))
    actor(rows_of(work)[0])
    assert ended.is_set()


def test_other_records_of_a_chunk_end_the_run(work):
    row = rows_of(work)[0]
    actor = ChunkActor(work)
    actor(row)
    work.folder.write('records/0000/0000000.jsonl', b'{"image":"other.jpg"}\n')
    actor._infer_images = lambda row: actor._write(_chunk_of(work, row))[0]
    found = actor(row)
    assert 'a second worker has computed other records' in found['error']
    assert found['is_fatal']


def _chunk_of(work: Work, row: dict[str, int]):
    from mmpose_batch.cluster.inputs import image_chunk

    return image_chunk(work.folder, work.inputs, row['number'], (row['start'], row['end']))


def test_a_pipeline_of_the_user(inputs, spec, expected):
    paths = [str(path) for path in sorted(inputs.glob('*.jpg'))]
    actor = PoseActor(spec, bbox_thr=0.1)
    batch = {'item': np.array(paths[:4], object), 'mine': np.arange(4)}
    found = actor(batch)
    assert list(found['mine']) == [0, 1, 2, 3]
    records = [orjson.loads(record) for record in found['record']]
    of_infer = read_lines(expected / 'predictions.jsonl')[:4]
    for record, other, path in zip(records, of_infer, paths, strict=False):
        assert record == {**other, 'image': path.lstrip('/')}
    bad = actor({'item': np.array([str(inputs / 'text.jpg'), '/none.jpg'], object)})
    assert bad['persons'] == [0, 0]
    assert bad['error'] == [
        "expected an image, found 8 bytes that begin with 'no image'",
        'expected a readable file, found No such file or directory',
    ]


def test_images_of_other_file_systems(inputs, spec, monkeypatch):
    module = 'mmpose_batch.cluster.remote_images'
    monkeypatch.delitem(sys.modules, module, raising=False)  # the backend is registered again
    with patch.dict(prefix_to_backends), patch.dict(backends):
        ClusterFolder('memory://photos').write('a.jpg', next(inputs.glob('*0.jpg')).read_bytes())
        actor = PoseActor(spec, 'path', bbox_thr=0.1)
        found = actor({'path': np.array(['memory://photos/a.jpg', 'memory://photos/b.jpg'])})
    monkeypatch.delitem(sys.modules, module)
    assert found['error'][0] is None
    assert found['error'][1].startswith('expected a readable file, found ')
    assert orjson.loads(found['record'][0])['image'] == 'memory://photos/a.jpg'
