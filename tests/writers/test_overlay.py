"""Videos with drawn poses: frames, times, audio and colours, and what a failure leaves."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from mmengine.structures import InstanceData
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.visualization import PoseLocalVisualizer
from support.videos import paint, painted, read_number, write_video

from mmpose_batch.config import DrawOptions, VideoOptions
from mmpose_batch.errors import ImageError, SourceError
from mmpose_batch.models.keypoints import Keypoints
from mmpose_batch.sources.video_frames import read_video
from mmpose_batch.writers.video import encoding
from mmpose_batch.writers.video.canvas import target_of
from mmpose_batch.writers.video.openpose import _BODY, OpenPoseDrawer
from mmpose_batch.writers.video.overlay import write_overlay
from mmpose_batch.writers.video.poses import PoseDrawer, track_colour

NAMES = ('nose', 'left_hand', 'right_hand', 'left_foot')
META = {
    'num_keypoints': len(NAMES),
    'keypoint_id2name': dict(enumerate(NAMES)),
    'skeleton_links': [(0, 1), (0, 2), (0, 3)],
}
VFR = [0, 0.04, 0.1, 0.2, 0.25, 0.3, 0.35, 0.5, 0.533, 0.566, 0.6, 0.633]


def person(x: float, y: float, scores: Sequence[float] = (1, 1, 1, 1), **more: Any) -> dict:
    """A person with its nose at (x, y)."""
    points = [[x, y], [x + 20, y + 12], [x - 20, y + 12], [x + 8, y + 28]]
    box = [x - 24, y - 8, x + 24, y + 32]
    return {
        'keypoints': points,
        'keypoint_scores': list(scores),
        'bbox': box,
        'bbox_score': 0.9,
        **more,
    }


def records_of(
    path: str, options: VideoOptions | None = None, persons: Sequence[dict] = ()
) -> Iterator[dict]:
    """Records as a run writes them."""
    for frame in read_video(path, 'film', options):
        record = {'video': 'film', 'frame': frame.frame_id, 'time': frame.time}
        try:
            height, width = frame.data.read().shape[:2]
        except ImageError as error:
            yield {**record, 'error': str(error)}
            continue
        yield {**record, 'width': width, 'height': height, 'instances': list(persons)}


def overlay_of(path: str, options: VideoOptions | None = None, **more: Any) -> str:
    """Write the overlay of a video without persons; returns its path."""
    out = f'{path}-overlay.mp4'
    options = options or VideoOptions()
    records = records_of(path, options)
    write_overlay(path, out, records, Keypoints(META), DrawOptions(), options, **more)
    return out


def pictures(path: str) -> list[np.ndarray]:
    with av.open(path) as file:
        return [frame.to_ndarray(format='bgr24') for frame in file.decode(video=0)]


def numbers(path: str) -> list[int]:
    return [read_number(image) for image in pictures(path)]


def times(path: str) -> list[float]:
    """Times of the frames in seconds, from the start of the file."""
    return [frame.time for frame in read_video(path, '')]


def audio(path: str) -> list[tuple[float, bytes]]:
    """Times and bytes of the audio packets."""
    with av.open(path) as file:
        start = file.start_time / 1e6
        packets = [p for p in file.demux(audio=0) if p.size]
        return [(float(p.pts * p.time_base) - start, bytes(p)) for p in packets]


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('film.mp4', {'audio': True}),
        ('film.mp4', {'fps': 30, 'bframes': 0}),
        ('film.mkv', {'times': VFR, 'audio': True}),
        ('film.ts', {'audio': True}),
        ('film.avi', {'codec': 'mpeg4', 'bframes': 0, 'audio': True}),
    ],
    ids=['B-frames', 'no B-frames', 'variable rate', 'late start', 'AVI'],
)
def test_frames_times_and_audio_are_those_of_the_source(tmp_path, name, options):
    path = write_video(tmp_path / name, painted(12), **options)
    out = overlay_of(path)
    assert numbers(out) == list(range(12))
    assert times(out) == pytest.approx(times(path), abs=1e-6)
    if 'audio' in options:
        (found_times, found), (expected_times, expected) = (
            zip(*audio(each), strict=True) for each in (out, path)
        )
        assert len(found) > 1
        assert found_times == pytest.approx(expected_times, abs=1e-3)
        if name.endswith('.ts'):  # whose packets have a header of seven bytes
            expected = [packet[7:] for packet in expected]
        assert found == tuple(expected)


def test_units_of_time_are_those_of_the_source(tmp_path):
    path = write_video(tmp_path / 'film.mp4', painted(12), bframes=2)
    stamps = []
    for each in (path, overlay_of(path)):
        with av.open(each) as file:
            stream = file.streams.video[0]
            packets = sorted(p.pts for p in file.demux(stream) if p.size)
            stamps.append((stream.time_base, packets, stream.duration))
    assert stamps[0] == stamps[1]


@pytest.mark.parametrize(('offset', 'number'), [(128, 0xFF01), (132, 0x7FFFFFFF)])
def test_a_wrong_unit_of_time_is_not_used(tmp_path, offset, number):
    path = Path(write_video(tmp_path / 'a.avi', painted(9), codec='mpeg4', bframes=0))
    data = bytearray(path.read_bytes())
    data[offset : offset + 4] = number.to_bytes(4, 'little')
    path.write_bytes(data)
    overlay = overlay_of(str(path))
    assert times(overlay) == pytest.approx([n / 25 for n in range(9)], abs=1e-3)


def test_browsers_can_play_it_while_it_loads(tmp_path):
    out = overlay_of(write_video(tmp_path / 'film.mp4', painted(3)))
    with av.open(out) as file:
        context = file.streams.video[0].codec_context
        assert (context.name, context.profile, context.pix_fmt) == ('h264', 'High', 'yuv420p')
    data = Path(out).read_bytes()
    assert 0 < data.index(b'moov') < data.index(b'mdat')
    assert files_of(tmp_path) == ['film.mp4', 'film.mp4-overlay.mp4']


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'vid_stride': 4}, [0, 4, 8, 12, 16, 20, 24, 28]),
        ({'start': 0.39, 'end': 0.79}, list(range(10, 20))),
        ({'start': 0.39, 'end': 0.6, 'vid_stride': 2}, [10, 12, 14]),
    ],
)
def test_a_part_of_a_video_starts_at_its_first_frame_with_the_audio_of_that_time(
    tmp_path, options, expected
):
    path = write_video(tmp_path / 'film.mp4', painted(30), audio=True)
    options = VideoOptions(**options)
    out = overlay_of(path, options)
    assert numbers(out) == expected
    start, end = options.seconds
    origin = 0 if start is None else expected[0] / 25
    assert times(out) == pytest.approx([number / 25 - origin for number in expected])
    wanted = [p for p in audio(path) if origin <= p[0] < (end or 9)]
    with av.open(out) as file:  # its start may be later than that of the video
        found = [
            (float(p.pts * p.time_base) + origin, bytes(p)) for p in file.demux(audio=0) if p.size
        ]
    assert len(found) > 2
    assert [data for _, data in found] == [data for _, data in wanted]
    assert [t for t, _ in found] == pytest.approx([t for t, _ in wanted], abs=1e-4)


def test_audio_that_mp4_cannot_carry_is_left_out_with_a_line(tmp_path, caplog):
    path = str(tmp_path / 'film.mkv')
    with av.open(path, 'w') as file:
        stream = file.add_stream('mpeg4', rate=25, width=160, height=96, pix_fmt='yuv420p')
        sound = file.add_stream('pcm_s16le', rate=8000, layout='mono')
        silence = np.zeros((1, 800), np.int16)
        frame = av.AudioFrame.from_ndarray(silence, format='s16', layout='mono')
        frame.sample_rate = 8000
        for image in painted(3):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='bgr24')))
        file.mux([*stream.encode(), *sound.encode(frame), *sound.encode()])
    with caplog.at_level(logging.WARNING, 'mmpose_batch'):
        out = overlay_of(path)
    with av.open(out) as file:
        assert not file.streams.audio
    (record,) = caplog.records
    assert record.getMessage() == (
        f'{path}: MP4 cannot carry its pcm_s16le audio, which is left out'
    )


def test_audio_whose_time_goes_back_is_left_out_with_a_line(tmp_path, caplog):
    """As in two transport streams that were joined."""
    part = write_video(tmp_path / 'part.ts', painted(50), bframes=0, audio=True)
    path = tmp_path / 'film.ts'
    path.write_bytes(2 * Path(part).read_bytes())
    with caplog.at_level(logging.WARNING, 'mmpose_batch'):
        out = overlay_of(str(path))
    assert len(numbers(out)) == 100
    assert 20 < len(audio(out)) <= len(audio(part))
    assert [record.getMessage() for record in caplog.records] == [
        f'{path}: damaged audio, or audio whose time goes back, is left out'
    ]


@pytest.mark.parametrize(
    ('size', 'options', 'expected'),
    [
        pytest.param((161, 97), {'pix_fmt': 'yuv444p'}, (162, 98), id='odd'),
        pytest.param((160, 96), {'turn': (90, False)}, (96, 160), id='rotated'),
        pytest.param((160, 96), {'turn': (180, True)}, (160, 96), id='mirrored'),
    ],
)
def test_pictures_are_upright_and_of_even_size(tmp_path, size, options, expected):
    path = write_video(tmp_path / 'film.mp4', painted(3, *size), **options)
    found = pictures(overlay_of(path))
    shown = [frame.data.read() for frame in read_video(path, '')]
    for one, other in zip(found, shown, strict=True):
        assert (one.shape[1], one.shape[0]) == expected
        height, width = other.shape[:2]
        assert np.abs(one[:height, :width].astype(int) - other).mean() < 8
    assert np.abs(found[0].astype(int) - np.rot90(found[0], 2)).mean() > 30


def test_frames_of_another_size_are_fitted_into_that_of_the_first(tmp_path):
    parts = [write_video(tmp_path / f'{width}.ts', painted(4, width, 96)) for width in (160, 320)]
    path = tmp_path / 'film.ts'
    path.write_bytes(b''.join(Path(part).read_bytes() for part in parts))
    found = pictures(overlay_of(str(path)))
    frames = list(read_video(str(path), ''))
    assert len(found) == len(frames) >= 7
    assert {image.shape for image in found} == {(96, 160, 3)}
    assert read_number(found[0]) == 0
    # Black borders above and below.
    assert found[-1][:20].mean() < 12
    assert found[-1][-20:].mean() < 12
    assert read_number(found[-1][24:72]) == read_number(frames[-1].data.read())


def damage(path: str, number: int) -> None:
    """Overwrite the second half of the packet of a frame, in decoding order."""
    with av.open(path) as file:
        packet = [p for p in file.demux(video=0) if p.size][number]
        size = packet.size // 2
    with open(path, 'r+b') as file:
        file.seek(packet.pos + packet.size - size)
        file.write(np.random.default_rng(0).bytes(size))


@pytest.mark.parametrize('broken', [15, 0], ids=['inside', 'first'])
def test_damaged_frames_show_the_last_intact_one(tmp_path, broken):
    path = write_video(tmp_path / 'film.mp4', painted(36), bframes=0)
    damage(path, broken)
    expected, last = [], -1
    for record in records_of(path):
        last = last if 'error' in record else record['frame']
        expected.append(last)
    assert expected.count(-1 if broken == 0 else broken - 1) > 3
    out = overlay_of(path)
    assert numbers(out) == expected
    assert times(out) == pytest.approx([number / 25 for number in range(36)])
    reddish = [image[80:, :, 2].mean() - image[80:, :, 1].mean() for image in pictures(out)]
    is_marked = [value > reddish[-1] + 20 for value in reddish]
    assert is_marked == [number != place for place, number in enumerate(expected)]


def test_a_truncated_video_has_one_frame_for_the_missing_rest(tmp_path):
    path = write_video(tmp_path / 'film.mp4', painted(48), movflags='faststart')
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) * 2 // 3])
    frames = list(read_video(path, ''))
    with pytest.raises(ImageError, match='truncated'):
        frames[-1].data.read()
    out = overlay_of(path)
    good = len(frames) - 1
    assert numbers(out)[: good - 1] == list(range(good - 1))
    with av.open(out) as file:
        found = [frame.time for frame in file.decode(video=0)]
    assert found == pytest.approx([frame.time for frame in frames])


@pytest.mark.parametrize('num_workers', [0, 3])
def test_poses_of_records_are_drawn_at_their_places(tmp_path, num_workers):
    path = write_video(tmp_path / 'film.mp4', (paint(0, 320, 192) * 0 for _ in range(6)))
    counts: list[int] = []
    records = [
        {**record, 'instances': [person(60 + 30 * i, 70, track_id=4)]}
        for i, record in enumerate(records_of(path))
    ]
    out = str(tmp_path / 'out.mp4')
    drawing = DrawOptions(radius=6, thickness=4)
    write_overlay(
        path,
        out,
        iter(records),
        Keypoints(META),
        drawing,
        num_workers=num_workers,
        progress=counts.append,
    )
    assert counts == [1, 2, 3, 4, 5, 6]
    for i, image in enumerate(pictures(out)):
        x = 60 + 30 * i
        assert np.abs(image[70, x].astype(int) - track_colour(4)).max() < 60
        assert image[150:].max() < 40


def drawn(persons: Sequence[dict], keypoints: Keypoints | None = None, **options: Any) -> Any:
    """A drawing on a black image of 320 x 192."""
    image = np.zeros((192, 320, 3), np.uint8)
    drawer = PoseDrawer(keypoints or Keypoints(META), DrawOptions(**options))
    drawer.draw(target_of(image), {'instances': list(persons)})
    return image


def colour_at(image: np.ndarray, x: int, y: int) -> tuple[int, ...]:
    return tuple(image[y, x].tolist())


def test_a_person_has_the_colour_of_its_track_in_every_frame():
    first = drawn([person(80, 60, track_id=1), person(220, 60, track_id=2)])
    later = drawn([person(100, 90, track_id=2), person(200, 90, track_id=1)])
    assert colour_at(first, 80, 60) == colour_at(later, 200, 90) == track_colour(1)
    assert colour_at(first, 220, 60) == colour_at(later, 100, 90) == track_colour(2)
    assert len({track_colour(track_id) for track_id in range(12)}) == 12
    unconfirmed = drawn([person(80, 60, track_id=None), person(220, 60, track_id=2)])
    assert colour_at(unconfirmed, 80, 60) == (190, 190, 190)


def test_without_tracks_persons_are_coloured_from_left_to_right():
    people = [person(80, 60), person(220, 60, bbox_score=0.95)]
    one, other = drawn(people), drawn(people[::-1])
    np.testing.assert_array_equal(one, other)
    assert colour_at(one, 80, 60) == track_colour(0)
    assert colour_at(one, 220, 60) == track_colour(1)


def test_the_right_side_of_a_body_is_darker():
    image = drawn([person(100, 60, track_id=0)])
    left, right = (np.array(colour_at(image, 100 + side, 72)) for side in (20, -20))
    np.testing.assert_array_equal(left, track_colour(0))
    np.testing.assert_allclose(right, 0.7 * left, atol=1)


@pytest.mark.parametrize(
    ('options', 'place', 'is_drawn'),
    [
        pytest.param({}, (76, 92), False, id='no box'),
        pytest.param({'draw_bbox': True}, (76, 80), True, id='box'),
        pytest.param({}, (108, 88), True, id='above threshold'),
        pytest.param({'kpt_thr': 0.6}, (108, 88), False, id='below threshold'),
        pytest.param({'kpt_thr': 0.6}, (104, 74), False, id='link to it'),
        pytest.param({'radius': 9}, (107, 57), True, id='large radius'),
        pytest.param({'radius': 5}, (107, 57), False, id='small radius'),
        pytest.param({'thickness': 9}, (90, 69), True, id='thick'),
        pytest.param({'thickness': 2}, (90, 71), False, id='thin'),
    ],
)
def test_options_of_drawings_are_respected(options, place, is_drawn):
    image = drawn([person(100, 60, scores=(1, 1, 1, 0.5))], **options)
    assert (image[place[1], place[0]].max() > 60) == is_drawn


@pytest.mark.parametrize(('height', 'expected'), [(192, 2), (720, 4), (2160, 12)])
def test_default_sizes_follow_the_height_of_the_image(height, expected):
    image = np.zeros((height, 200, 3), np.uint8)
    alone = person(100, 60, scores=(1, 0, 0, 0))
    PoseDrawer(Keypoints(META), DrawOptions()).draw(target_of(image), {'instances': [alone]})
    bright = (image.max(axis=2) > 60).any(axis=0)
    assert (bright.sum() - 1) / 2 == pytest.approx(expected, abs=1)


def test_links_are_those_of_the_keypoints_that_a_model_outputs():
    alone = {'keypoints': [[40, 40], [140, 140]], 'keypoint_scores': [1, 1], 'track_id': 0}
    for indices, is_linked in (((0, 3), True), ((1, 2), False)):
        image = drawn([alone], Keypoints(META, indices))
        assert (colour_at(image, 90, 90) == track_colour(0)) == is_linked


def test_persons_far_outside_or_without_keypoints_do_not_fail():
    people = [
        person(1e9, -1e9, track_id=1),
        person(100, 60, scores=(0, 0, 0, 0), track_id=2),
        {'keypoints': [[5, 5]] * 4, 'keypoint_scores': [0] * 4, 'track_id': 3},
        person(-30, 60, track_id=123456),
    ]
    assert drawn(people, draw_bbox=True).any()


# x and y of COCO's keypoints, from the nose to the ankles.
STANDING = [
    *([160, 30], [172, 16], [148, 16], [188, 30], [132, 30], [184, 60], [136, 60], [204, 90]),
    *([116, 90], [220, 120], [100, 120], [176, 110], [144, 110], [184, 145], [136, 145]),
    *([190, 180], [130, 180]),
]


def test_the_style_of_openpose_has_the_links_and_colours_of_mmpose():
    meta = parse_pose_metainfo({'from_file': 'configs/_base_/datasets/coco.py'})
    scores = np.ones(17)
    scores[9] = 0.1  # a wrist that is not drawn
    instance = {'keypoints': STANDING, 'keypoint_scores': scores.tolist()}
    options = DrawOptions(skeleton_style='openpose', radius=1, thickness=3)
    found = np.zeros((192, 320, 3), np.uint8)
    OpenPoseDrawer(Keypoints(meta), options).draw(target_of(found), {'instances': [instance]})
    visualizer = PoseLocalVisualizer(radius=1, line_width=3)
    visualizer.set_dataset_meta(meta, 'openpose')
    expected = visualizer._draw_instances_kpts_openpose(
        np.zeros_like(found),
        InstanceData(keypoints=np.array([STANDING], float), keypoints_visible=scores[None]),
    )
    links, colours = visualizer.skeleton, visualizer.link_color
    points = np.insert(np.array(STANDING), 17, [160, 60], axis=0)[[*_BODY]]
    for (a, b), colour in zip(links, colours, strict=True):
        x, y = (points[a] + points[b]) // 2
        is_drawn = 7 not in (a, b)
        assert (found[y, x] == colour[::-1] * is_drawn).all()
        assert expected[y, x].any() == is_drawn
    both = (found.max(axis=2) > 60) & (expected.max(axis=2) > 36)
    assert both.sum() > 0.85 * max(
        (found.max(axis=2) > 60).sum(), (expected.max(axis=2) > 36).sum()
    )


@pytest.mark.parametrize('indices', [None, list(range(13))])
def test_the_style_of_openpose_draws_whole_bodies_and_parts_of_bodies(indices):
    name = 'coco_wholebody' if indices is None else 'coco'
    meta = parse_pose_metainfo({'from_file': f'configs/_base_/datasets/{name}.py'})
    keypoints = Keypoints(meta, indices)
    points = np.random.default_rng(0).uniform(20, 180, (len(indices or range(133)), 2))
    instance = {'keypoints': points.tolist(), 'keypoint_scores': [1.0] * len(points)}
    image = np.zeros((192, 320, 3), np.uint8)
    options = DrawOptions(skeleton_style='openpose')
    OpenPoseDrawer(keypoints, options).draw(target_of(image), {'instances': [instance]})
    assert image.any()


@contextmanager
def full_disk() -> Iterator[None]:
    """A context in which no file grows beyond 4 KB."""
    resource = pytest.importorskip('resource')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('before', [None, b'before'], ids=['new', 'old'])
@pytest.mark.parametrize('length', [12, 80], ids=['at the end', 'on the way'])
def test_a_full_disk_leaves_the_previous_file(tmp_path, before, length):
    path = write_video(tmp_path / 'film.mp4', painted(length, 320, 192))
    out = tmp_path / 'out' / 'film.mp4'
    out.parent.mkdir()
    if before is not None:
        out.write_bytes(before)
    records = list(records_of(path))
    with full_disk(), pytest.raises(OSError, match=r'cannot write .*film\.mp4'):
        write_overlay(path, str(out), records, Keypoints(META), DrawOptions())
    assert (out.read_bytes() if out.exists() else None) == before
    assert len(files_of(out.parent)) == (before is not None)


def interrupt(count: int) -> None:
    if count == 5:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (lambda records: records[:-1], SourceError, 'expected the end, found frame 11'),
        (lambda records: records[1:], SourceError, 'expected frame 1, found frame 0'),
        (lambda records: [*records, {'frame': 12}], SourceError, 'frame 12, found the end'),
        (lambda records: records, KeyboardInterrupt, ''),
    ],
)
def test_no_file_is_left_of_an_overlay_that_fails(
    tmp_path, change: Callable, error: type[BaseException], message: str
):
    path = write_video(tmp_path / 'film.mp4', painted(12))
    records = change(list(records_of(path)))
    with pytest.raises(error, match=message):
        write_overlay(
            path,
            str(tmp_path / 'out.mp4'),
            records,
            Keypoints(META),
            DrawOptions(),
            progress=interrupt if error is KeyboardInterrupt else None,
        )
    assert files_of(tmp_path) == ['film.mp4']


def test_another_encoder_is_used_without_libx264(tmp_path, monkeypatch):
    known = {'libnone': {}, 'libvpx-vp9': encoding.ENCODERS['libvpx-vp9']}
    monkeypatch.setattr(encoding, 'ENCODERS', known)
    out = overlay_of(write_video(tmp_path / 'film.mp4', painted(4)))
    with av.open(out) as file:
        assert file.streams.video[0].codec.canonical_name == 'vp9'
    assert len(times(out)) == 4


def test_a_build_without_encoders_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, 'ENCODERS', {'libnone': {}})
    path = write_video(tmp_path / 'film.mp4', painted(2))
    with pytest.raises(OSError, match='without an encoder for videos: libnone'):
        overlay_of(path)
    assert files_of(tmp_path) == ['film.mp4']
