"""A batch is copied to a GPU at once, from pinned memory, and nothing else is."""

from collections.abc import Callable

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import BaseDataElement, InstanceData
from mmpose.models import PoseDataPreprocessor
from mmpose.structures import PoseDataSample
from torch import Tensor

from mmpose_batch.engines.network import Normalization
from mmpose_batch.speedups.normalize import PixelPreprocessor, StackedPreprocessor

RGB = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375], 'bgr_to_rgb': True}
ONCE = {'to the device': 1}


def pixels(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator).to(dtype)


def data(batch: Tensor | list[Tensor], sample: Callable = PoseDataSample) -> dict:
    return {'inputs': list(batch), 'data_samples': [sample() for _ in batch]}


@pytest.fixture(params=[PixelPreprocessor, StackedPreprocessor])
def stacking(request: pytest.FixtureRequest, cuda) -> PixelPreprocessor:
    upstream = PoseDataPreprocessor(**RGB).to(cuda.name)
    more = (1,) if request.param is PixelPreprocessor else ()
    return request.param(upstream, *more)


@pytest.mark.parametrize('count', [1, 9])
def test_a_batch_of_any_size_is_one_copy_for_which_the_cpu_does_not_wait(stacking, cuda, count):
    for _ in range(2):
        cuda.reset()
        batch = pixels(count, 3, 8, 12)
        found = stacking(data(batch))['inputs']
        assert (cuda.transfers, cuda.synchronisations) == (ONCE, {})
        if type(stacking) is StackedPreprocessor:
            expected = PoseDataPreprocessor(**RGB)(data(batch))['inputs']
            torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0)
        else:
            assert torch.equal(found.cpu(), batch)


def test_a_batch_remains_when_the_next_one_is_copied(stacking):
    """The pinned memory of a batch is not overwritten before it has been copied."""
    batches = [pixels(2, 3, 8, 12), pixels(2, 3, 8, 12) // 2]
    stored, empty = [], torch.empty

    def record(*args: object, **kwargs: object) -> Tensor:
        stored.append(empty(*args, **kwargs))
        return stored[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, 'empty', record)
        for batch in batches:
            stacking(data(batch))
    assert all(map(torch.equal, stored, batches))


@pytest.mark.parametrize(
    'batch',
    [
        pytest.param([pixels(3, 8, 12), pixels(3, 12, 8)], id='of two shapes'),
        pytest.param(pixels(2, 3, 8, 12, dtype=torch.float32), id='of floats'),
    ],
)
def test_other_inputs_are_left_to_upstream(stacking, batch):
    found = stacking(data(batch))['inputs']
    expected = PoseDataPreprocessor(**RGB)(data(batch))['inputs']
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0)


def test_inputs_on_the_device_are_not_copied_to_the_cpu(stacking, cuda):
    batch = pixels(2, 3, 8, 12).to(cuda.name)
    cuda.reset()
    stacking(data(batch))
    assert (cuda.transfers, cuda.synchronisations) == ({}, {})


def test_mean_and_deviation_are_copied_once(cuda):
    normalization = Normalization(PoseDataPreprocessor(**RGB).to(cuda.name))
    batch = pixels(2, 3, 8, 12)
    on_cuda = batch.to(cuda.name)
    cuda.reset()
    found = normalization(on_cuda)
    assert (cuda.transfers, cuda.synchronisations) == ({}, {})
    expected = Normalization(PoseDataPreprocessor(**RGB))(batch)
    assert torch.equal(found.cpu(), expected)
    assert torch.equal(normalization(batch), expected)  # as the calibration of int8 does


# -------------------------------------------------------------------------- data samples


def pose_sample() -> PoseDataSample:
    """A sample as MMPose's test pipelines pack it."""
    sample = PoseDataSample(metainfo={'input_size': (12, 8)})
    sample.gt_instances = InstanceData(bboxes=torch.ones(1, 4).numpy())
    return sample


def detector_sample(count: int = 0) -> DetDataSample:
    """A sample as MMDetection's test pipelines pack it: with ground truth, which is empty."""
    sample = DetDataSample(metainfo={'scale_factor': (2.0, 2.0)})
    boxes, labels = HorizontalBoxes(torch.ones(count, 4)), torch.ones(count)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    sample.ignored_instances = InstanceData(bboxes=boxes)
    return sample


def preprocessed(cuda, sample: Callable) -> BaseDataElement:
    preprocessor = StackedPreprocessor(DetDataPreprocessor(**RGB).to(cuda.name))
    cuda.reset()
    (found,) = preprocessor(data(pixels(1, 3, 8, 12), sample))['data_samples']
    return found


@pytest.mark.parametrize('sample', [pose_sample, detector_sample])
def test_samples_of_inference_stay_on_the_cpu(cuda, sample):
    before = sample()
    found = preprocessed(cuda, sample)
    assert (cuda.transfers, cuda.synchronisations) == (ONCE, {})
    assert found.metainfo == {
        **before.metainfo,
        'batch_input_shape': (8, 12),
        'pad_shape': (8, 12),
    }
    assert found.gt_instances.keys() == before.gt_instances.keys()
    assert str(getattr(found.gt_instances.bboxes, 'device', 'cpu')) == 'cpu'


def test_tensors_of_samples_are_moved_as_upstream_does(cuda):
    """The head of a two-stage detector reads ``proposals``, for instance."""

    def with_proposals() -> DetDataSample:
        sample = detector_sample()
        sample.proposals = InstanceData(bboxes=torch.ones(3, 4))
        return sample

    assert preprocessed(cuda, with_proposals).proposals.bboxes.is_cuda
    assert preprocessed(cuda, lambda: detector_sample(2)).gt_instances.labels.is_cuda
