"""Chunks, their files, and the inference of one chunk after another in this process."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.factories import write_photos
from support.videos import painted, write_video

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.config import VideoOptions
from mmpose_batch.distributed.chunk_files import (
    ChunkSummary,
    Written,
    chunk_path,
    read_chunk,
    read_chunk_records,
    read_summary,
    remove_chunks,
    write_chunk,
)
from mmpose_batch.distributed.chunks import Chunk, chunks_of
from mmpose_batch.distributed.infer import ChunkInferer
from mmpose_batch.postprocess.tracking import PersonTracker
from mmpose_batch.results import ImageResult, to_record
from mmpose_batch.sources.items import START, Items, Position
from mmpose_batch.workers import Marker

pytestmark = pytest.mark.usefixtures('one_thread')

CHUNK = 4
TRACKED = VideoOptions(track=True)


@pytest.fixture(scope='module')
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Six images, of which one is text, and videos of 9, 8 and no frames."""
    folder = tmp_path_factory.mktemp('inputs')
    paths = list(map(str, write_photos(folder, 5)))
    (folder / 'text.jpg').write_text('no image')
    (folder / 'none.mp4').write_bytes(b'no video')
    videos = [write_video(folder / f'{n}.mp4', painted(n)) for n in (9, 8)]
    return [*paths, str(folder / 'text.jpg'), *map(str, videos), str(folder / 'none.mp4')]


@pytest.fixture(scope='module')
def inferencer(models) -> BatchPose2DInferencer:
    options = {'device': 'cpu', 'num_workers': 1, 'show_progress': False}
    return BatchPose2DInferencer(models.file('rtmo.py'), models.file('rtmo.pth'), **options)


@pytest.fixture(scope='module')
def expected(inferencer: BatchPose2DInferencer, inputs: list[str]) -> list[dict]:
    """The records of a run in one process."""
    items, tracker = Items(inputs, TRACKED), PersonTracker()
    found = []
    for result in inferencer.stream(items.source(START), inferencer.call_options()):
        tracker.assign(result)
        found.append(to_record(result))
    return found


def all_chunks(inferer: ChunkInferer, items: Items) -> Iterator[tuple[Chunk, list[ImageResult]]]:
    for chunk in chunks_of(items, START):
        while True:
            yield chunk, list(inferer.results(chunk))
            if chunk.video is None or inferer.ends_video(chunk):
                break
            chunk = chunk.following()


def records_of(inferer: ChunkInferer, chunk: Chunk) -> list[dict]:
    return list(map(to_record, inferer.results(chunk)))


def test_chunks_have_the_results_and_names_of_a_run_in_one_process(inferencer, inputs, expected):
    items = Items(inputs, TRACKED)
    inferer = ChunkInferer(inferencer, inferencer.call_options(), TRACKED)
    found = list(all_chunks(inferer, items))
    assert [to_record(result) for _, results in found for result in results] == expected
    names = dict.fromkeys(frame.chunk for frame in items.stream() if not isinstance(frame, Marker))
    assert [chunk.name for chunk, _ in found] == list(names)
    assert [len(results) for _, results in found] == [4, 2, 4, 4, 1, 4, 4, 1]
    assert all(results[-1].frame.ends_chunk for _, results in found)


def test_a_new_process_continues_a_video_in_the_middle(inferencer, inputs, expected):
    of_video = [record for record in expected if record.get('video') == '9.mp4']
    asked = []

    def earlier(chunk: Chunk) -> Iterator[dict]:
        asked.append(chunk.name)
        return iter(of_video[: chunk.start])

    inferer = ChunkInferer(inferencer, inferencer.call_options(), TRACKED, earlier)
    (chunk,) = (c for c in chunks_of(Items(inputs, TRACKED), Position(10, 6, 0, 4)) if c.start == 4)
    assert chunk.name == 'v00000-00001'
    assert records_of(inferer, chunk) == of_video[4:8]
    assert not inferer.ends_video(chunk)
    assert records_of(inferer, chunk.following()) == of_video[8:]
    assert inferer.ends_video(chunk.following())
    assert asked == ['v00000-00001']  # the tracker has seen the second one


