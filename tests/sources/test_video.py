"""Videos: number, time and pixels of every frame, against the number painted into it."""

import gc
import re
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
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
    painted,
    read_number,
    trim_start,
    write_audio,
    write_sizes,
    write_video,
)

from mmpose_batch.config import VideoOptions
from mmpose_batch.errors import ImageError, SourceError
from mmpose_batch.sources import containers, decoding
from mmpose_batch.sources.base import Frame, Pixels
from mmpose_batch.sources.containers import probe
from mmpose_batch.sources.damage import FrameOrder
from mmpose_batch.sources.inputs import open_source
from mmpose_batch.sources.items import Items
from mmpose_batch.sources.video_frames import read_video, sample_frames
from mmpose_batch.sources.video_names import is_video_name
from mmpose_batch.workers import Marker

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


# Offset in an AVI file, and the number there, with four bytes.
AVI_HEADERS = {
    'unit': (128, 0xFF01),  # 25/65281 frames per second
    'rate': (132, 0x7FFFFFFF),
    'delay': (136, 0x10000),  # 2621 s
}


def avi_with(folder: Path, codec: str, offset: int, number: int) -> str:
    path = folder / f'{codec}.avi'
    if not path.exists():
        pix_fmt = 'yuvj420p' if codec == 'mjpeg' else 'yuv420p'
        write_video(path, painted(COUNT), codec=codec, pix_fmt=pix_fmt, bframes=0)
    return with_number(path, offset, number)


def with_number(path: Path, offset: int, number: int) -> str:
    data = bytearray(path.read_bytes())
    data[offset : offset + 4] = number.to_bytes(4, 'little')
    changed = path.with_stem(f'{path.stem}{offset}')
    changed.write_bytes(data)
    return str(changed)


@pytest.mark.parametrize('codec', ['libx264', 'mpeg4', 'mjpeg'])
@pytest.mark.parametrize(('offset', 'number'), AVI_HEADERS.values(), ids=AVI_HEADERS)
def test_times_of_a_damaged_avi_header_are_guessed(folder, codec, offset, number):
    path = avi_with(folder, codec, offset, number)
    frames = frames_of(path)
    assert [number_in(frame) for frame in frames] == list(range(COUNT))
    assert [frame.time for frame in frames] == [index / 25 for index in range(COUNT)]
    assert all(frame.time_guessed for frame in frames)
    info = probe(path)
    assert (info.fps, info.frames) == (25, COUNT)
    assert info.duration == pytest.approx(COUNT / 25)


def test_a_slow_avi_is_not_damaged(folder):
    path = write_video(
        folder / 'slow.avi', painted(8), fps=Fraction(1, 20), codec='mpeg4', bframes=0
    )
    assert [(f.time, f.time_guessed) for f in frames_of(path)] == [
        (20 * n, False) for n in range(8)
    ]


def test_the_index_of_an_avi_tells_a_wrong_length_from_a_truncated_file(folder):
    path = avi_with(folder, 'mpeg4', 140, 6000)
    assert probe(path).frames == COUNT
    assert numbers_of(path) == list(range(COUNT))
    *_, rest = numbers_of(cut(path, folder / 'cut.avi', 0.8))
    assert rest.startswith('the video is truncated: 238.')


def test_a_count_of_more_frames_than_the_duration_has_is_ignored(folder, film):
    data = bytearray(Path(film).read_bytes())
    # The number of frames of the first duration, after a version and the number of durations.
    start = data.index(b'stts') + 12
    data[start : start + 4] = (2**24 + COUNT).to_bytes(4, 'big')
    path = folder / 'stts.mp4'
    path.write_bytes(data)
    assert probe(str(path)).frames == COUNT
    assert numbers_of(str(path)) == list(range(COUNT))


