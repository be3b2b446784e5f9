"""Inputs padded to a multiple of the stride: their shapes, and the image's position in them."""

import numpy as np
import pytest
from mmdet.datasets.transforms import Pad
from mmengine.dataset import Compose
from mmpose.datasets.transforms import BottomupResize
from support.factories import Models
from support.tiny import picture

from mmpose_batch import build_inferencer
from mmpose_batch.speedups.rect import pad_to_stride


def resized(step: object, width: int, height: int) -> dict:
    pipeline = Compose([step])
    pad_to_stride([pipeline])
    return pipeline({'img': picture(width, height), 'ori_shape': (height, width)})


@pytest.mark.parametrize(
    ('size', 'shape'),
    [
        pytest.param((640, 480), (480, 640), id='a multiple already'),
        pytest.param((300, 200), (448, 640), id='upscaled'),
        pytest.param((1500, 1000), (448, 640), id='downscaled'),
        pytest.param((200, 300), (640, 448), id='upright'),
        pytest.param((500, 500), (640, 640), id='square'),
        pytest.param((2000, 10), (32, 640), id='a strip'),
    ],
)
def test_a_one_stage_input_is_padded_to_the_next_multiple(size, shape):
    result = resized(BottomupResize((640, 640), size_factor=32), *size)
    assert result['img'].shape[:2] == result['img_shape'] == shape
    assert tuple(result['input_size']) == shape[::-1]


@pytest.mark.parametrize('size', [(300, 200), (90, 160)])
def test_the_position_of_the_image_in_its_input_is_as_in_upstream(size):
    square = BottomupResize((640, 640), size_factor=32)
    upstream = square.transform({'img': picture(*size), 'ori_shape': size[::-1]})
    ours = resized(square, *size)
    for result in (upstream, ours):
        scale = np.asarray(result['input_scale']) / result['input_size']
        result['pixel'] = scale  # pixels of the image per pixel of the input
        np.testing.assert_allclose(result['input_center'], np.array(size) / 2)
    np.testing.assert_allclose(ours['pixel'], upstream['pixel'], rtol=1e-6)


def test_a_detector_pads_to_the_next_multiple():
    pipeline = Compose([Pad(size=(320, 320), pad_val={'img': (114, 114, 114)})])
    pad_to_stride([pipeline])
    image = pipeline({'img': picture(320, 213)})['img']
    assert image.shape == (224, 320, 3)
    assert (image[213:] == 114).all()


def test_a_pipeline_that_does_not_pad_to_a_square_is_rejected():
    expand = BottomupResize((512, 512), resize_mode='expand')
    pipeline = Compose([expand, Pad(size_divisor=32)])
    before = list(pipeline.transforms)
    with pytest.raises(ValueError, match='rect: has no effect'):
        pad_to_stride([pipeline])
    assert pipeline.transforms == before


@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
def test_inputs_of_inferencers_are_rectangular(models: Models, kind):
    name, settings = 'rtmo', {}
    if kind == 'top_down':
        name = 'rtmpose'
        files = {'det_model': 'rtmdet.py', 'det_weights': 'rtmdet.pth'}
        settings = {key: models.file(file) for key, file in files.items()}
    inferencer = build_inferencer(
        *(models.file(f'{name}.py'), models.file(f'{name}.pth')),
        rect=True,
        device='cpu',
        **settings,
    )
    padded = inferencer.model if kind == 'one_stage' else inferencer.detector.model
    shapes: list[tuple[int, ...]] = []
    padded.data_preprocessor.register_forward_hook(
        lambda _, inputs, outputs: shapes.append(tuple(outputs['inputs'].shape[-2:]))
    )
    results = list(inferencer([picture(90, 60, 0), picture(96, 30, 1)]))
    assert [result for result in results if 'error' in result] == []
    assert set(shapes) == {(64, 96), (32, 96)}


def test_a_model_that_does_not_pad_is_rejected(models: Models):
    with pytest.raises(ValueError, match='rect: has no effect'):
        build_inferencer(
            models.file('rtmpose.py'),
            models.file('rtmpose.pth'),
            det_model='whole_image',
            rect=True,
        )
