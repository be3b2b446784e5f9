"""External ONNX files: with any or a fixed batch size, and with decoding included."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support.fidelity import ENGINE_KEYPOINT_TOLERANCE_PX, ENGINE_SCORE_TOLERANCE
from support.tiny import TinyModel, picture
from torch import Tensor, nn

from mmpose_batch.engines.external_onnx import ExternalFile, FixedBatch, predict_decoded
from mmpose_batch.engines.network import Network
from mmpose_batch.engines.onnx_export import export_onnx
from mmpose_batch.errors import EngineError

ENGINES = ('onnxruntime', 'openvino')
IMAGES = [picture(120, 90, seed, persons=(1, 3, 0, 5, 2)[seed]) for seed in range(5)]


@pytest.fixture(scope='module', autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


def input_size(tiny: TinyModel) -> tuple[int, int]:
    """Height and width of the network's inputs."""
    info = {'img': IMAGES[0], 'bbox': np.float32([[0, 0, 60, 90]]), 'bbox_score': np.ones(1)}
    ours = tiny.ours()
    packed = ours.pipeline({**info, 'img_path': '', **ours.model.dataset_meta})
    return tuple(packed['inputs'].shape[1:])


def export(tiny: TinyModel, path: Path, batch_size: int | None = None) -> str:
    export_onnx(Network(tiny.ours().model), path, input_size(tiny), batch_size)
    return str(path)


def same_poses(found: list[dict], expected: list[dict]) -> int:
    """Compare results; returns how many instances there are."""
    count = 0
    for ours, torchs in zip(found, expected, strict=True):
        assert 'error' not in ours, ours
        pairs = zip(ours['predictions'][0], torchs['predictions'][0], strict=True)
        for one, other in pairs:
            count += 1
            for name, bound in (
                ('keypoints', ENGINE_KEYPOINT_TOLERANCE_PX),
                ('keypoint_scores', ENGINE_SCORE_TOLERANCE),
            ):
                np.testing.assert_allclose(one[name], other[name], rtol=0, atol=bound)
    return count


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('fixed', [None, 1, 3, 8])
@pytest.mark.parametrize('kind', ['top_down', 'one_stage'])
def test_a_file_with_any_or_a_fixed_batch_size(kind, fixed, engine, request, tmp_path):
    tiny: TinyModel = request.getfixturevalue(kind)
    path = export(tiny, tmp_path / 'given.onnx', fixed)
    ours = tiny.ours(engine=engine, engine_file=path, batch_size=4)
    assert same_poses(list(ours(IMAGES)), list(tiny.ours()(IMAGES))) >= 5
    if fixed:
        assert ours.runner.report['description'].endswith(f'batches of {fixed}')


class Decoded(nn.Module):
    """A one-stage model that includes decoding and outputs the best instances of each image."""

    def __init__(self, model: nn.Module, count: int = 20) -> None:
        super().__init__()
        self.model, self.count = model, count

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        head = self.model.head
        outputs = head.forward(self.model.extract_feat(inputs))
        scores, boxes, visible, vectors = (
            head._flatten_predictions(outputs[index]) for index in (0, 1, 3, 4)
        )
        sizes = [level.shape[2:] for level in outputs[0]]
        priors = head.prior_generator.grid_priors(sizes, dtype=inputs.dtype, device=inputs.device)
        strides = [
            torch.full((len(level),), float(stride))
            for level, stride in zip(priors, head.featmap_strides, strict=True)
        ]
        boxes = head.decode_bbox(boxes, torch.cat(priors), torch.cat(strides))
        scores, best = scores.sigmoid()[..., 0].topk(self.count)
        instances = []
        for image, rows in enumerate(best):
            box, grid = boxes[image][rows], torch.cat(priors)[rows]
            left_top, right_bottom = box[:, :2], box[:, 2:]
            center = (left_top + right_bottom) / 2
            scale = (right_bottom - left_top) * head.bbox_padding
            points = head.dcc.forward_test(
                vectors[image][rows], torch.cat((center, scale), 1), grid
            )
            seen = visible[image][rows].sigmoid()
            instances.append(
                (
                    torch.cat((box, scores[image][:, None]), 1),
                    torch.cat((points, seen[..., None]), 2),
                )
            )
        return tuple(torch.stack(parts) for parts in zip(*instances, strict=True))