def test_a_duration_of_more_frames_than_bytes_is_doubted(folder):
    path = Path(write_video(folder / 'long.wmv', painted(COUNT), codec='mpeg4', bframes=0))
    data = bytearray(path.read_bytes())
    data[99] = 0xFF
    path.write_bytes(data)
    info = probe(str(path))
    assert (info.frames, info.duration) == (None, None)
    *frames, rest = numbers_of(str(path))
    assert frames == list(range(COUNT))
    assert rest.startswith('the video is truncated, or its header declares a wrong duration: 28')


@pytest.mark.parametrize('is_declared', [True, False])
def test_times_far_behind_the_declared_end_are_guessed(folder, is_declared):
    times = [n / 25 + 100 * (n >= 40) for n in range(COUNT)]
    path = Path(write_video(folder / 'jump.mkv', painted(COUNT), times=times, bframes=0))
    if not is_declared:
        path.write_bytes(path.read_bytes().replace(b'00:01:4', b'00:00:0'))
    frames = frames_of(str(path))
    assert [number_in(frame) for frame in frames] == list(range(COUNT))
    expected = times if is_declared else [n / 25 for n in range(COUNT)]
    assert [frame.time for frame in frames] == pytest.approx(expected, abs=0.1)
    assert [frame.time_guessed for frame in frames] == [
        not is_declared and n >= 40 for n in range(COUNT)
    ]


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


EVEN, ODD = [(160, 96), (162, 98)], (161, 97)
# Chroma of full size, or rounded up by the encoder; other formats need even sizes.
TAKES_ODD = ('yuv444p', 'rgb24', 'yuva420p', 'yuvj420p')
PICTURES = [(name, size) for name in FORMATS for size in (*EVEN, ODD)]


@pytest.mark.parametrize(
    ('pix_fmt', 'size'), [(f, s) for f, s in PICTURES if s != ODD or f in TAKES_ODD]
)
def test_pixels_equal_those_of_opencv(folder, pix_fmt, size):
    codec = FORMATS[pix_fmt]
    if codec == 'qtrle':
        pix_fmt = 'argb'
    path = folder / f'{pix_fmt}{size[0]}.mov'
    bframes = 2 if codec == 'libx264' else 0
    write_video(path, painted(4, *size), codec=codec, pix_fmt=pix_fmt, bframes=bframes)
    reader = cv2.VideoCapture(str(path))
    for frame in frames_of(str(path)):
        good, expected = reader.read()
        assert good and np.array_equal(frame.data.read(), expected)
    assert not reader.read()[0]


# ------------------------------------------------------------------- truncated and damaged files


@pytest.mark.parametrize('name', ['front.mp4', 'parts.mp4', 'film.mkv', 'film.avi', 'flat.mp4'])
@pytest.mark.parametrize('share', [0.5, 0.65, 0.9])
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


@pytest.mark.parametrize(
    ('name', 'movflags'),
    [('stream.ts', ''), ('stream.mp4', 'frag_keyframe+empty_moov+default_base_moof')],
)
def test_the_last_frames_of_a_truncated_stream_are_damaged(folder, name, movflags):
    """Transport streams do not declare their end, and fragments only their own."""
    options = {'movflags': movflags} if movflags else {}
    path = write_video(folder / name, painted(100), **options)
    numbers = numbers_of(cut(path, folder / f'cut_{name}', 0.7))
    count = next(i for i, number in enumerate(numbers) if isinstance(number, str))
    assert numbers[:count] == list(range(count)) and 50 < count < 80
    assert set(numbers[count:]) == {f'the video is damaged since frame {count}'}


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
    whole = write_video(folder / f'intact.{suffix}', painted(count, 320, 192, grain=8), **options)
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


def test_a_frame_without_times_has_a_guessed_time(folder):
    path = write_video(folder / 'timed.ts', painted(COUNT))
    data = bytearray(Path(path).read_bytes())
    starts = [match.start() for match in re.finditer(b'\0\0\1\xe0', data)]
    for start in starts[30:34]:
        data[start + 7] = 0  # the header says that it has no times
    Path(path).write_bytes(data)
    frames = frames_of(path)
    assert [number_in(frame) for frame in frames] == list(range(COUNT))
    assert [frame.time for frame in frames] == pytest.approx([i / 25 for i in range(COUNT)])
    assert [f.time_guessed for f in frames] == [i >= 28 for i in range(COUNT)]


