"""Engines: results in fp32 match upstream, and unsupported options are errors."""

import hashlib
import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpose.models import PoseDataPreprocessor
from support import fidelity
from support.checkpoints import checkpoint_pair
from support.factories import run_tool, write_photos
from support.families import FAMILIES, UNDETERMINED_SHARE, prepare
from support.fidelity import (
    ENGINE_KEYPOINT_TOLERANCE_PX,
    ENGINE_SCORE_TOLERANCE,
    Pair,
    compare_runs,
    mmpose_config,
    one_thread,
)
from support.tiny import TinyModel, persons_in, picture
from torch import nn
from torch._dynamo.utils import counters

from mmpose_batch.engines.cache import NoCache
from mmpose_batch.engines.network import Network, Normalization
from mmpose_batch.engines.onnx_export import export_onnx
from mmpose_batch.engines.optional import import_nncf
from mmpose_batch.engines.torch_compile import TorchCompileEngine
from mmpose_batch.errors import EngineError

ENGINES = ('onnxruntime', 'openvino')

# Model families that cover every kind of head, and every construct that is difficult to export.
EXPORTED = ('rtmpose', 'rle', 'mobilenet', 'rtmo', 'yoloxpose')
EXPORTED_SLOWLY = ('simcc', 'rtmw', 'hrnet-udp', 'cpm', 'mspn', 'vit')
# Deformable convolutions and pooling to a computed size have no counterpart in ONNX, and PyTorch
# loses the rank of the inputs of PVT's attention.
NOT_EXPORTED = ('dekr', 'litehrnet', 'pvt')


@pytest.fixture(scope='module', autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory):
    """A temporary cache for all tests of this module, instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture
def tolerances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, 'KEYPOINT_TOLERANCE_PX', ENGINE_KEYPOINT_TOLERANCE_PX)
    monkeypatch.setattr(fidelity, 'SCORE_TOLERANCE', ENGINE_SCORE_TOLERANCE)


def check(pair: Pair, engine: str, undetermined: float = UNDETERMINED_SHARE) -> None:
    with one_thread():
        runs = {engine: pair.run_ours(3)}
        comparison = compare_runs(pair.upstream, runs, undetermined)
    print(comparison.summary)
    assert comparison.instances > 0
    assert not comparison.faults, '\n'.join(comparison.faults)


def grouped(names, marks=()) -> list:
    """Each family with each engine; tests of one family share its model and its export."""
    return [
        pytest.param(name, engine, marks=[*marks, pytest.mark.xdist_group(f'model {name}')])
        for name in names
        for engine in ENGINES
    ]


@pytest.mark.parametrize(
    ('name', 'engine'), [*grouped(EXPORTED), *grouped(EXPORTED_SLOWLY, [pytest.mark.slow])]
)
def test_fp32_matches_upstream(name, engine, tolerances):
    with one_thread():
        pair = prepare(name).pair(engine, engine_cache=True)
    check(pair, engine, FAMILIES[name].undetermined)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'engine'), grouped(['rtmo-s', 'pair']))
def test_fp32_matches_upstream_with_real_checkpoints(shared, name, engine, tolerances):
    check(checkpoint_pair(shared, name, engine), engine)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [pytest.param(name, marks=pytest.mark.xdist_group(f'model {name}')) for name in NOT_EXPORTED],
)
def test_a_failed_export_is_reported_and_auto_uses_torch(name, caplog, tolerances):
    with one_thread():
        pair = prepare(name).pair('auto')
    check(pair, 'auto')
    assert pair.ours.runner.report['engine'] == 'torch'
    reasons = [line for line in caplog.messages if 'cannot be exported to ONNX: ' in line]
    assert len(reasons) == len(ENGINES)
    assert len({line.partition('cannot be exported')[2] for line in reasons}) == 1


@pytest.mark.slow
@pytest.mark.xdist_group('model pvt')
@pytest.mark.parametrize('engine', ENGINES)
def test_a_named_engine_that_cannot_run_a_family_raises_with_the_reason(engine):
    with one_thread():
        pair = prepare('pvt').pair(
            engine, self_check=False
        )  # PyTorch does not have to run it first
        with pytest.raises(EngineError) as raised:
            pair.run_ours(3)
    message = str(raised.value)
    assert f'engine: {engine}: cannot be exported to ONNX: SymbolicValueError: ' in message
    assert 'tensor of unknown rank' in message
    assert '\n' not in message


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('batch_size', [1, 3, 8])
def test_outputs_of_a_batch_equal_those_of_its_parts(top_down, engine, batch_size):
    images = [picture(120, 90, seed, persons=seed % 4) for seed in range(6)]
    expected = list(top_down.ours()(images))
    found = list(top_down.ours(engine=engine)(images, batch_size=batch_size))
    for ours, torchs in zip(found, expected, strict=True):
        assert len(ours['predictions'][0]) == len(torchs['predictions'][0])
        for one, other in zip(ours['predictions'][0], torchs['predictions'][0], strict=True):
            np.testing.assert_allclose(
                one['keypoints'], other['keypoints'], atol=ENGINE_KEYPOINT_TOLERANCE_PX
            )


class OneConvolution(nn.Module):
    """Replaces the backbone of the tiny RTMPose."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 128, 32, 32)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.convolution(inputs),)


