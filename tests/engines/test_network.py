"""The network swap: what an engine is asked, and what the head gets back."""

import copy
from collections.abc import Sequence

import mmdet.models
import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmengine.structures import InstanceData
from mmpose.models import PoseDataPreprocessor
from mmpose.structures import PoseDataSample
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmpose_batch.engines.network import (
    NetworkSwap,
    Normalization,
    PixelPreprocessor,
    StackedPreprocessor,
    is_replaceable,
)

RGB = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375], 'bgr_to_rgb': True}


class Head(nn.Module):
    """Two outputs in a nest with something that is no tensor, computed by ``forward``."""

    def forward(self, feats: Tensor) -> tuple:
        return feats.mean((2, 3)), [feats.amax((2, 3)), 'kept']

    def predict(self, feats: Tensor | Sequence[Tensor]) -> list:
        both = feats if isinstance(feats, list) else [feats]
        return [self.forward(one) for one in both]


class Model(nn.Module):
    """A network with the parts that a pose estimator has, and nothing of MMPose in it."""

    def __init__(self, **preprocessor: object) -> None:
        super().__init__()
        self.data_preprocessor = PoseDataPreprocessor(**{**RGB, **preprocessor})
        self.backbone = nn.Conv2d(3, 5, 3, padding=1)
        self.head = Head()

    def extract_feat(self, inputs: Tensor) -> Tensor:
        return self.backbone(inputs)


class Counting:
    """An engine that computes as PyTorch does and remembers its batches."""

    def __init__(self, swap: NetworkSwap) -> None:
        self.reference = swap.reference
        self.batches: list[int] = []

    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        self.batches.append(len(inputs))
        return self.reference(inputs)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def with_engine(model: nn.Module) -> tuple[nn.Module, Counting]:
    model = copy.deepcopy(model)
    swap = NetworkSwap(model)
    swap.engine = engine = Counting(swap)
    return model, engine


@torch.no_grad()
def test_the_head_gets_what_it_would_compute(model):
    ours, engine = with_engine(model)
    inputs = torch.randn(3, 3, 8, 8)
    found = ours.head.predict(ours.extract_feat(inputs))
    expected = model.head.predict(model.extract_feat(inputs))
    torch.testing.assert_close(tree_leaves(found)[:2], tree_leaves(expected)[:2])
    assert tree_leaves(found)[2] == 'kept'
    assert engine.batches == [3]


@torch.no_grad()
def test_what_pytorch_computes_itself_tells_the_form_of_the_outputs(model):
    """At every start with a self-check; one more pass would be most of a second."""
    swap, calls = NetworkSwap(model), []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    with swap.by_reference():
        model.head.predict(model.extract_feat(torch.randn(2, 3, 8, 8)))
    assert len(calls) == 1


@torch.no_grad()
def test_both_halves_of_a_flip_test_are_one_batch(model):
    ours, engine = with_engine(model)
    inputs = torch.randn(4, 3, 8, 8)
    both = [ours.extract_feat(inputs), ours.extract_feat(inputs.flip(-1))]
    found = ours.head.predict(both)
    expected = model.head.predict([model.extract_feat(i) for i in (inputs, inputs.flip(-1))])
    for ours_half, half in zip(found, expected, strict=True):
        torch.testing.assert_close(ours_half[0], half[0])
        torch.testing.assert_close(ours_half[1][0], half[1][0])
    assert engine.batches == [8]


@torch.no_grad()
def test_what_nobody_asked_for_is_not_computed_later(model):
    ours, engine = with_engine(model)
    ours.extract_feat(torch.randn(2, 3, 8, 8))  # its decoding failed, say
    ours.head.predict(ours.extract_feat(torch.randn(1, 3, 8, 8)))
    assert engine.batches == [1]


@torch.no_grad()
def test_batches_of_different_shape_stay_apart(model):
    ours, engine = with_engine(model)
    feats = [ours.extract_feat(torch.randn(2, 3, size, 8)) for size in (8, 16)]
    found = ours.head.predict(feats)
    assert [len(half[0]) for half in found] == [2, 2]
    assert engine.batches == [2, 2]


@torch.no_grad()
def test_the_reference_is_pytorch(model):
    torch.manual_seed(0)
    swap = NetworkSwap(model)
    engine = Counting(swap)
    swap.engine = engine
    inputs = torch.randn(2, 3, 8, 8)
    with swap.by_reference():
        model.head.predict(model.extract_feat(inputs))
    assert engine.batches == []
    model.head.predict(model.extract_feat(inputs))
    assert engine.batches == [2]


@pytest.mark.parametrize(
    'settings',
    [
        pytest.param(RGB, id='BGR to RGB'),
        pytest.param({**RGB, 'bgr_to_rgb': False}, id='channels as they come'),
        pytest.param({}, id='not normalised'),
    ],
)
@pytest.mark.parametrize('kind', [PoseDataPreprocessor, DetDataPreprocessor])
def test_normalization_is_that_of_the_preprocessor(kind, settings):
    stock = kind(**settings)
    batch = pixels(3, 3, 10, 12)
    data = {'inputs': list(batch), 'data_samples': [PoseDataSample() for _ in batch]}
    expected = stock(data, False)['inputs']
    assert torch.equal(Normalization(stock)(batch), expected)


