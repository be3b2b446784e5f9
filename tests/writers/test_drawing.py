"""Drawings: when they are made and returned, and that calls do not affect each other."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from mmengine.structures import InstanceData
from mmpose.visualization import PoseLocalVisualizer
from support.tiny import picture

from mmpose_batch.config import DrawOptions
from mmpose_batch.results import ImageResult
from mmpose_batch.sources.base import Frame
from mmpose_batch.speedups.samples import empty_sample
from mmpose_batch.writers.drawing import check_skeleton_style, draw_result

DRAWING = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ('options', 'wanted'),
    [
        ({}, False),
        ({'return_vis': True}, True),
        ({'show': True}, True),
        ({'vis_out_dir': 'out'}, True),
        ({'draw_bbox': True, 'radius': 9, 'draw_heatmap': True}, False),
    ],
)
def test_nothing_is_drawn_unless_it_is_shown_returned_or_written(options, wanted):
    assert DrawOptions(**options).wanted is wanted


@pytest.mark.parametrize(
    ('options', 'drawn', 'returned'),
    [
        pytest.param({}, None, None, id='not drawn'),
        pytest.param({'return_vis': True}, DRAWING, [DRAWING], id='asked for'),
        pytest.param({'vis_out_dir': 'out'}, DRAWING, [], id='written only'),
    ],
)
def test_drawings_are_returned_as_upstream_returns_them(options, drawn, returned):
    assert DrawOptions(**options).returned(drawn) == returned


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'skeleton_style': 'coco'}, "skeleton_style: expected mmpose or openpose, found 'coco'"),
        ({'vis_out_dir': 'out/a.jpg'}, "vis_out_dir: expected a folder, found 'out/a.jpg'"),
        ({'kpt_thr': np.nan}, 'kpt_thr: expected a number, found nan'),
        ({'kpt_thr': '0.3'}, "kpt_thr: expected a number, found '0.3'"),
        ({'wait_time': None}, 'wait_time: expected a number, found None'),
        ({'radius': -3}, 'radius: expected a number from 0 to 32767, found -3'),
        ({'radius': 32768}, 'radius: expected a number from 0 to 32767, found 32768'),
        ({'radius': True}, 'radius: expected a number from 0 to 32767, found True'),
        ({'thickness': 0}, 'thickness: expected an integer from 1 to 32767, found 0'),
        ({'thickness': 1.5}, 'thickness: expected an integer from 1 to 32767, found 1.5'),
        ({'thickness': 32768}, 'thickness: expected an integer from 1 to 32767, found 32768'),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ValueError) as raised:
        DrawOptions(**options)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    'options',
    [{'radius': 0, 'kpt_thr': -1}, {'radius': 2.5}, {'radius': 32767}, {'thickness': np.int64(9)}],
)
def test_options_that_pass_can_be_drawn(options):
    """MMPose's own visualizer accepts the same options."""
    meta = {'dataset_name': 'mine', 'skeleton_links': [(0, 1)], 'num_keypoints': 17}
    result = result_of(picture(8, 6))
    (sample,) = result.data_samples
    sample.pred_instances = InstanceData(
        keypoints=np.full((1, 17, 2), 3.0) + np.arange(17)[None, :, None] % 3,
        keypoint_scores=np.ones((1, 17)),
        bboxes=np.float32([[1, 1, 6, 5]]),
    )
    drawn = draw_result(PoseLocalVisualizer(), meta, result, DrawOptions(draw_bbox=True, **options))
    assert drawn.shape == (6, 8, 3)


def test_a_video_may_be_written_to_a_file():
    assert DrawOptions(vis_out_dir='out/film.mp4', video=True).wanted


class Visualizer:
    """Stands in for MMPose's visualizer, and records its settings and calls."""

    def __init__(self) -> None:
        self.radius = self.line_width = 0
        self.meta: tuple[Any, str] | None = None
        self.calls: list[dict[str, Any]] = []

    def set_dataset_meta(self, meta: Any, skeleton_style: str) -> None:
        self.meta = (meta, skeleton_style)

    def add_datasample(self, name: str, image: np.ndarray, sample: Any, **options: Any) -> str:
        settings = {'radius': self.radius, 'line_width': self.line_width, 'meta': self.meta}
        self.calls.append({'name': name, 'image': image, **settings, **options})
        return 'drawing'


def result_of(image: np.ndarray) -> ImageResult:
    height, width = image.shape[:2]
    sample = empty_sample('x/a.jpg', (width, height), 17)
    return ImageResult(Frame(0, 'x/a.jpg', 'a.jpg'), (width, height), [sample], image)


def test_every_call_sets_all_that_the_last_one_may_have_changed():
    visualizer, image = Visualizer(), picture(8, 6)
    meta = {'name': 'coco'}
    special = DrawOptions(radius=9, thickness=7, skeleton_style='openpose', kpt_thr=0.5)
    for options in (special, DrawOptions()):
        assert draw_result(visualizer, meta, result_of(image), options) == 'drawing'
    first, second = visualizer.calls
    assert (first['radius'], first['line_width'], first['kpt_thr']) == (9, 7, 0.5)
    assert first['meta'] == (meta, 'openpose')
    assert (second['radius'], second['line_width'], second['kpt_thr']) == (3, 1, 0.3)
    assert second['meta'] == (meta, 'mmpose')
    assert first['name'] == 'a.jpg'
    assert first['draw_gt'] is False


@pytest.mark.parametrize('black_background', [False, True])
def test_a_drawing_is_rgb_and_leaves_the_image_alone(black_background):
    visualizer, image = Visualizer(), picture(8, 6)
    before = image.copy()
    options = DrawOptions(black_background=black_background)
    draw_result(visualizer, {}, result_of(image), options)
    expected = np.zeros_like(image) if black_background else image[..., ::-1]
    np.testing.assert_array_equal(visualizer.calls[0]['image'], expected)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(('video', 'expected'), [(False, 5), (True, 1e-5)])
def test_a_window_does_not_delay_a_video(video, expected):
    visualizer = Visualizer()
    options = DrawOptions(show=True, wait_time=5, video=video)
    draw_result(visualizer, {}, result_of(picture(8, 6)), options)
    assert visualizer.calls[0]['wait_time'] == expected


@pytest.mark.parametrize(
    ('style', 'dataset', 'fits'),
    [
        ('mmpose', 'ap10k', True),
        ('openpose', 'coco', True),
        ('openpose', 'coco_wholebody', True),
        ('openpose', 'ap10k', False),
    ],
)
def test_a_style_that_mmpose_cannot_draw_is_rejected_before_a_run(style, dataset, fits):
    error = pytest.raises(ValueError, match='skeleton_style: expected mmpose for dataset ap10k')
    with nullcontext() if fits else error:
        check_skeleton_style(style, {'dataset_name': dataset})
    visualizer = PoseLocalVisualizer()
    error = pytest.raises(NotImplementedError)  # the error of MMPose itself
    with nullcontext() if fits else error:
        visualizer.set_dataset_meta({'dataset_name': dataset}, style)