@pytest.mark.slow
def test_torch_compile_matches_torch_and_compiles_before_the_first_result(top_down):
    images = [picture(120, 90, seed, persons=4) for seed in range(5)]
    images.append(picture(120, 90, 5, persons=1))  # a last batch that is not full
    ours, eager = top_down.ours(engine='torch-compile', batch_size=4), top_down.ours()
    ours.model.backbone = eager.model.backbone = OneConvolution()  # compiles in a tenth of the time
    counters.clear()
    results = ours(images)
    found = [next(results)]
    compiled = counters['stats']['unique_graphs']
    found += results
    assert counters['stats']['unique_graphs'] == compiled > 0
    assert ours.runner.report['engine'] == 'torch-compile'
    assert ours.runner.report['self_check']['found'] == 1
    for one, other in zip(found, eager(images), strict=True):
        for ours, expected in zip(one['predictions'][0], other['predictions'][0], strict=True):
            np.testing.assert_allclose(
                ours['keypoints'], expected['keypoints'], atol=ENGINE_KEYPOINT_TOLERANCE_PX
            )


def test_torch_compile_pads_to_a_full_batch_but_not_small_batches(monkeypatch):
    sizes, memory = [], 100

    def compiled(inputs: torch.Tensor) -> tuple[torch.Tensor]:
        if len(inputs) > memory:
            raise MemoryError
        sizes.append(len(inputs))
        return (inputs.clone(),)

    monkeypatch.setattr(torch, 'compile', lambda function, **_: compiled)
    engine = TorchCompileEngine(nn.Conv2d(3, 4, 3), Normalization(PoseDataPreprocessor()), 'fp32')

    def run(count: int) -> None:
        assert len(engine(torch.zeros(count, 3, 8, 8))[0]) == count

    for count in (3, 32):
        run(count)
    engine.warm_up(lambda: run(16))
    for count in (1, 3, 5, 16, 17):
        run(count)
    assert sizes == [4, 32, 16, 1, 16, 16, 16, 32]
    engine.cool_down()
    run(8)
    assert sizes.pop() == 8
    engine.warm_up(lambda: run(16))
    memory = 8  # a size that succeeded before now fails
    with pytest.raises(MemoryError):
        run(16)
    sizes.clear()
    for count in (8, 5, 2):
        run(count)
    assert sizes == [8, 8, 2]


