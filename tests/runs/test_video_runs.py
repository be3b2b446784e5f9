"""Runs over images and videos: their records and files, killed and resumed."""

import signal
from functools import partial
from pathlib import Path

import orjson
import pytest
from support.factories import (
    Models,
    Outcome,
    ToolProcess,
    files_below,
    main_of_process,
    read_lines,
    run_tool,
    write_photos,
)
from support.videos import painted, write_video

from mmpose_batch.sources.items import Items, Position
from mmpose_batch.workers import CHUNK_END, Marker
from mmpose_batch.writers.jsonl import JsonLinesFile

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')
slow = pytest.mark.slow

CHUNK = 8
FRAMES = {'a.mp4': 20, 'sub/b.mkv': 16}
FORMATS = ('--format', 'json', '--save-vis', '--track')


@pytest.fixture(scope='module')
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images, two videos of 20 and 16 frames, a truncated one, and one that is none."""
    folder = tmp_path_factory.mktemp('inputs')
    (folder / 'sub').mkdir()
    write_photos(folder, 3)
    for name, count in FRAMES.items():
        write_video(folder / name, painted(count))
    whole = write_video(folder / 'cut.mp4', painted(40), bframes=0, movflags='faststart')
    data = Path(whole).read_bytes()
    (folder / 'cut.mp4').write_bytes(data[: len(data) * 6 // 10])
    (folder / 'none.mp4').write_bytes(b'no video')
    return folder


@pytest.fixture(scope='module')
def arguments(inputs: Path, models: Models) -> list[str]:
    return [str(inputs), *models.top_down, *FORMATS]


@pytest.fixture(scope='module')
def complete(
    arguments: list[str],
    small_chunks: None,
    one_thread: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The output of a run that was not interrupted."""
    out_dir = tmp_path_factory.mktemp('complete') / 'out'
    assert run_tool(*arguments, '--out-dir', out_dir).status == 3
    return out_dir


def of_video(records: list[dict], name: str) -> list[dict]:
    return [record for record in records if record.get('video') == name]


# ------------------------------------------------------------------------------- the files


def test_images_come_first_and_every_frame_has_a_record(complete):
    records = read_lines(complete / 'predictions.jsonl')
    assert [record.get('image') for record in records[:3]] == [f'{n:012}.jpg' for n in range(3)]
    names = dict.fromkeys(record['video'] for record in records[3:])
    assert list(names) == ['a.mp4', 'cut.mp4', 'none.mp4', 'sub/b.mkv']
    for name, count in FRAMES.items():
        found = of_video(records, name)
        assert [record['frame'] for record in found] == list(range(count))
        assert [record['time'] for record in found] == [
            pytest.approx(n / 25, abs=1e-3) for n in range(count)
        ]
        assert {(record['width'], record['height']) for record in found} == {(160, 96)}


def test_what_cannot_be_used_is_recorded_and_counted(complete):
    records = read_lines(complete / 'predictions.jsonl')
    (none,) = of_video(records, 'none.mp4')
    assert none.keys() == {'video', 'error'}
    assert none['error'].startswith('expected a video, found 8 bytes that are damaged or no video')
    *frames, rest = of_video(records, 'cut.mp4')
    assert all('instances' in record for record in frames)
    assert rest['frame'] == len(frames)
    assert 'the video is truncated: ' in rest['error']
    assert read_lines(complete / 'failures.jsonl') == [rest, none]
    counts = orjson.loads((complete / 'run.json').read_bytes())['counts']
    persons = sum(len(record.get('instances', ())) for record in records)
    assert counts == {
        'images': 3,
        'frames': len(records) - 4,
        'videos': 4,
        'unusable_videos': 1,
        'damaged_frames': 1,
        'resumed': 0,
        'persons': persons,
        'failures': 2,
    }


def test_instances_of_videos_have_track_ids_that_start_anew(complete):
    records = read_lines(complete / 'predictions.jsonl')
    assert all('track_id' not in instance for r in records[:3] for instance in r['instances'])
    for name in FRAMES:
        first, *later = of_video(records, name)
        assert {instance['track_id'] for instance in first['instances']} == {None}
        found = {instance['track_id'] for r in later for instance in r['instances']} - {None}
        assert found == set(range(len(found)))
        assert found


def test_a_video_has_one_json_file_in_the_form_of_upstream(complete):
    for name, count in FRAMES.items():
        frames = orjson.loads((complete / 'predictions' / f'{name}.json').read_bytes())
        assert [frame['frame_id'] for frame in frames] == list(range(count))
        record = of_video(read_lines(complete / 'predictions.jsonl'), name)[5]
        (found, expected) = (frames[5]['instances'], record['instances'])
        assert [each['track_id'] for each in found] == [each['track_id'] for each in expected]
        assert found[0]['keypoints'][0] == pytest.approx(expected[0]['keypoints'][0], abs=1e-3)
    assert not (complete / 'predictions' / 'none.mp4.json').exists()


def test_every_video_has_an_overlay(complete):
    drawn = {
        path.relative_to(complete / 'vis').as_posix() for path in complete.glob('vis/**/*.mp4')
    }
    assert drawn == {'a.mp4', 'cut.mp4', 'sub/b.mkv.mp4'}


