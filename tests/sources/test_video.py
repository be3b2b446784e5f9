"""Videos: number, time and pixels of every frame, against the number painted into it."""

import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from support.videos import (
    HEIGHT,
    WIDTH,
    cut,
    damage,
    paint,
    painted,
    read_number,
    trim_start,
    write_audio,
    write_sizes,
    write_video,
)

from mmpose_batch.config import VideoOptions
from mmpose_batch.errors import ImageError, SourceError
from mmpose_batch.sources import containers
from mmpose_batch.sources.base import Frame, Pixels
from mmpose_batch.sources.damage import FrameOrder
from mmpose_batch.sources.inputs import open_source
from mmpose_batch.sources.video import (
    VideoInfo,
    is_video_name,
    probe,
    read_video,
    sample_frames,
)
from mmpose_batch.workers import FLUSH

COUNT = 60


def frames_of(path: str, **options: Any) -> list[Frame]:
    return list(read_video(path, 'film.mp4', VideoOptions(**options)))


def number_in(frame: Frame) -> int | str:
    """The painted number, or the message of a frame without pixels."""
    try:
        return read_number(frame.data.read())
    except ImageError as error:
        return str(error)


def numbers_of(path: str, **options: Any) -> list[int | str]:
    return [number_in(frame) for frame in frames_of(path, **options)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('videos')


@pytest.fixture(scope='module')
def film(folder: Path) -> str:
    """60 frames with B-frames and sound, at 25 per second, with the index at the start."""
    path = folder / 'film.mp4'
    return write_video(path, painted(COUNT), audio=True, movflags='faststart')


# ------------------------------------------------------------------- numbers, times and pixels

CONTAINERS = {
    'mp4': ('film.mp4', {}),
    'without B-frames': ('flat.mp4', {'bframes': 0}),
    'many B-frames': ('deep.mp4', {'bframes': 7, 'options': {'b-pyramid': 'normal', 'refs': '4'}}),
    'open GOP': ('open.mp4', {'options': {'x264-params': 'open-gop=1:scenecut=0'}}),
    'fragmented': ('parts.mp4', {'movflags': 'frag_keyframe+empty_moov+default_base_moof'}),
    'mov': ('film.mov', {'audio': True}),
    'mkv': ('film.mkv', {'audio': True}),
    'ts': ('film.ts', {'audio': True}),
    'flv': ('film.flv', {}),
    'HEVC': ('hevc.mp4', {'codec': 'libx265', 'options': {'x265-params': 'log-level=none'}}),
    'MPEG-4 in avi': ('mpeg4.avi', {'codec': 'mpeg4', 'bframes': 0}),
    'MPEG-4 with B-frames': ('mpeg4.mp4', {'codec': 'mpeg4'}),
    'MPEG-2': ('film.mpg', {'codec': 'mpeg2video'}),
    'VP8 with hidden frames': (
        'vp8.webm',
        {'codec': 'libvpx', 'bframes': 0, 'options': {'auto-alt-ref': '1', 'lag-in-frames': '16'}},
    ),
    'VP9': ('vp9.webm', {'codec': 'libvpx-vp9', 'bframes': 0, 'options': {'cpu-used': '8'}}),
    'NTSC': ('ntsc.mp4', {'fps': Fraction(30000, 1001)}),
    'one frame': ('one.mp4', {'count': 1}),
}


@pytest.mark.parametrize('kind', CONTAINERS)
def test_every_frame_has_its_number_and_time(folder, kind):
    name, options = CONTAINERS[kind]
    options = dict(options)
    count, fps = options.pop('count', COUNT), Fraction(options.get('fps', 25))
    path = write_video(folder / name, painted(count), **options)
    frames = frames_of(path)
    assert [number_in(frame) for frame in frames] == list(range(count))
    assert [frame.index for frame in frames] == [frame.frame_id for frame in frames]
    assert [frame.frame_id for frame in frames] == list(range(count))
    exact = name.endswith(('.mp4', '.mov', '.avi'))  # others round to 1/1000 or 1/90000 s
    # In a file with sound, the start of the sound is 0.
    first = frames[0].time if options.get('audio') else 0
    times = [float(first + index / fps) for index in range(count)]
    assert 0 <= first < 0.1
    assert [f.time for f in frames] == pytest.approx(times, abs=1e-12 if exact else 1e-3)
    assert {(f.name, f.source_id, f.time_guessed) for f in frames} == {('film.mp4', path, False)}
    info = probe(path)
    assert (info.width, info.height) == (WIDTH, HEIGHT)
    assert info.fps == pytest.approx(float(fps), rel=1e-3) or count == 1
    assert info.frames is None or abs(info.frames - count) <= 2
    assert info.duration is None or info.duration == pytest.approx(count / fps, abs=0.1)


def test_times_of_a_variable_frame_rate_are_exact(folder):
    steps = np.random.default_rng(0).integers(5, 200, COUNT)
    times = [0.0, *(np.cumsum(steps[1:]) / 1000).tolist()]
    for name in ('varied.mp4', 'varied.mkv'):
        path = write_video(folder / name, painted(COUNT), times=times)
        frames = frames_of(path)
        assert [frame.time for frame in frames] == times
        assert [number_in(frame) for frame in frames] == list(range(COUNT))


def test_times_that_contradict_the_order_are_guessed(folder):
    """AVI has no presentation times, so those of H.264 with B-frames are not in order."""
    path = write_video(folder / 'h264.avi', painted(COUNT))
    frames = frames_of(path)
    assert [number_in(frame) for frame in frames] == list(range(COUNT))
    assert [frame.time for frame in frames] == [index / 25 for index in range(COUNT)]
    assert all(frame.time_guessed for frame in frames)


@pytest.mark.parametrize('start', [10, 12, 15])  # also at a keyframe
def test_frames_before_an_edit_list_do_not_count(folder, film, start):
    path = trim_start(film, folder / f'trimmed{start}.mp4', start / 25)
    frames = frames_of(path)
    assert [number_in(frame) for frame in frames] == list(range(start, COUNT))
    assert [frame.frame_id for frame in frames] == list(range(COUNT - start))
    assert frames[1].time - frames[0].time == pytest.approx(1 / 25)
    assert frames[0].time == 0


def test_a_size_change_gives_the_true_sizes(folder):
    path = write_sizes(folder / 'sizes.ts', [(160, 96), (96, 128), (160, 96)], 10)
    frames = frames_of(path)
    assert [number_in(frame) for frame in frames] == list(range(30))
    shapes = [frame.data.read().shape for frame in frames]
    assert shapes == [(96, 160, 3)] * 10 + [(128, 96, 3)] * 10 + [(96, 160, 3)] * 10


TURNS = [(degrees, mirrored) for degrees in (0, 90, 180, 270) for mirrored in (False, True)]


@pytest.mark.parametrize(('degrees', 'mirrored'), TURNS)
def test_rotation_and_mirroring_are_applied(folder, degrees, mirrored):
    plain = write_video(folder / 'plain.mp4', painted(3))
    turned = write_video(folder / 'turned.mp4', painted(3), turn=(degrees, mirrored))
    for frame, original in zip(frames_of(turned), frames_of(plain), strict=True):
        expected = np.rot90(original.data.read(), degrees // 90)  # counter-clockwise
        expected = expected[:, ::-1] if mirrored else expected
        image = frame.data.read()
        assert np.array_equal(image, expected)
        assert image.flags.c_contiguous and image.flags.writeable
    info = probe(turned)
    assert (info.height, info.width) == expected.shape[:2]


FORMATS = {
    'yuv420p': 'libx264',
    'yuv422p': 'libx264',
    'yuv444p': 'libx264',
    'yuvj420p': 'mjpeg',
    'yuv420p10le': 'libx264',
    'yuv422p10le': 'libx264',
    'gray': 'libx264',
    'rgb24': 'libx264rgb',
    'yuva420p': 'qtrle',
}


@pytest.mark.parametrize('pix_fmt', FORMATS)
@pytest.mark.parametrize('size', [(160, 96), (162, 98), (161, 97)])
def test_pixels_equal_those_of_opencv(folder, pix_fmt, size):
    codec = FORMATS[pix_fmt]
    if codec == 'qtrle':
        pix_fmt = 'argb'
    path = folder / f'{pix_fmt}{size[0]}.mov'
    is_odd = size[0] % 2
    if is_odd and pix_fmt not in ('yuv444p', 'rgb24', 'argb', 'yuvj420p'):
        pytest.skip('the format needs even sizes')
    bframes = 2 if codec == 'libx264' else 0
    write_video(path, painted(4, *size), codec=codec, pix_fmt=pix_fmt, bframes=bframes)
    reader = cv2.VideoCapture(str(path))
    for frame in frames_of(str(path)):
        good, expected = reader.read()
        assert good and np.array_equal(frame.data.read(), expected)
    assert not reader.read()[0]


# ------------------------------------------------------------------- truncated and damaged files


@pytest.mark.parametrize('name', ['front.mp4', 'parts.mp4', 'film.mkv', 'film.avi', 'flat.mp4'])
@pytest.mark.parametrize('share', [0.5, 0.65, 0.7, 0.9])
def test_the_rest_of_a_truncated_file_is_one_failure(folder, name, share):
    movflags = {
        'front.mp4': 'faststart',
        'flat.mp4': 'faststart',
        'parts.mp4': 'frag_keyframe+empty_moov+default_base_moof',
    }
    options = {'movflags': movflags[name]} if name in movflags else {}
    path = folder / f'whole_{name}'
    if not path.exists():
        write_video(path, painted(100), bframes=0 if name == 'flat.mp4' else 2, **options)
    frames = frames_of(cut(str(path), folder / f'cut_{name}', share))
    *good, rest = frames
    count = len(good)
    assert 100 * share - 14 < count < 100 * share + 14
    assert [number_in(frame) for frame in good] == list(range(count))
    assert (rest.index, rest.frame_id) == (count, count)
    assert rest.time == pytest.approx(count / 25)
    message = number_in(rest)
    assert message.startswith('the video is truncated: ')
    assert message.endswith(f' s are missing after frame {count - 1}')
    missing, total = (float(word) for word in message.split() if word[0].isdigit() and '.' in word)
    assert total - missing == pytest.approx(count / 25, abs=0.11)


def test_a_truncated_file_with_the_index_at_its_end_cannot_be_opened(folder):
    path = write_video(folder / 'behind.mp4', painted(20))
    with pytest.raises(SourceError, match=r'without an index \(moov\), which is truncated'):
        probe(cut(path, folder / 'cut.mp4', 0.7))


def test_the_last_frame_of_a_truncated_stream_is_damaged(folder):
    """A transport stream does not declare its end."""
    path = write_video(folder / 'stream.ts', painted(100, grain=6))
    numbers = numbers_of(cut(path, folder / 'cut.ts', 0.7))
    count = next(i for i, number in enumerate(numbers) if isinstance(number, str))
    assert numbers[:count] == list(range(count)) and 50 < count < 80
    assert set(numbers[count:]) <= {f'the video is damaged since frame {count}'}


def test_a_truncated_video_with_longer_sound_is_complete(folder):
    """Matroska may declare only the end of the longest stream."""
    path = write_video(folder / 'sound.webm', painted(30), codec='libvpx', bframes=0)
    assert numbers_of(path) == list(range(30))


DAMAGED = {
    'mp4': ('mp4', {}),
    'mp4 without B-frames': ('mp4', {'bframes': 0}),
    'mp4 CABAC': ('mp4', {'options': {'preset': 'superfast', 'bf': '2', 'crf': '18'}}),
    'mp4 open GOP': ('mp4', {'options': {'x264-params': 'open-gop=1:scenecut=0'}}),
    'mkv': ('mkv', {}),
    'ts': ('ts', {}),
    'MPEG-2': ('ts', {'codec': 'mpeg2video', 'options': {'b': '3000000'}}),
}


@pytest.mark.parametrize('kind', DAMAGED)
def test_no_damaged_frame_has_pixels(folder, kind):
    """Every frame with pixels has those of the undamaged file, and the others keep numbers."""
    suffix, options = DAMAGED[kind]
    count = 48
    whole = write_video(
        folder / f'intact.{suffix}', painted(count, 320, 192, grain=8), **options
    )
    pixels = [frame.data.read() for frame in frames_of(whole)]
    failed = wrong = 0
    for seed in range(6):
        frames = frames_of(damage(whole, folder / f'damaged.{suffix}', seed))
        if suffix == 'mp4':
            assert [frame.frame_id for frame in frames] == list(range(count))
        for frame in frames:
            number = number_in(frame)
            if isinstance(number, str):
                assert number.startswith(('the video is damaged since frame', 'the video is trunc'))
                failed += 1
            else:
                position = round(25 * frame.time)
                wrong += not np.array_equal(frame.data.read(), pixels[position])
    assert failed > 50
    # With CABAC, random bytes may decode to a complete picture.
    assert wrong <= (0.02 * 6 * count if 'CABAC' in kind else 0)


def test_damage_ends_at_the_next_keyframe(folder):
    path = write_video(folder / 'keys.mp4', painted(COUNT, grain=6), gop=10)
    with av.open(path) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        order = [round(packet.pts * packet.time_base * 25) for packet in packets]
        start = packets[22].pos + packets[22].size // 3
    data = bytearray(Path(path).read_bytes())
    data[start : start + 200] = np.random.default_rng(0).bytes(200)
    Path(path).write_bytes(data)
    numbers = numbers_of(path)
    expected = sorted(order[22:30])  # the 31st packet is the keyframe 30
    assert [i for i, number in enumerate(numbers) if isinstance(number, str)] == expected
    good = set(range(COUNT)) - set(expected)
    assert all(numbers[index] == index for index in good)
    assert numbers[29] == 'the video is damaged since frame 24'