@pytest.mark.slow
def test_more_shapes_than_pytorch_allows_are_compiled():
    class Small(nn.Conv2d):
        def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor]:
            return (super().forward(inputs),)

    engine = TorchCompileEngine(Small(3, 4, 3), Normalization(PoseDataPreprocessor()), 'fp32')
    counters.clear()
    allowed = {'recompile_limit': 2, 'accumulated_recompile_limit': 2}  # in place of 8 and 256
    with torch._dynamo.config.patch(allowed):
        for side in (8, 9, 10, 11):
            engine(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    assert counters['stats']['unique_graphs'] == 4


class OtherDevices:
    """OpenVINO's core with a GPU and an NPU."""

    available_devices = ('CPU', 'GPU', 'NPU')

    def get_property(self, device: str, name: object) -> list[str]:
        return {'GPU': ['FP32', 'FP16'], 'NPU': ['FP16', 'INT8']}[device]


def test_other_openvino_devices_have_other_settings(monkeypatch):
    from openvino import properties

    from mmpose_batch.engines import openvino

    monkeypatch.setattr('openvino.Core', OtherDevices)
    arguments = (None, 'key', Normalization(PoseDataPreprocessor()))
    engine = openvino.OpenVINOEngine(*arguments, 'fp32', NoCache(), 'GPU')
    assert properties.inference_num_threads not in engine.settings  # not a property of a GPU
    with pytest.raises(ValueError, match='NPU supports fp16, int8 in OpenVINO, not fp32'):
        openvino.OpenVINOEngine(*arguments, 'fp32', NoCache(), 'NPU')


def test_streams_of_several_networks_are_not_pinned_to_cores(one_stage):
    from openvino import properties

    pinning = properties.hint.enable_cpu_pinning
    inferencer = one_stage.ours(engine='openvino', batch_size=4)
    list(inferencer([picture(120, 90, seed) for seed in range(5)]))
    shapes = inferencer.runner.engine.shapes.values()
    assert [each.compiled.get_property(pinning) for each in shapes] == [False, False]
    alone = one_stage.ours(engine='openvino', batch_size=1)
    list(alone([picture(120, 90, 0)]))
    assert pinning not in alone.runner.engine.settings  # left to OpenVINO


@pytest.mark.parametrize('engine', ENGINES)
def test_concurrent_calls_do_not_affect_each_other(one_stage, engine):
    inferencer = one_stage.ours(engine=engine)
    images = [picture(120, 90, seed) for seed in range(5)]
    few = [result['predictions'] for result in inferencer(images, bbox_thr=0.9)]
    many = [result['predictions'] for result in inferencer(images, bbox_thr=0.1)]
    pairs = zip(inferencer(images, bbox_thr=0.9), inferencer(images, bbox_thr=0.1), strict=True)
    assert [(a['predictions'], b['predictions']) for a, b in pairs] == list(
        zip(few, many, strict=True)
    )


def test_a_compiled_network_is_loaded_from_the_cache(top_down, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    images = [picture(120, 90, 0, persons=2)]
    first = list(top_down.ours(engine='openvino')(images))
    entries = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*') if path.is_file()}
    assert {path.name for path in entries} >= {'network.onnx', 'compiled.blob'}
    assert list(top_down.ours(engine='openvino')(images)) == first
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*') if path.is_file()}
    assert again == entries


def test_a_cached_network_that_openvino_rejects_is_compiled_again(top_down, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    images = [picture(120, 90, 0, persons=2)]
    first = list(top_down.ours(engine='openvino')(images))
    blobs = list(tmp_path.rglob('compiled.blob'))
    for blob in blobs:  # intact, but for instance from another driver
        blob.write_bytes(b'something else')
        sums = {blob.name: hashlib.sha256(b'something else').hexdigest()}
        blob.with_name('sha256.json').write_text(json.dumps(sums))
    assert blobs and list(top_down.ours(engine='openvino')(images)) == first
    assert all(len(blob.read_bytes()) > 1000 for blob in blobs)


class LittleMemory:
    """OpenVINO's core on a machine without the memory to compile for more than two inputs."""

    def __init__(self, core: object) -> None:
        self._core = core

    def __getattr__(self, name: str) -> object:
        return getattr(self._core, name)

    def compile_model(self, model: object, *arguments: object) -> object:
        if model.input(0).shape[0] > 2:
            raise RuntimeError('Exception from src/plugin.cpp: std::bad_alloc')
        return self._core.compile_model(model, *arguments)


def test_a_batch_that_does_not_compile_for_lack_of_memory_is_halved(one_stage, caplog):
    images = [picture(120, 90, seed) for seed in range(8)]
    ours = one_stage.ours(engine='openvino', batch_size=4, engine_cache=False)
    engine = ours.runner.engine
    engine.core = LittleMemory(engine.core)
    found = list(ours(images))
    assert not any('error' in result for result in found)
    assert ours.runner.report['largest_batch'] == 2
    assert 'out of memory: batch size reduced to 2' in caplog.text


@pytest.mark.parametrize(('batch_size', 'streams'), [(1, 1), (4, 2)])
def test_a_compiled_network_runs_with_its_settings(
    top_down, tmp_path, monkeypatch, batch_size, streams
):
    from openvino import Type, properties

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    for _ in range(2):  # compiled, and loaded from the cache
        ours = top_down.ours(engine='openvino', batch_size=batch_size)
        list(ours([picture(120, 90, 0, persons=2)] * 2))
        (shape, *_) = ours.runner.engine.shapes.values()
        compiled = shape.compiled
        assert compiled.get_property(properties.num_streams) == streams
        assert compiled.get_property(properties.inference_num_threads) == 2
        assert compiled.get_property(properties.hint.inference_precision) == Type.f32
        hint = compiled.get_property(properties.hint.performance_mode)
        assert str(hint).endswith('LATENCY' if streams == 1 else 'THROUGHPUT')


def test_new_threads_reuse_requests_of_earlier_threads(one_stage):
    engine = one_stage.ours(engine='openvino').runner.engine
    inputs = torch.zeros(1, 3, 64, 64)
    found = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: found.append(engine(inputs)))
        thread.start()
        thread.join()
    (shape,) = engine.shapes.values()
    assert len(shape.idle) == 1
    for others in found[1:]:
        torch.testing.assert_close(others, found[0], rtol=0, atol=0)


def test_only_the_latest_shapes_stay_in_memory(one_stage, monkeypatch):
    from mmpose_batch.engines import onnxruntime, openvino

    monkeypatch.setattr(openvino, 'MAX_SHAPES', 2)
    monkeypatch.setattr(onnxruntime, 'MAX_SESSIONS', 2)
    for engine in ENGINES:
        ours = one_stage.ours(engine=engine)
        built = ours.runner.engine
        for side in (32, 64, 96, 32):
            assert len(built(torch.zeros(1, 3, side, side))) > 1
        in_memory = built.shapes if engine == 'openvino' else built.sessions
        assert len(in_memory) == 2


def test_without_a_cache_nothing_is_cached(top_down, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    list(top_down.ours(engine='openvino', engine_cache=False)([picture(120, 90, 0, persons=2)]))
    assert not (tmp_path / 'mmpose_batch').exists()


# ------------------------------------------------------------------------------------ int8


@pytest.mark.parametrize('engine', ENGINES)
def test_int8_is_calibrated_with_the_first_images(top_down, engine):
    images = [picture(120, 90, seed, persons=seed % 3) for seed in range(6)]

    def run() -> list:
        # Random networks quantise badly.
        inferencer = top_down.ours(
            engine=engine, precision='int8', calib_images=4, self_check=False, batch_size=3
        )
        results = list(inferencer(images))
        crops = sum(len(persons_in(image)) for image in images[:4])
        assert (
            inferencer.runner.report['calibrated_with'] == 2 * crops
        )  # including the mirrored images
        return results

    first = run()
    assert len(first) == len(images) and not any('error' in result for result in first)
    assert first != list(top_down.ours(batch_size=3)(images))
    assert run() == first


def quantized_layers(engine: str, folder: Path) -> set[str]:
    """Scopes, to the first slash, of the layers whose input is rounded to int8."""
    if engine == 'openvino':
        import openvino as ov

        models = map(ov.Core().read_model, map(str, folder.rglob('network.xml')))
        layers = [op for model in models for op in model.get_ops() if op.get_input_size() > 1]
        inputs = {op.friendly_name: op.input_value(0).get_node().type_info.name for op in layers}
        names = [name for name, source in inputs.items() if source == 'FakeQuantize']
    else:
        import onnx

        files = folder.rglob('network.int8.onnx')
        nodes = [node for path in files for node in onnx.load(path).graph.node]
        rounded = {name for n in nodes if n.op_type == 'DequantizeLinear' for name in n.output}
        names = [
            n.name
            for n in nodes
            if n.op_type in ('Conv', 'MatMul', 'Gemm') and n.input[0] in rounded
        ]
    return {name.split('/')[1] for name in names if name.startswith('/')}


@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
@pytest.mark.parametrize('engine', ENGINES)
def test_int8_does_not_quantise_heads(request, kind, engine, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    pair = request.getfixturevalue(kind)
    inferencer = pair.ours(engine=engine, precision='int8', calib_images=2, self_check=False)
    list(inferencer([picture(120, 90, seed, persons=2) for seed in range(2)]))
    found = quantized_layers(engine, tmp_path)
    assert 'backbone' in found and found <= {'backbone', 'neck'}


def test_quantising_does_not_change_logging_handlers(one_stage):
    """NNCF's own call would keep warnings from other handlers, such as a test runner's."""
    handler = logging.NullHandler()
    import_nncf()
    logging.getLogger('nncf').addHandler(handler)
    try:
        ours = one_stage.ours(
            engine='openvino', precision='int8', engine_cache=False, self_check=False
        )
        list(ours([picture(120, 90, seed) for seed in range(2)]))
    finally:
        logging.getLogger('nncf').removeHandler(handler)
    assert handler.level == logging.NOTSET


def test_a_file_whose_head_cannot_be_identified_is_not_quantised(one_stage, tmp_path, monkeypatch):
    import onnx

    from mmpose_batch.engines import int8

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    list(one_stage.ours(engine='onnxruntime')([picture(120, 90, 0)]))
    (path,) = tmp_path.rglob('network.onnx')
    model = onnx.load(path)
    for number, node in enumerate(model.graph.node):
        node.name = f'node_{number}'
    onnx.save(model, tmp_path / 'other.onnx')
    for quantize in (int8.quantize_onnx, int8.quantize_openvino):
        with pytest.raises(EngineError, match='the head cannot be identified'):
            quantize(tmp_path / 'other.onnx', tmp_path / 'int8.onnx', [])


def test_onnx_runtime_has_weights_of_seven_bits_where_products_saturate(
    top_down, tmp_path, monkeypatch
):
    """Without VNNI, int8 cost the demo models 0.03 AP, but only 0.006 with weights of 7 bits."""
    import onnx

    from mmpose_batch.engines import int8

    export_onnx(Network(top_down.ours().model), tmp_path / 'a.onnx', (96, 64))
    inputs = [np.random.default_rng(0).standard_normal((1, 3, 96, 64), np.float32)]
    calibration = int8.Calibration(Normalization(PoseDataPreprocessor()))
    largest, keys = {}, set()
    for native in (True, False):
        monkeypatch.setattr(int8, 'cpu_has_vnni', lambda native=native: native)
        int8.quantize_onnx(tmp_path / 'a.onnx', tmp_path / 'int8.onnx', inputs)
        tensors = onnx.load(tmp_path / 'int8.onnx').graph.initializer
        weights = [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
        largest[native] = max(np.abs(w.astype(int)).max() for w in weights if w.dtype == np.int8)
        keys.add(calibration.key)
    assert largest == {True: 127, False: 64}
    assert len(keys) == 2  # they do not share cache entries


@pytest.mark.parametrize(
    ('able', 'expected'), [(['FP32', 'INT8', 'BF16'], 'bf16'), (['FP32', 'INT8'], 'f32')]
)
def test_layers_that_are_not_quantised_run_in_bf16_if_the_processor_supports_it(
    monkeypatch, able, expected
):
    from openvino import properties

    from mmpose_batch.engines import openvino

    monkeypatch.setattr(OtherDevices, 'get_property', lambda self, device, name: able)
    monkeypatch.setattr('openvino.Core', OtherDevices)
    arguments = (None, 'key', Normalization(PoseDataPreprocessor()))
    engine = openvino.OpenVINOEngine(*arguments, 'int8', NoCache(), 'CPU')
    assert engine.settings[properties.hint.inference_precision].get_type_name() == expected


def test_a_run_is_calibrated_with_images_spread_over_all_inputs(models, tmp_path):
    write_photos(tmp_path / 'in', 7)

    def run(*options: object) -> list[dict]:
        outcome = run_tool(
            *(tmp_path / 'in', '--out-dir', tmp_path / 'out', *models.top_down),
            *('--engine', 'openvino', '--precision', 'int8', '--calib-images', 3),
            *('--no-self-check', *options),
        )
        assert outcome.status == 0, outcome.err
        lines = (tmp_path / 'out' / 'predictions.jsonl').read_text().splitlines()
        return [json.loads(line) for line in lines]

    first = run()
    report = json.loads((tmp_path / 'out' / 'run.json').read_text())['engines']['detector']
    assert report['precision'] == 'int8' and report['calibrated_with'] == 3
    # Simulates a run that was killed after three images.
    path = tmp_path / 'out' / 'predictions.jsonl'
    path.write_text(''.join(path.read_text().splitlines(keepends=True)[:3]))
    assert run('--resume') == first


# --------------------------------------------------------------------- invalid options


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        pytest.param({'engine': 'tensorflow'}, 'engine: expected one of torch, ', id='engine'),
        pytest.param(
            {'engine': 'openvino', 'engine_device': 'TPU'},
            r'device: expected one that OpenVINO finds \(CPU',
            id='OpenVINO device',
        ),
        pytest.param(
            {'engine': 'onnxruntime', 'engine_device': 'TensorrtExecutionProvider'},
            'providers: expected some of .*CPUExecutionProvider, found Tensorrt',
            id='ONNX Runtime provider',
        ),
        pytest.param(
            {'engine': 'onnxruntime', 'engine_device': 'CPUExecutionProvider,Nowhere'},
            'providers: expected some of .*CPUExecutionProvider, found Nowhere$',
            id='one of two providers is unknown',
        ),
        pytest.param(
            {'engine': 'onnxruntime', 'precision': 'bf16'},
            'precision: engine onnxruntime supports fp32, int8, not bf16',
            id='precision',
        ),
        pytest.param(
            {'engine_device': 'GPU'},
            'engine_device: only supported by engines onnxruntime, openvino, found torch',
            id='a device of torch',
        ),
        pytest.param(
            {'self_check': 'yes'},
            'self_check: expected True or False',
            id='self_check is not a bool',
        ),
    ],
)
def test_invalid_options_are_rejected_immediately(top_down, settings, message):
    with pytest.raises(ValueError, match=message):
        top_down.ours(**settings)


def test_int8_also_rejects_an_unknown_device(top_down):
    ours = top_down.ours(engine='openvino', engine_device='TPU', precision='int8')
    with pytest.raises(EngineError, match='device: expected one that OpenVINO finds'):
        list(ours([picture(120, 90, 0, persons=2)]))


def test_flip_test_is_rejected_for_a_model_without_it(one_stage):
    with pytest.raises(ValueError, match='flip_test: this model has no flip test'):
        one_stage.ours(flip_test=True)


@pytest.mark.parametrize('engine', ENGINES)
def test_a_network_that_cannot_be_exported_ends_the_run_immediately(top_down, engine, monkeypatch):
    calls = []

    def fail(*args: object, **kwargs: object) -> None:
        calls.append(args)
        raise RuntimeError('unsupported operator')

    monkeypatch.setattr(torch.onnx, 'export', fail)
    images = [picture(120, 90, seed, persons=2) for seed in range(4)]
    for self_check in (True, False):
        ours = top_down.ours(engine=engine, self_check=self_check, engine_cache=False)
        with pytest.raises(EngineError, match='cannot be exported to ONNX: RuntimeError: unsup'):
            list(ours(images))
    assert len(calls) == 2


def test_a_model_whose_network_cannot_be_replaced_is_rejected():
    cfg = mmpose_config(FAMILIES['cid'].config)
    with pytest.raises(EngineError, match='only engine torch supports it'):
        TinyModel(cfg, None).ours(engine='openvino')


def test_the_tool_runs_an_engine_and_records_it_in_run_json(models, tmp_path):
    write_photos(tmp_path / 'in', 4)
    out = tmp_path / 'out'
    outcome = run_tool(
        *(tmp_path / 'in', '--out-dir', out, *models.top_down, '--engine', 'openvino'),
    )
    assert outcome.status == 0, outcome.err
    assert 'pose: OpenVINO 20' in outcome.err and ' px and 0.0' in outcome.err
    engines = json.loads((out / 'run.json').read_text())['engines']
    assert engines.keys() == {'pose', 'detector'}
    for report in engines.values():
        assert report['engine'] == 'openvino'
        assert report['self_check']['found'] >= 0.9


# ---------------------------------------------------------------------------------- export


@torch.no_grad()
def test_an_exported_file_supports_any_batch_size(one_stage, tmp_path):
    import onnxruntime

    model = one_stage.ours().model
    network = Network(model)
    export_onnx(network, tmp_path / 'a.onnx', (96, 96))
    session = onnxruntime.InferenceSession(tmp_path / 'a.onnx')
    for count in (1, 2, 5):
        inputs = torch.randn(count, 3, 96, 96)
        for found, expected in zip(
            session.run(None, {'input': inputs.numpy()}), network(inputs), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
def test_a_second_start_warms_up_with_few_images(request, kind, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    tiny = request.getfixturevalue(kind)
    images = [picture(120, 90, seed, persons=3) for seed in range(9)]
    found, seen = [], []
    for _ in range(2):
        ours = tiny.ours(engine='openvino', batch_size=2, det_batch_size=2)
        found.append([result['predictions'] for result in ours(images)])
        seen.append(ours.runner.report['self_check']['instances'])
    assert found[0] == found[1]
    assert seen[0] > seen[1] > 0
