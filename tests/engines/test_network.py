"""The network swap: the inputs of an engine, and the outputs that the head decodes."""

import copy
from collections.abc import Sequence

import mmdet.models
import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmpose.models import PoseDataPreprocessor
from mmpose.structures import PoseDataSample
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmpose_batch.engines.network import NetworkSwap, Normalization, is_replaceable

RGB = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375], 'bgr_to_rgb': True}


class Head(nn.Module):
    """Returns two tensors and another object in a nested structure from ``forward``."""

    def forward(self, feats: Tensor) -> tuple:
        return feats.mean((2, 3)), [feats.amax((2, 3)), 'text']

    def predict(self, feats: Tensor | Sequence[Tensor]) -> list:
        both = feats if isinstance(feats, list) else [feats]
        return [self.forward(one) for one in both]


class Model(nn.Module):
    """A network with the parts of a pose estimator, without MMPose."""

    def __init__(self, **preprocessor: object) -> None:
        super().__init__()
        self.data_preprocessor = PoseDataPreprocessor(**{**RGB, **preprocessor})
        self.backbone = nn.Conv2d(3, 5, 3, padding=1)
        self.head = Head()

    def extract_feat(self, inputs: Tensor) -> Tensor:
        return self.backbone(inputs)


class Counting:
    """An engine that computes as PyTorch does and records its batches."""

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
def test_the_head_decodes_the_outputs_of_the_engine(model):
    ours, engine = with_engine(model)
    inputs = torch.randn(3, 3, 8, 8)
    found = ours.head.predict(ours.extract_feat(inputs))
    expected = model.head.predict(model.extract_feat(inputs))
    torch.testing.assert_close(tree_leaves(found)[:2], tree_leaves(expected)[:2])
    assert tree_leaves(found)[2] == 'text'
    assert engine.batches == [3]


@torch.no_grad()
def test_the_structure_of_the_outputs_is_known_after_a_forward_pass(model):
    """An additional forward pass would delay every start by up to a second."""
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
def test_a_batch_whose_decoding_failed_is_not_computed_later(model):
    ours, engine = with_engine(model)
    ours.extract_feat(torch.randn(2, 3, 8, 8))
    ours.head.predict(ours.extract_feat(torch.randn(1, 3, 8, 8)))
    assert engine.batches == [1]


@torch.no_grad()
def test_batches_of_different_shapes_are_computed_separately(model):
    ours, engine = with_engine(model)
    feats = [ours.extract_feat(torch.randn(2, 3, size, 8)) for size in (8, 16)]
    found = ours.head.predict(feats)
    assert [len(half[0]) for half in found] == [2, 2]
    assert engine.batches == [2, 2]


@torch.no_grad()
def test_the_reference_engine_is_pytorch(model):
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
        pytest.param({**RGB, 'bgr_to_rgb': False}, id='channels not swapped'),
        pytest.param({}, id='not normalised'),
    ],
)
@pytest.mark.parametrize('kind', [PoseDataPreprocessor, DetDataPreprocessor])
def test_normalization_is_that_of_the_preprocessor(kind, settings):
    upstream = kind(**settings)
    batch = pixels(3, 3, 10, 12)
    data = {'inputs': list(batch), 'data_samples': [PoseDataSample() for _ in batch]}
    expected = upstream(data, False)['inputs']
    assert torch.equal(Normalization(upstream)(batch), expected)


def test_a_graph_of_the_normalization_has_no_constants_that_are_copied_to_the_device():
    normalization = Normalization(PoseDataPreprocessor(**RGB))
    signature = torch.export.export(normalization, (pixels(1, 3, 4, 4),)).graph_signature
    assert len(signature.buffers) == 2
    assert not signature.lifted_tensor_constants


def test_the_settings_of_a_normalization_identify_it():
    """Caches of engines for external ONNX files are found by them."""
    assert Normalization(PoseDataPreprocessor()).settings == {
        'reverse_channels': False,
        'mean': None,
        'std': None,
        'divisor': 1,
    }
    assert Normalization(PoseDataPreprocessor(**RGB)).settings['mean'] == pytest.approx(RGB['mean'])


def test_a_head_that_calls_its_network_differently_is_not_replaceable(top_down):
    model = top_down.upstream().model
    assert is_replaceable(model)
    model.head.__class__ = type('EDPoseHead', (type(model.head),), {})
    assert not is_replaceable(model)


def test_a_model_that_predicts_differently_is_not_replaceable(top_down):
    model = top_down.upstream().model
    model.__class__ = type('Other', (type(model),), {'predict': lambda *args: None})
    assert not is_replaceable(model)


@pytest.mark.parametrize(
    ('detector', 'expected'),
    [('RTMDet', True), ('YOLOX', True), ('DETR', False), ('DINO', False), ('CondInst', False)],
)
def test_two_stage_detectors_are_not_replaceable(detector, expected):
    model = getattr(mmdet.models, detector).__new__(getattr(mmdet.models, detector))
    nn.Module.__init__(model)
    model.bbox_head, model.data_preprocessor = nn.Identity(), DetDataPreprocessor()
    assert is_replaceable(model) is expected
