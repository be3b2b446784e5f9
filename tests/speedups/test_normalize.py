"""Stacking batches before normalisation: outputs identical to those of upstream."""

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmengine.structures import InstanceData
from mmpose.models import PoseDataPreprocessor
from mmpose.structures import PoseDataSample
from torch import Tensor

from mmpose_batch.speedups.normalize import PixelPreprocessor, StackedPreprocessor

RGB = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375], 'bgr_to_rgb': True}


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize('kind', [PoseDataPreprocessor, DetDataPreprocessor])
def test_pixels_are_stacked_and_samples_have_their_shapes(kind):
    upstream = kind(**RGB, pad_size_divisor=4)
    batch = pixels(2, 3, 8, 12)

    def data() -> dict:
        return {'inputs': list(batch), 'data_samples': [PoseDataSample() for _ in batch]}

    found, expected = PixelPreprocessor(upstream, 4)(data()), upstream(data(), False)
    assert torch.equal(found['inputs'], batch)
    for ours, theirs in zip(found['data_samples'], expected['data_samples'], strict=True):
        assert ours.metainfo == theirs.metainfo


@pytest.mark.parametrize('preprocessor', [PixelPreprocessor, StackedPreprocessor])
def test_a_batch_can_be_run_again(preprocessor):
    sample = PoseDataSample(metainfo={'img_path': 'a.jpg'})
    sample.gt_instances = InstanceData(bboxes=torch.ones(1, 4))
    upstream = PoseDataPreprocessor(**RGB)
    arguments = (4,) if preprocessor is PixelPreprocessor else ()
    data = {'inputs': [torch.ones(3, 8, 4, dtype=torch.uint8)], 'data_samples': [sample]}
    (found,) = preprocessor(upstream, *arguments)(data)['data_samples']
    found.pred_instances = InstanceData(keypoints=torch.ones(1, 17, 2))
    found.gt_instances.scores = torch.ones(1)
    assert found.img_path == 'a.jpg'
    assert torch.equal(found.gt_instances.bboxes, sample.gt_instances.bboxes)
    assert sample.keys() == ['gt_instances']
    assert sample.gt_instances.keys() == ['bboxes']
    assert sample.metainfo_keys() == ['img_path']


def test_batches_that_need_padding_are_left_to_upstream():
    upstream = PoseDataPreprocessor(**RGB, pad_size_divisor=32)
    data = {'inputs': list(pixels(2, 3, 40, 20)), 'data_samples': [PoseDataSample()] * 2}
    found = PixelPreprocessor(upstream, 32)(data)['inputs']
    assert found.dtype == torch.float32
    assert torch.equal(found, upstream(data, False)['inputs'])


@pytest.mark.parametrize('kind', [PoseDataPreprocessor, DetDataPreprocessor])
@pytest.mark.parametrize(
    'settings',
    [
        RGB,
        {**RGB, 'bgr_to_rgb': False},
        {'bgr_to_rgb': True},
        {'mean': [0, 0, 0], 'std': [1, 1, 1]},  # integers, as RTMO's configs have
    ],
)
def test_a_batch_that_is_stacked_first_is_identical_to_upstream(kind, settings):
    upstream, batch = kind(**settings), pixels(3, 3, 40, 20)

    def data() -> dict:
        return {'inputs': list(batch), 'data_samples': [PoseDataSample() for _ in batch]}

    before = batch.clone()
    found, expected = StackedPreprocessor(upstream)(data()), upstream(data(), False)
    assert torch.equal(found['inputs'], expected['inputs'])
    assert torch.equal(batch, before)
    for ours, theirs in zip(found['data_samples'], expected['data_samples'], strict=True):
        assert ours.metainfo == theirs.metainfo


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_inputs_that_cannot_be_stacked_are_left_to_upstream(dtype):
    upstream = PoseDataPreprocessor(**RGB, pad_size_divisor=32 if dtype == torch.uint8 else 1)
    batch = pixels(2, 3, 40, 20).to(dtype)
    data = {'inputs': list(batch), 'data_samples': [PoseDataSample() for _ in batch]}
    expected = upstream(data, False)['inputs']
    assert torch.equal(StackedPreprocessor(upstream)(data)['inputs'], expected)