@pytest.fixture(scope='module')
def decoded_file(one_stage, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('decoded') / 'rtmo.onnx'
    network = Decoded(one_stage.ours().model)
    inputs = torch.zeros(1, 3, *input_size(one_stage))
    with torch.no_grad():
        network(inputs)  # position codes become constants
        traced = torch.jit.trace(network, inputs, check_trace=False)
        torch.onnx.export(
            *(traced, (inputs,), str(path)),
            input_names=['input'],
            output_names=['dets', 'keypoints'],
            opset_version=17,
            dynamo=False,
        )
    return str(path)


@pytest.mark.parametrize('engine', ENGINES)
def test_a_file_that_includes_decoding(one_stage, decoded_file, engine):
    ours = one_stage.ours(engine=engine, engine_file=decoded_file)
    settings = {'bbox_thr': 0.3, 'nms_thr': 0.65}
    expected = list(one_stage.ours()(IMAGES, **settings))
    assert same_poses(list(ours(IMAGES, **settings)), expected) >= 5


def test_a_score_of_a_file_that_includes_decoding_is_not_nan():
    """No threshold is below NaN, so that such persons would be missing without an error."""
    dets, keypoints = torch.ones(1, 2, 5), torch.ones(1, 2, 17, 3)
    swap = SimpleNamespace(uses_reference=False, compute_as_is=lambda pending: (dets, keypoints))
    head = SimpleNamespace(predict=None)
    predict = predict_decoded(swap, head, SimpleNamespace(outputs=('dets', 'keypoints')))
    samples = [SimpleNamespace(metainfo={'input_size': (8, 8)})]
    (found,) = predict(object(), samples, {'score_thr': 0.5})
    assert found.keypoints.shape == (2, 17, 2)
    dets[0, 1, 4] = float('nan')
    with pytest.raises(ValueError, match='found NaN'):
        predict(object(), samples, {'score_thr': 0.5})


def test_batches_with_more_and_with_fewer_persons_are_joined():
    class Varying:
        parallel = 1

        def __call__(self, inputs: Tensor) -> list[Tensor]:
            count = int(inputs[0, 0, 0, 0])
            return [torch.ones(1, count, 5), torch.ones(1, count, 17, 3), torch.ones(1)]

    inputs = torch.tensor([2.0, 0.0, 3.0]).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    dets, keypoints, others = FixedBatch(Varying(), 1)(inputs)
    assert dets.shape == (3, 3, 5) and keypoints.shape == (3, 3, 17, 3) and others.shape == (3,)
    assert dets[..., 4].sum(1).tolist() == [2, 0, 3]


# --------------------------------------------------------------------- files that are rejected


def write_network(path: Path, *shapes: tuple[int, ...], outputs: int = 1) -> str:
    """Write the ONNX file of a network that returns its inputs."""
    names = [f'input_{index}' for index in range(len(shapes))]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(names, shapes, strict=True)
    ]
    ends = [
        helper.make_tensor_value_info(f'output_{index}', TensorProto.FLOAT, shapes[0])
        for index in range(outputs)
    ]
    nodes = [helper.make_node('Identity', [names[0]], [end.name]) for end in ends]
    graph = helper.make_graph(nodes, 'graph', values, ends)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)]), path)
    return str(path)


@pytest.mark.parametrize(
    ('shapes', 'message'),
    [
        ([(1, 3, 64)], 'expected one float32 input N x 3 x H x W, found input_0 1 x 3 x 64'),
        ([(1, 4, 64, 64)], 'found input_0 1 x 4 x 64 x 64'),
        ([(1, 3, 64, 64), (1, 2)], 'found input_0 1 x 3 x 64 x 64, input_1 1 x 2'),
    ],
)
def test_other_inputs_are_rejected(shapes, message, tmp_path):
    with pytest.raises(ValueError) as raised:
        ExternalFile(write_network(tmp_path / 'a.onnx', *shapes))
    assert message in str(raised.value)