@pytest.mark.parametrize('overlap', [5, 20])
@pytest.mark.parametrize('count', [15, COUNT])  # also within the first packets
def test_times_continue_where_those_of_joined_streams_go_back(folder, overlap, count):
    first = write_video(folder / 'first.ts', painted(count))
    times = [max(0, count - overlap) / 25 + index / 25 for index in range(COUNT)]
    second = write_video(folder / 'second.ts', painted(COUNT), times=times)
    path = folder / 'joined.ts'
    path.write_bytes(Path(first).read_bytes() + Path(second).read_bytes())
    frames = frames_of(str(path))
    numbers = [number_in(frame) for frame in frames]
    assert numbers[: count - 3] == list(range(count - 3))  # the last one may be incomplete
    assert numbers[count:] == list(range(COUNT))
    assert np.diff([frame.time for frame in frames]) == pytest.approx(1 / 25)
    assert all(frame.time_guessed for frame in frames[count:])


def test_a_time_far_behind_the_declared_end_is_not_used(folder):
    path = write_video(folder / 'far.flv', painted(COUNT), bframes=0)
    data = bytearray(Path(path).read_bytes())
    tag = 13
    for _ in range(30):
        tag += 15 + int.from_bytes(data[tag + 1 : tag + 4])
    data[tag + 7] = 200  # the highest byte of the time
    Path(path).write_bytes(data)
    frames = frames_of(path)
    assert [number_in(frame) for frame in frames] == list(range(COUNT))
    assert [f.time for f in frames] == pytest.approx([i / 25 for i in range(COUNT)], abs=1e-3)
    assert [frame.time_guessed for frame in frames[:20]] == [False] * 20
    assert all(frame.time_guessed for frame in frames[30:])


def test_no_time_is_before_the_start_of_the_file(folder, monkeypatch):
    """As in damaged MPEG program streams, where FFmpeg takes a later time for the start."""
    path = write_video(folder / 'early.mp4', painted(10))
    monkeypatch.setattr(decoding, 'start_of', lambda container: Fraction(2, 25))
    frames = frames_of(path)
    assert [frame.time for frame in frames] == [max(0, i - 2) / 25 for i in range(10)]
    assert [frame.time_guessed for frame in frames] == [i < 2 for i in range(10)]
    monkeypatch.setattr(decoding, 'start_of', lambda container: Fraction(2000))
    frames = frames_of(path)
    assert [frame.time for frame in frames] == [i / 25 for i in range(10)]
    assert all(frame.time_guessed for frame in frames)


def test_a_stream_that_damage_adds_is_the_end():
    """PyAV raises an error for it when all packets have been read."""

    class Container:
        def demux(self, *_: Any) -> Iterator[Any]:
            yield SimpleNamespace(size=1)
            yield SimpleNamespace(size=0)
            raise IndexError('list index out of range')

    assert [packet.size for packet in containers.packets_of(Container())] == [1]


def test_videos_are_decoded_on_one_thread(folder, monkeypatch):
    """Frames of damaged and truncated files would depend on the number of decoder threads."""
    path = write_video(folder / 'threads.mp4', painted(COUNT, grain=6), movflags='faststart')
    path = cut(damage(path, folder / 'hurt.mp4', 2), folder / 'hurt.mp4', 0.9)
    decoders = []
    opened = containers._video_stream

    def recorded(container: Any) -> Any:
        decoders.append(opened(container).codec_context)
        return opened(container)

    monkeypatch.setattr(containers, '_video_stream', recorded)
    first, again = ([(f.frame_id, number_in(f)) for f in frames_of(path)] for _ in range(2))
    assert first == again
    assert len(decoders) > 2  # also those after damage
    assert {decoder.thread_count for decoder in decoders} == {1}