# ------------------------------------------------------------------- killed, and resumed


def run_until(count: int, arguments: list[str], log: str, chunk: int) -> None:
    """Run the tool in a separate process, which kills itself before a record is written."""
    append = JsonLinesFile.append
    written = []

    def append_or_die(file: JsonLinesFile, record: dict) -> None:
        if file.path.endswith('predictions.jsonl'):
            written.append(record)
            if len(written) == count:
                file.sync()
                signal.raise_signal(signal.SIGKILL)
        append(file, record)

    JsonLinesFile.append = append_or_die
    main_of_process(arguments, log, chunk)


def die_while_drawing(arguments: list[str], log: str, chunk: int) -> None:
    """Run the tool in a separate process, which is killed while it encodes the second video."""
    from mmpose_batch.writers.video import overlay

    write, calls = overlay.write_overlay, []

    def write_or_die(*values: object, **options: object) -> None:
        calls.append(values)
        if len(calls) == 2:
            options['progress'] = lambda count: count == 5 and signal.raise_signal(signal.SIGKILL)
        write(*values, **options)

    overlay.write_overlay = write_or_die
    main_of_process(arguments, log, chunk)


def killed(main: object, arguments: list[str], out_dir: Path, *more: str) -> None:
    process = ToolProcess(
        [*arguments, '--out-dir', out_dir, *more], out_dir.with_name('log'), CHUNK, main
    )
    assert process.wait().status == -signal.SIGKILL


def resumed(arguments: list[str], out_dir: Path, *more: str) -> Outcome:
    return run_tool(*arguments, '--out-dir', out_dir, '--resume', *more)


MOMENTS = [
    # Number of the record before which the process dies, and number that are not repeated.
    pytest.param(14, 11, id='in the middle of a video'),
    pytest.param(24, 19, id='before the second video', marks=slow),
    pytest.param(2, 0, id='in the images', marks=slow),
    pytest.param(4, 3, id='before the first video', marks=slow),
    pytest.param(50, 3 + 20, id='in the third video', marks=slow),
]


@pytest.mark.parametrize(('count', 'kept'), MOMENTS)
def test_a_killed_run_resumes_to_the_same_files(arguments, complete, tmp_path, count, kept):
    out_dir = tmp_path / 'out'
    killed(partial(run_until, count), arguments, out_dir)
    outcome = resumed(arguments, out_dir)
    assert outcome.status == 3
    info = orjson.loads((out_dir / 'run.json').read_bytes())
    assert info['counts']['resumed'] >= kept
    assert files_below(out_dir) == files_below(complete)


def test_a_run_killed_while_it_draws_resumes_to_the_same_files(arguments, complete, tmp_path):
    out_dir = tmp_path / 'out'
    killed(die_while_drawing, arguments, out_dir)
    assert sorted(path.name for path in out_dir.glob('vis/*.mp4')) == ['a.mp4']
    assert resumed(arguments, out_dir).status == 3
    assert files_below(out_dir) == files_below(complete)


def test_a_finished_run_resumes_to_itself_without_inference(arguments, complete, monkeypatch):
    before = files_below(complete)
    monkeypatch.setattr('mmpose_batch.predictor.Predictor.stream', None)
    assert resumed(arguments, complete).status == 3
    assert files_below(complete) == before
    assert orjson.loads((complete / 'run.json').read_bytes())['status'] == 'finished'


CHANGES = {
    'stride': ('--vid-stride', '2'),
    'start': ('--start', '0.1'),
    'end': ('--end', '0:05'),
}


@pytest.mark.parametrize('changed', CHANGES.values(), ids=CHANGES)
def test_a_run_does_not_resume_with_other_frames(arguments, complete, changed):
    outcome = resumed(arguments, complete, *changed)
    assert outcome.status == 1
    assert 'cannot resume: changed since the earlier run: videos ' in outcome.err


# ------------------------------------------------------------------------------- positions


def test_frames_from_any_chunk_on_are_those_of_the_complete_stream(inputs):
    items = Items(sorted(map(str, inputs.rglob('*.*'))))
    stream = list(items.stream())
    frames = [item for item in stream if not isinstance(item, Marker)]
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert items.last == len(frames) - 1
    assert sum(frame.ends_chunk for frame in frames) == stream.count(CHUNK_END)
    for number, item in enumerate(stream):
        if not isinstance(item, Marker):
            continue
        before = [each for each in stream[: number + 1] if not isinstance(each, Marker)]
        videos = list(dict.fromkeys(f.source_id for f in before if f.source_id))
        last = sum(f.source_id == videos[-1] for f in before) if videos else 0
        start = Position(len(before), min(len(before), 3), max(len(videos) - 1, 0), last)
        rest = Items(sorted(map(str, inputs.rglob('*.*')))).stream(start)
        rest = [f for f in rest if not isinstance(f, Marker)]
        key = [(f.name, f.frame_id, f.index, f.ends_chunk) for f in rest]
        expected = [f for f in stream[number + 1 :] if not isinstance(f, Marker)]
        assert key == [(f.name, f.frame_id, f.index, f.ends_chunk) for f in expected]