def test_a_file_that_is_not_onnx_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r'engine_file: .*: No such file'):
        ExternalFile(str(tmp_path / 'a.onnx'))
    (tmp_path / 'b.onnx').write_bytes(b'no network')
    with pytest.raises(ValueError, match=r'b\.onnx is not an ONNX file'):
        ExternalFile(str(tmp_path / 'b.onnx'))


def test_outputs_that_the_head_does_not_decode_are_rejected(top_down, tmp_path):
    path = write_network(tmp_path / 'a.onnx', (1, 3, *input_size(top_down)), outputs=2)
    with pytest.raises(
        EngineError, match=r'expected outputs of .*, which the head decodes, found 3'
    ):
        top_down.ours(engine='openvino', engine_file=path)


def test_a_file_with_another_input_size_is_rejected(top_down, tmp_path):
    height, width = input_size(top_down)
    path = write_network(tmp_path / 'a.onnx', (1, 3, 2 * height, width), outputs=2)
    with pytest.raises(
        EngineError, match=f'the config cannot run inputs of {2 * height} x {width} '
    ):
        top_down.ours(engine='openvino', engine_file=path)


def test_inputs_of_another_size_are_rejected(top_down, tmp_path):
    path = tmp_path / 'a.onnx'
    height, width = input_size(top_down)
    model = onnx.load(export(top_down, path))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2 * height
    given = ExternalFile(str(path))
    assert given((height, width)) == path
    onnx.save(model, path)
    with pytest.raises(
        EngineError, match=f'expected inputs of {height} x {width} .*found {2 * height} x {width}'
    ):
        ExternalFile(str(path))((height, width))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({}, 'engine_file: only supported by engines onnxruntime, openvino, auto, found torch'),
        ({'engine': 'openvino', 'precision': 'int8'}, 'engine_file cannot be combined with int8'),
        ({'engine': 'openvino', 'rect': True}, 'engine_file cannot be combined with rect'),
    ],
)
def test_options_that_cannot_be_combined_with_a_file_are_rejected(
    top_down, tmp_path, settings, message
):
    with pytest.raises(ValueError, match=message):
        top_down.ours(engine_file=export(top_down, tmp_path / 'a.onnx'), **settings)


def file_with_data(path: Path, weights: int) -> str:
    """An ONNX file of a chain of weights, all of which are in one file alongside it."""
    tensors = [
        onnx.numpy_helper.from_array(np.full(2000, number, np.float32), f'weight_{number}')
        for number in range(weights)
    ]
    names = ['input', *(f'sum_{number}' for number in range(weights))]
    nodes = [
        helper.make_node('Identity', [names[number]], [names[number + 1]])
        for number in range(weights)
    ]
    shape = ['batch', 3, 96, 64]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in (names[0], names[-1])
    ]
    graph = helper.make_graph(nodes, 'chain', values[:1], values[1:], tensors)
    options = {'save_as_external_data': True, 'location': 'weights.data', 'size_threshold': 0}
    onnx.save(helper.make_model(graph), path, **options)
    return str(path)


def test_a_data_file_is_read_once_and_is_part_of_the_key(tmp_path, monkeypatch):
    path = file_with_data(tmp_path / 'a.onnx', 20)
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(
        'mmpose_batch.engines.external_onnx.hashlib.file_digest',
        lambda file, name: read.append(file.name) or digest(file, name),
    )
    key = ExternalFile(path).key
    assert read == [str(tmp_path / 'weights.data')]
    assert ExternalFile(path).key == key
    data = bytearray((tmp_path / 'weights.data').read_bytes())
    data[-1] ^= 1
    (tmp_path / 'weights.data').write_bytes(data)
    assert ExternalFile(path).key != key


def test_a_missing_data_file_is_an_error(tmp_path):
    path = file_with_data(tmp_path / 'a.onnx', 2)
    (tmp_path / 'weights.data').unlink()
    with pytest.raises(ValueError, match=r'a\.onnx: its data file weights\.data: No such file'):
        ExternalFile(path)