@pytest.mark.parametrize('kind', [PoseDataPreprocessor, DetDataPreprocessor])
def test_pixels_are_stacked_and_samples_know_their_shapes(kind):
    stock = kind(**RGB, pad_size_divisor=4)
    batch = pixels(2, 3, 8, 12)

    def data() -> dict:
        return {'inputs': list(batch), 'data_samples': [PoseDataSample() for _ in batch]}

    found, expected = PixelPreprocessor(stock, 4)(data()), stock(data(), False)
    assert torch.equal(found['inputs'], batch)
    for ours, stocks in zip(found['data_samples'], expected['data_samples'], strict=True):
        assert ours.metainfo == stocks.metainfo


@pytest.mark.parametrize('preprocessor', [PixelPreprocessor, StackedPreprocessor])
def test_a_batch_can_be_run_again(preprocessor):
    sample = PoseDataSample(metainfo={'img_path': 'a.jpg'})
    sample.gt_instances = InstanceData(bboxes=torch.ones(1, 4))
    stock = PoseDataPreprocessor(**RGB)
    arguments = (4,) if preprocessor is PixelPreprocessor else ()
    data = {'inputs': [torch.ones(3, 8, 4, dtype=torch.uint8)], 'data_samples': [sample]}
    (found,) = preprocessor(stock, *arguments)(data)['data_samples']
    found.pred_instances = InstanceData(keypoints=torch.ones(1, 17, 2))
    found.gt_instances.scores = torch.ones(1)
    assert found.img_path == 'a.jpg'
    assert torch.equal(found.gt_instances.bboxes, sample.gt_instances.bboxes)
    assert sample.keys() == ['gt_instances']
    assert sample.gt_instances.keys() == ['bboxes']
    assert sample.metainfo_keys() == ['img_path']


def test_what_must_be_padded_is_left_to_stock():
    stock = PoseDataPreprocessor(**RGB, pad_size_divisor=32)
    data = {'inputs': list(pixels(2, 3, 40, 20)), 'data_samples': [PoseDataSample()] * 2}
    found = PixelPreprocessor(stock, 32)(data)['inputs']
    assert found.dtype == torch.float32
    assert torch.equal(found, stock(data, False)['inputs'])


@pytest.mark.parametrize('kind', [PoseDataPreprocessor, DetDataPreprocessor])
@pytest.mark.parametrize(
    'settings',
    [
        RGB,
        {**RGB, 'bgr_to_rgb': False},
        {'bgr_to_rgb': True},
        {'mean': [0, 0, 0], 'std': [1, 1, 1]},  # whole numbers, as RTMO's configs have
    ],
)
def test_a_batch_normalised_as_a_whole_is_stocks_to_the_bit(kind, settings):
    stock, batch = kind(**settings), pixels(3, 3, 40, 20)

    def data() -> dict:
        return {'inputs': list(batch), 'data_samples': [PoseDataSample() for _ in batch]}

    before = batch.clone()
    found, expected = StackedPreprocessor(stock)(data()), stock(data(), False)
    assert torch.equal(found['inputs'], expected['inputs'])
    assert torch.equal(batch, before)
    for ours, stocks in zip(found['data_samples'], expected['data_samples'], strict=True):
        assert ours.metainfo == stocks.metainfo


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_what_cannot_be_stacked_is_left_to_stock(dtype):
    stock = PoseDataPreprocessor(**RGB, pad_size_divisor=32 if dtype == torch.uint8 else 1)
    batch = pixels(2, 3, 40, 20).to(dtype)
    data = {'inputs': list(batch), 'data_samples': [PoseDataSample() for _ in batch]}
    expected = stock(data, False)['inputs']
    assert torch.equal(StackedPreprocessor(stock)(data)['inputs'], expected)


def test_a_model_with_ways_of_its_own_is_not_replaceable(top_down):
    model = top_down.stock().model
    assert is_replaceable(model)
    model.head.__class__ = type('EDPoseHead', (type(model.head),), {})
    assert not is_replaceable(model)


def test_a_model_that_predicts_in_another_way_is_not_replaceable(top_down):
    model = top_down.stock().model
    model.__class__ = type('Other', (type(model),), {'predict': lambda *args: None})
    assert not is_replaceable(model)


@pytest.mark.parametrize(
    ('detector', 'expected'),
    [('RTMDet', True), ('YOLOX', True), ('DETR', False), ('DINO', False), ('CondInst', False)],
)
def test_detectors_with_more_than_a_head_are_not_replaceable(detector, expected):
    model = getattr(mmdet.models, detector).__new__(getattr(mmdet.models, detector))
    nn.Module.__init__(model)
    model.bbox_head, model.data_preprocessor = nn.Identity(), DetDataPreprocessor()
    assert is_replaceable(model) is expected
