"""Videos in the Python API."""

import json

import av
import pytest
from support.factories import write_photos
from support.inferencing import assert_close, names_below
from support.tiny import picture
from support.videos import painted, write_video

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture
def folder(tmp_path):
    """One image, and two videos of 6 and 4 frames."""
    (tmp_path / 'in' / 'sub').mkdir(parents=True)
    write_photos(tmp_path / 'in', 1)
    write_video(tmp_path / 'in' / 'a.mp4', painted(6))
    write_video(tmp_path / 'in' / 'sub' / 'b.mkv', painted(4))
    return tmp_path / 'in'


def test_a_folder_has_its_images_and_then_its_videos(ours, folder):
    results = list(ours['one_stage'](str(folder), bbox_thr=0.2))
    image = list(ours['one_stage'](str(folder / '000000000000.jpg'), bbox_thr=0.2))
    a = list(ours['one_stage'](str(folder / 'a.mp4'), bbox_thr=0.2))
    b = list(ours['one_stage'](str(folder / 'sub' / 'b.mkv'), bbox_thr=0.2))
    expected = [result['predictions'] for result in (*image, *a, *b)]
    assert_close([result['predictions'] for result in results], expected)
    assert [len(part) for part in (image, a, b)] == [1, 6, 4]


def test_a_list_of_paths_may_contain_videos(ours, folder):
    paths = [folder / 'a.mp4', folder / '000000000000.jpg']
    results = list(ours['one_stage'](paths, bbox_thr=0.2, vid_stride=2))
    assert len(results) == 1 + 3


def test_some_frames_of_a_video_are_used(ours, folder):
    path = str(folder / 'a.mp4')
    complete = list(ours['one_stage'](path, bbox_thr=0.2))
    part = list(ours['one_stage'](path, bbox_thr=0.2, vid_stride=2, start=0.03, end='0:00.17'))
    expected = [complete[number]['predictions'] for number in (1, 3)]
    assert_close([result['predictions'] for result in part], expected)


def test_persons_of_a_video_are_tracked(ours, folder):
    results = list(ours['one_stage'](str(folder / 'a.mp4'), bbox_thr=0.2, track=True))
    ids = [[person['track_id'] for person in result['predictions'][0]] for result in results]
    assert set(ids[0]) == {None}
    assert {number for row in ids[1:] for number in row} - {None}


def test_a_damaged_frame_is_a_failure_with_its_number(ours, folder):
    data = bytearray((folder / 'a.mp4').read_bytes())
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    (folder / 'a.mp4').write_bytes(data)
    results = list(ours['one_stage'](str(folder / 'a.mp4')))
    failures = [result for result in results if 'error' in result]
    assert failures
    for number, result in enumerate(results):
        if 'error' in result:
            assert (result['video'], result['frame']) == (str(folder / 'a.mp4'), number)


@pytest.mark.parametrize(
    ('inputs', 'options'),
    [('000000000000.jpg', {'vid_stride': 0}), ('a.mp4', {'start': 2, 'end': 1})],
)
def test_wrong_options_are_an_error_of_the_call(ours, folder, inputs, options):
    with pytest.raises(ValueError, match=r'vid_stride|end'):
        next(ours['one_stage'](str(folder / inputs), **options))


def test_a_file_that_is_no_video_is_a_failure(ours, folder):
    (folder / 'none.mp4').write_bytes(b'no video')
    for inputs in (str(folder / 'none.mp4'), [str(folder / 'none.mp4')]):
        (result,) = ours['one_stage'](inputs)
        assert 'expected a video, found 8 bytes' in result['error']


NO_VIDEOS = {
    'a list': (lambda path: [path], {'vid_stride': 2}, 'only possible for video files'),
    'a file': (lambda path: path, {'start': 1}, 'there are no videos among the inputs'),
    'a file, track': (lambda path: path, {'track': True}, 'track: only possible for videos'),
    'a list, track': (lambda path: [path], {'track': True}, 'track: only possible for videos'),
}


@pytest.mark.parametrize(('wrap', 'options', 'message'), NO_VIDEOS.values(), ids=NO_VIDEOS)
def test_options_without_videos_are_an_error(ours, folder, wrap, options, message):
    with pytest.raises(ValueError, match=message):
        next(ours['one_stage'](wrap(str(folder / '000000000000.jpg')), **options))


def test_each_video_of_a_folder_becomes_one_video_and_one_json(ours, folder, tmp_path):
    out = tmp_path / 'out'
    list(ours['one_stage'](str(folder), out_dir=str(out), vid_stride=2, bbox_thr=0.2))
    assert names_below(out) == [
        'predictions/000000000000.json',
        'predictions/a.mp4.json',
        'predictions/sub/b.mkv.json',
        'visualizations/000000000000.jpg',
        'visualizations/a.mp4',
        'visualizations/sub/b.mkv',
    ]
    for name, numbers in (('a.mp4', [0, 2, 4]), ('sub/b.mkv', [0, 2])):
        frames = json.loads((out / 'predictions' / f'{name}.json').read_text())
        assert [frame['frame_id'] for frame in frames] == numbers
    with av.open(str(out / 'visualizations' / 'a.mp4')) as file:
        times = [float(frame.time) for frame in file.decode(video=0)]
    assert times == pytest.approx([0, 0.08, 0.16], abs=1e-3)


def test_a_video_that_is_repeated_has_its_own_files_and_track_ids(ours, folder, tmp_path):
    out, path = tmp_path / 'out', str(folder / 'a.mp4')
    options = {'out_dir': str(out), 'bbox_thr': 0.2, 'track': True}
    results = list(ours['one_stage']([path, path], **options))
    assert_close(results[:6], results[6:])
    files = [out / 'predictions' / f'{name}.mp4.json' for name in ('a', 'a-2')]
    first, second = (json.loads(file.read_text()) for file in files)
    assert first == second
    assert len(first) == 6
    assert [p.name for p in sorted(out.glob('visualizations/*'))] == ['a-2.mp4', 'a.mp4']


@pytest.mark.parametrize('wrap', [list, iter], ids=['list', 'iterator'])
def test_a_video_among_arrays_is_a_failure_with_advice(ours, folder, wrap):
    path = str(folder / 'a.mp4')
    image, video = ours['one_stage'](wrap([picture(120, 90, 0, 3), path]), bbox_thr=0.2)
    assert 'error' not in image
    assert video['image'] == path
    assert video['error'] == (
        'expected an image, found a video; a call takes the path of one, or a list of paths '
        'without arrays'
    )
