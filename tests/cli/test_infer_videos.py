"""Videos on the command line of ``infer``: which frames, wrong arguments, and what is printed."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import av
import pytest
from support.factories import Models, Outcome, read_lines, run_tool, write_photos
from support.videos import painted, write_video

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')


@pytest.fixture(scope='module')
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image, a video of 20 frames, and one of 10 frames in a folder."""
    folder = tmp_path_factory.mktemp('inputs')
    write_photos(folder, 1)
    write_video(folder / 'a.mp4', painted(20))
    (folder / 'more').mkdir()
    write_video(folder / 'more' / 'B.MKV', painted(10))
    return folder


@pytest.fixture
def tool(models: Models, tmp_path: Path):
    def run(*arguments: object) -> Outcome:
        return run_tool(*arguments, *models.one_stage, '--out-dir', tmp_path / 'out')

    return run


def frames(tmp_path: Path) -> list[tuple[str, int]]:
    records = read_lines(tmp_path / 'out' / 'predictions.jsonl')
    return [(record['video'], record['frame']) for record in records if 'video' in record]


def test_files_folders_and_lists_of_videos(inputs, tool, tmp_path):
    (tmp_path / 'list.txt').write_text(f'{inputs / "a.mp4"}\n{inputs / "000000000000.jpg"}\n')
    outcome = tool(inputs / 'a.mp4', inputs / 'more', f'@{tmp_path / "list.txt"}')
    assert outcome.status == 0
    assert '1 image and 2 videos, ' in outcome.err
    assert 'images    1\nvideos    2\nframes    30\n' in outcome.out
    assert Counter(name for name, _ in frames(tmp_path)) == {'a.mp4': 20, 'more/B.MKV': 10}


SELECTIONS = {
    'a stride': (('--vid-stride', '6'), [0, 6, 12, 18]),
    'a start': (('--start', '0.7'), [18, 19]),
    'an end': (('--end', '0:00.1'), [0, 1, 2]),
    'all': (('--vid-stride', '2', '--start', '0.1', '--end', '0.3'), [3, 5, 7]),
}


@pytest.mark.parametrize(('options', 'expected'), SELECTIONS.values(), ids=SELECTIONS)
def test_some_frames_are_selected_and_keep_their_numbers(inputs, tool, tmp_path, options, expected):
    assert tool(inputs / 'a.mp4', *options).status == 0
    assert frames(tmp_path) == [('a.mp4', number) for number in expected]


def test_a_selection_without_frames_is_a_failure(inputs, tool, tmp_path):
    assert tool(inputs / 'a.mp4', '--start', '1:00').status == 3
    (record,) = read_lines(tmp_path / 'out' / 'failures.jsonl')
    assert record == {'video': 'a.mp4', 'error': 'there are no frames between start and end'}


def test_a_file_that_is_no_video_is_a_failure(tool, tmp_path):
    (tmp_path / 'text.mp4').write_text('no video')
    outcome = tool(tmp_path / 'text.mp4')
    assert outcome.status == 3
    (record,) = read_lines(tmp_path / 'out' / 'predictions.jsonl')
    assert record['video'] == 'text.mp4'
    assert record['error'].startswith('expected a video, found 8 bytes')


WRONG = {
    'a start': (('--start', 'soon'), "start: expected seconds, m:ss or h:mm:ss, found 'soon'"),
    'an end': (('--start', '2', '--end', '1'), "end: expected a time after start, found '1'"),
    'boxes': (('--bboxes', 'b.json'), '--bboxes: only possible for images, found videos'),
}