# ------------------------------------------------------------------- files that are no videos


def unusable(folder: Path) -> dict[str, str]:
    (folder / 'empty.mp4').touch()
    (folder / 'junk.mp4').write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / 'text.mp4').write_text('no film')
    (folder / 'folder.mp4').mkdir(exist_ok=True)
    write_audio(folder / 'sound.mp4')
    whole = Path(write_video(folder / 'hollow.mp4', painted(5), movflags='faststart'))
    data = whole.read_bytes()
    whole.write_bytes(data[: data.index(b'mdat') + 4])
    return {
        'missing.mp4': 'no such file',
        'empty.mp4': 'an empty file',
        'junk.mp4': '5000 bytes that are damaged or no video',
        'text.mp4': '7 bytes that are damaged or no video',
        'folder.mp4': 'a folder, pipe, device or broken link',
        'sound.mp4': 'a file with sound only',
        'hollow.mp4': 'one without a frame that can be decoded',
    }


def test_a_file_without_frames_is_an_error_of_one_line(folder):
    for name, found in unusable(folder).items():
        path = str(folder / name)
        with pytest.raises(SourceError) as error:
            probe(path)
        assert str(error.value) == f'inputs: expected a video, found {found}: {path}'
        assert sample_frames(path, 3) == []
        if name != 'hollow.mp4':
            with pytest.raises(SourceError):
                next(read_video(path, 'film.mp4'))


def test_without_pyav_the_error_names_the_extra(film, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(SourceError, match=r"videos need PyAV: pip install 'mmpose-batch\[video\]'"):
        probe(film)


@pytest.mark.parametrize('name', ['a:b.mp4', '%03d.mp4', 'caf\udce9.mp4', ' .mp4'])
def test_any_file_name_can_be_read(folder, film, name):
    path = folder / name
    path.write_bytes(Path(film).read_bytes())
    assert probe(str(path)) == probe(film)
    assert len(frames_of(str(path))) == COUNT


@pytest.mark.parametrize(
    ('name', 'expected'),
    [('a.mp4', True), ('b/C.MOV', True), ('a.mp4.txt', False), ('mp4', False), ('a.gif', False)],
)
def test_videos_are_known_by_their_suffix(name, expected):
    assert is_video_name(name) == expected


# ------------------------------------------------------------------- selection and life


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, range(COUNT)),
        ({'vid_stride': 7}, range(0, COUNT, 7)),
        ({'start': 0.4}, range(10, COUNT)),
        ({'start': 0.41}, range(11, COUNT)),
        ({'start': '0:01', 'vid_stride': 10}, range(25, COUNT, 10)),
        ({'end': 0.4}, range(10)),
        ({'end': 0.41}, range(11)),
        ({'start': 1, 'end': 2, 'vid_stride': 3}, range(25, 50, 3)),
        ({'start': 100}, range(0)),
        ({'end': 100}, range(COUNT)),
    ],
)
def test_selected_frames_keep_their_numbers_and_times(folder, options, expected):
    path = folder / 'selected.mp4'
    if not path.exists():
        write_video(path, painted(COUNT))
    frames = frames_of(str(path), **options)
    assert [number_in(frame) for frame in frames] == list(expected)
    assert [frame.frame_id for frame in frames] == list(expected)
    assert [frame.time for frame in frames] == [number / 25 for number in expected]
    assert [frame.index for frame in frames] == list(range(len(expected)))


def test_the_missing_rest_is_selected_by_its_times(folder):
    path = write_video(folder / 'long.mp4', painted(100), movflags='faststart')
    path = cut(path, folder / 'short.mp4', 0.5)
    rest = frames_of(path)[-1]
    for options, is_selected in (
        ({'end': rest.time}, False),
        ({'end': rest.time + 0.1}, True),
        ({'start': 3.5}, True),
        ({'start': 5}, False),
        ({'vid_stride': 1000}, True),
    ):
        numbers = [frame.frame_id for frame in frames_of(path, **options)]
        assert (rest.frame_id in numbers) == is_selected, options