def test_a_chunk_is_repeated_after_a_failed_attempt(inferencer, inputs, expected):
    of_video = [copy.deepcopy(r) for r in expected if r.get('video') == '9.mp4']
    inferer = ChunkInferer(inferencer, inferencer.call_options(), VideoOptions())
    chunk = list(chunks_of(Items(inputs), START))[2]
    next(inferer.results(chunk))
    untracked = [
        {
            **r,
            'instances': [{k: v for k, v in i.items() if k != 'track_id'} for i in r['instances']],
        }
        for r in of_video
    ]
    assert records_of(inferer, chunk) == untracked[:4]


def test_broken_images_are_not_read_and_a_stopped_video_ends(inferencer, inputs):
    inferer = ChunkInferer(inferencer, inferencer.call_options(), VideoOptions())
    chunks = list(chunks_of(Items(inputs), START))
    whole = records_of(inferer, chunks[0])
    found = records_of(inferer, replace(chunks[0], broken={1: 'it crashes'}))
    assert found[1] == {'image': whole[1]['image'], 'error': 'it crashes'}
    assert [found[i] for i in (0, 2, 3)] == [whole[i] for i in (0, 2, 3)]
    video = records_of(inferer, chunks[2])
    stopped = replace(chunks[2], stop=2, stop_reason='it crashes')
    found = records_of(inferer, stopped)
    assert found[:2] == video[:2]
    assert (len(found), found[2]['frame'], found[2]['error']) == (3, 2, 'it crashes')
    assert inferer.ends_video(stopped)
    (rest,) = records_of(inferer, replace(chunks[2], stop=0, stop_reason='it crashes'))
    assert (rest['video'], rest['error']) == ('9.mp4', 'it crashes')


def test_the_file_of_a_chunk_keeps_every_bit(inferencer, inputs, tmp_path: Path):
    inferer = ChunkInferer(inferencer, inferencer.call_options(), TRACKED)
    for chunk, results in all_chunks(inferer, Items(inputs, TRACKED)):
        path = chunk_path(str(tmp_path), chunk)
        summary = ChunkSummary(len(results), ended=True, seconds={'network': 0.5})
        errors = {'vis': None} if chunk.number else {}
        write_chunk(path, summary, [Written(r, to_record(r), errors) for r in results])
        assert read_summary(path) == summary
        assert list(read_chunk_records(path)) == [to_record(r) for r in results]
        for place, (result, found) in enumerate(
            zip(results, read_chunk(path, chunk, 100), strict=True)
        ):
            assert found.errors == errors
            assert found.record == to_record(result)
            assert found.result.frame.index == 100 + place
            for name in ('name', 'source_id', 'frame_id', 'time', 'time_guessed', 'ends_chunk'):
                assert getattr(found.result.frame, name) == getattr(result.frame, name)
            assert found.result.frame.chunk == chunk.name
            assert (found.result.size, found.result.error) == (result.size, result.error)
            assert found.result.track_ids == result.track_ids
            assert found.result.predictions == result.predictions
            for one, other in zip(result.data_samples, found.result.data_samples, strict=True):
                for key, value in one.pred_instances.items():
                    again = other.pred_instances[key]
                    assert again.dtype == np.asarray(value).dtype
                    np.testing.assert_array_equal(again, value)
    remove_chunks(str(tmp_path))
    assert not list(tmp_path.iterdir())
    assert read_summary(path) is None


def test_the_network_runs_as_often_as_in_one_process(inferencer, inputs, monkeypatch):
    calls: list[int] = []
    step = inferencer.model.test_step

    def counted(data: dict) -> list:
        calls.append(len(data['data_samples']))
        return step(data)

    monkeypatch.setattr(inferencer.model, 'test_step', counted)
    items = Items(inputs)
    list(inferencer.stream(items.source(START), inferencer.call_options()))
    in_one_process, calls[:] = list(calls), []
    list(all_chunks(ChunkInferer(inferencer, inferencer.call_options(), VideoOptions()), items))
    assert in_one_process
    assert calls == in_one_process