@pytest.mark.parametrize(('options', 'message'), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_one_line(inputs, tool, options, message):
    outcome = tool(inputs, *options)
    assert (outcome.status, outcome.out) == (2, '')
    assert message in outcome.err
    assert outcome.err.count('\n') == 1


def test_a_stride_of_0_is_an_error(inputs, tool):
    outcome = tool(inputs, '--vid-stride', '0')
    assert outcome.status == 2
    assert 'argument --vid-stride: expected an integer >= 1, found 0' in outcome.err


def test_options_of_videos_without_videos_are_noted(inputs, tool):
    outcome = tool(inputs / '000000000000.jpg', '--track')
    assert outcome.status == 0
    assert '--end and --track have no effect: there are no videos' in outcome.err


MISSING = {
    'av': ((), 2, "videos need PyAV: pip install 'mmpose-batch[video]'"),
    'trackers': (('--track',), 1, 'track: needs the packages trackers and supervision'),
}


@pytest.mark.parametrize(('name', 'case'), MISSING.items(), ids=MISSING)
def test_a_missing_package_is_named_before_the_model_is_built(
    inputs, tool, monkeypatch, name, case
):
    options, status, message = case
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr('mmpose_batch.factory.Plan.build', None)
    outcome = tool(inputs, *options)
    assert outcome.status == status
    assert message in outcome.err
    assert outcome.err.count('\n') == 1


def test_a_dry_run_counts_videos_and_reads_none(inputs, tool, monkeypatch):
    monkeypatch.setattr('mmpose_batch.sources.items.read_video', None)
    outcome = tool(inputs, '--dry-run', '--format', 'json', '--save-vis')
    assert outcome.status == 0
    assert 'inputs    1 image and 2 videos, ' in outcome.out
    assert 'predictions/ (3 files), vis/ (3 drawings)' in outcome.out


def test_a_dry_run_describes_videos_by_their_headers(inputs, tool, tmp_path):
    (tmp_path / 'none.mp4').write_text('no video')
    options = ('--dry-run', '--vid-stride', '3', '--start', '0.2', '--end', '0:00.6', '--track')
    lines = tool(inputs / 'a.mp4', tmp_path / 'none.mp4', *options).out.splitlines()
    root = inputs.parent
    assert lines[1] == (
        f'video     {(inputs / "a.mp4").relative_to(root)}: 160x96, 25 fps, 0:01, '
        'about 4 of 20 frames'
    )
    assert ': cannot be used: expected a video, found 8 bytes that are damaged' in lines[2]
    settings = f'stride 3, start 0.2 s, end 0.6 s, track ids, decoded by PyAV {av.__version__}'
    assert lines[3] == f'frames    {settings}'
    assert tool(inputs, '--dry-run').out.splitlines()[2:4] == [
        'video     more/B.MKV: 160x96, 25 fps, 0:00, about 10 frames',
        f'frames    decoded by PyAV {av.__version__}',
    ]


def test_a_dry_run_sums_up_many_videos(inputs, tool, tmp_path):
    folder = tmp_path / 'in'
    folder.mkdir()
    for number in range(9):
        shutil.copy(inputs / 'a.mp4', folder / f'{number}.mp4')
    (folder / '3.mp4').write_bytes(b'')
    lines = tool(folder, '--dry-run').out.splitlines()
    assert lines[1:3] == [
        'videos    0:06, about 160 frames to process',
        'videos    1 cannot be used, the first: 3.mp4: expected a video, found an empty file',
    ]


def test_a_dry_run_reports_the_detection_interval(inputs, models, tmp_path):
    out_dir = ('--out-dir', tmp_path / 'out')
    outcome = run_tool(inputs, *models.top_down, *out_dir, '--det-interval', '5', '--dry-run')
    assert '\nframes    detection interval 5, decoded by PyAV ' in outcome.out


def test_too_many_errors_in_a_video_end_the_run_and_it_resumes(inputs, tool, models, tmp_path):
    damaged = bytearray((inputs / 'a.mp4').read_bytes())
    start = len(damaged) // 3
    damaged[start : start + 200] = bytes(200)
    path = tmp_path / 'in' / 'bad.mp4'
    path.parent.mkdir()
    path.write_bytes(damaged)
    outcome = tool(path, '--max-errors', '0')
    assert outcome.status == 4
    assert 'bad.mp4 frame ' in outcome.err
    resumed = run_tool(path, *models.one_stage, '--out-dir', tmp_path / 'out', '--resume')
    assert resumed.status == 3
    assert [number for _, number in frames(tmp_path)] == list(range(20))


@pytest.mark.parametrize('option', ['--resume', '--overwrite'])
def test_a_folder_in_place_of_an_output_file_is_one_line(inputs, tool, tmp_path, option):
    arguments = (inputs / 'a.mp4', '--end', '0.1', '--format', 'json')
    assert tool(*arguments).status == 0
    file = tmp_path / 'out' / 'predictions' / 'a.mp4.json'
    file.unlink()
    file.mkdir()
    outcome = tool(*arguments, option)
    assert (outcome.status, outcome.out) == (1, '')
    message = f'{file}: expected a file, found a folder: move it away'
    assert outcome.err == f'batch_infer: {message}\n'