def test_pixels_can_be_read_on_any_thread_after_the_iteration(film):
    iterator = read_video(film, 'film.mp4')
    frames = [next(iterator) for _ in range(20)]
    iterator.close()  # in the middle
    assert all(isinstance(frame.data, Pixels) for frame in frames)
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda f=frame: found.append(number_in(f))) for frame in frames
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(20))
    assert number_in(frames[0]) == number_in(frames[0]) == 0  # again


def test_samples_are_intact_frames_spread_over_the_video(film, folder):
    samples = sample_frames(film, 4)
    numbers = [number_in(frame) for frame in samples]
    assert numbers == [0, 12, 24, 36]  # keyframes
    assert [number_in(frame) for frame in sample_frames(film, 4)] == numbers
    assert {frame.frame_id for frame in samples} == {None}
    one = write_video(folder / 'single.mp4', painted(1))
    assert [number_in(frame) for frame in sample_frames(one, 4)] == [0]


def test_a_video_is_an_input_of_the_inferencer(film):
    source = open_source(film)
    assert (source.video_name, source.length, source.fps) == ('film.mp4', COUNT, 25)
    frames = [item for item in source if not isinstance(item, Marker)]
    assert [number_in(frame) for frame in frames] == list(range(COUNT))
    assert frames[7].name == 'film.mp4'


# ------------------------------------------------------------------- the order of frames


class Picture:
    """Stands for PyAV's frame."""

    def __init__(self, **flags: bool) -> None:
        self.key_frame = flags.get('key', False)
        self.pict_type = 1 if self.key_frame else 2
        self.is_corrupt = flags.get('corrupt', False)
        self.interlaced_frame = flags.get('interlaced', False)


def test_the_second_field_of_a_frame_does_not_count():
    """Some streams have one packet for each field, and decoders output one frame for both."""
    order = FrameOrder(has_times=True)
    for frame in range(4):
        for field in range(2):
            time = 2 * frame + field
            order.add(time, time, is_key=time == 0, has_fault=False)
        assert order.put(2 * frame, Picture(key=frame == 0, interlaced=True))
    order.finish()
    assert [(item.number, item.is_bad) for item in order.ready()] == [
        (0, False),
        (2, False),
        (4, False),
        (6, False),
    ]


def test_frames_that_wait_do_not_grow_without_bound():
    order = FrameOrder(has_times=False)
    order.add(None, None, is_key=True, has_fault=False)
    order.put(0, Picture(key=True))
    order.add(None, None, is_key=False, has_fault=False)  # lost
    ready = list(order.ready())
    for number in range(2, 200):
        order.add(None, None, is_key=False, has_fault=False)
        order.put(number, Picture())
        ready += order.ready()
    assert len(ready) > 150
    assert [item.is_bad for item in ready[:1]] == [False] and all(i.is_bad for i in ready[1:-40])


def test_frames_that_were_used_are_not_kept(folder):
    path = write_video(folder / 'long.mp4', painted(300))
    peak = 0
    for frame in read_video(path, 'film.mp4'):
        if frame.index % 30 == 0:
            peak = max(peak, sum(type(each) is decoding.VideoPixels for each in gc.get_objects()))
    assert 0 < peak <= 8


def test_frames_are_freed_without_the_garbage_collector(film):
    gc.collect()
    gc.disable()
    try:
        for frame in read_video(film, ''):
            frame.data.read()
        del frame
        left = sum(type(each) is av.VideoFrame for each in gc.get_objects())
    finally:
        gc.enable()
    assert left == 0


def test_names_of_repeated_videos_are_unique():
    paths = ['in/a.mp4', 'in/a-2.mp4', 'in/a.mp4', 'in/b/a.mp4', 'in/a.mp4']
    names = [video.name for video in Items(paths).videos]
    assert names == ['a.mp4', 'a-2.mp4', 'a-3.mp4', 'b/a.mp4', 'a-4.mp4']
