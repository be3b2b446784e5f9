"""All systems do the same work: same images, same persons, nearly the same poses."""

from contextlib import nullcontext
from functools import partial
from itertools import count
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmpose_batch.benchmarking import crops, limits
from mmpose_batch.benchmarking.contenders import CROPS, OURS, UPSTREAM, Contender, Models
from mmpose_batch.benchmarking.crops import CropModel
from mmpose_batch.benchmarking.limits import Probe, best_rate, count_flop, measure_limits
from mmpose_batch.benchmarking.systems import Detector, build_system
from mmpose_batch.benchmarking.work import Image, repeat, with_annotated_persons
from support.contender import SMALL_CONVOLUTIONS
from support.factories import Models as TinyModels
from support.factories import write_photos

from mmpose_batch.errors import AnnotationError
from mmpose_batch.scenes import write_scenes

pytestmark = pytest.mark.usefixtures('one_thread')

BOXES = np.array([[10, 5, 90, 110], [40, 10, 140, 118], [0, 0, 50, 60]], np.float32)


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> list[Image]:
    folder = tmp_path_factory.mktemp('photos')
    return [Image(str(path)) for path in write_photos(folder, 3)]


@pytest.fixture(scope='module')
def given(images) -> list[Image]:
    return [Image(image.path, BOXES[: count + 1]) for count, image in enumerate(images)]


def models_of(models: TinyModels, name: str, **more) -> Models:
    return Models(
        pose2d=models.file(f'{name}.py'),
        pose2d_weights=models.file(f'{name}.pth'),
        device='cpu',
        **more,
    )


def detector_of(models: TinyModels) -> dict[str, str]:
    return {'det_model': models.file('rtmdet.py'), 'det_weights': models.file('rtmdet.pth')}


def given_to(models: TinyModels) -> Models:
    """Models of every system, with precomputed boxes."""
    return models_of(models, 'rtmpose', flip_test=False, given_boxes=True)


@pytest.fixture(scope='module')
def build(tmp_path_factory):
    """Builds systems, each once per module, since running does not change them."""
    built = {}

    def build(system: str, models: Models, **settings):
        settings = {'engine': 'torch', 'precision': 'fp32', **settings} if system == OURS else {}
        key = system, models, tuple(sorted(settings.items()))
        if key not in built:
            contender = Contender(system=system, models=models, settings=settings)
            built[key] = build_system(contender)
        return built[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield build


@pytest.mark.parametrize('name', ['rtmo', 'rtmpose'])
def test_ours_and_upstream_find_the_same_persons(models, images, build, name):
    chosen = models_of(models, name, **(detector_of(models) if name == 'rtmpose' else {}))
    found = [build(system, chosen).run(images) for system in (OURS, UPSTREAM)]
    assert found[0]['persons'] == found[1]['persons'] > 0
    assert all(run['seconds'] > 0 for run in found)


@pytest.mark.parametrize('name', ['demo-rtmo', 'demo-rtmpose'])
def test_the_demo_models_find_the_same_persons_everywhere(tmp_path, build, name):
    """The models of tools/benchmark_engines.sh without a GPU."""
    pytest.importorskip('openvino')
    write_scenes(tmp_path, 2, seed=2, quiet=True)
    scenes = [Image(str(path)) for path in sorted(tmp_path.glob('*.jpg'))]
    chosen = Models(pose2d=name, device='cpu')
    upstream = build(UPSTREAM, chosen).run(scenes)
    assert upstream['persons'] > 0
    for engine in ('torch', 'openvino'):
        ours = build(OURS, chosen, engine=engine, batch_size=2)
        ours.prepare(scenes)
        assert ours.run(scenes)['persons'] == upstream['persons']


def test_stages_add_up_to_the_time(models, images, build):
    ours = build(OURS, models_of(models, 'rtmo'), batch_size=2)
    run = ours.run(images)
    assert set(run['stages']) == {'waiting', 'detection', 'network', 'writing', 'other'}
    # The rest is 'other', so the sum only differs if two stages count the same time.
    assert sum(run['stages'].values()) == pytest.approx(run['seconds'], rel=1e-9)
    assert run['stages']['network'] > 0
    assert run['stages']['writing'] > 0


@pytest.mark.parametrize('system', [OURS, UPSTREAM, *CROPS])
def test_every_system_accepts_precomputed_boxes(models, given, build, system):
    empty = Image(given[0].path, BOXES[:0])
    run = build(system, given_to(models)).run([*given, empty])
    assert run['persons'] == 1 + 2 + 3


def test_the_simple_baselines_find_the_same_persons(models, given, build):
    """With parts in float64, and a network in ONNX Runtime."""
    ours = build(OURS, given_to(models)).inferencer
    expected = [
        [np.array(person['keypoints']) for person in result['predictions'][0]]
        for result in ours([image.path for image in given], bboxes=[i.bboxes for i in given])
    ]
    for system in CROPS:
        simple = build(system, given_to(models))
        for image, persons in zip(given, expected, strict=True):
            found = simple.infer(cv2.imread(image.path), image.bboxes)
            assert len(found) == len(persons)
            for one, other in zip(found, persons, strict=True):
                near = np.linalg.norm(one[0, :, :2] - other, axis=-1) < 1.0
                assert near.mean() > 0.9  # random weights have several similar maxima


@pytest.mark.parametrize(
    ('name', 'flip_test', 'message'),
    [
        ('rtmo', None, 'expected a top-down SimCC model such as RTMPose, found RTMOHead'),
        ('rtmpose', True, 'do not support the flip test'),
    ],
)
def test_models_that_the_baselines_cannot_run_are_rejected(models, name, flip_test, message):
    with pytest.raises(ValueError, match=message):
        CropModel(models_of(models, name, flip_test=flip_test))


def test_another_device_is_rejected(models):
    chosen = Models(
        pose2d=models.file('rtmpose.py'), pose2d_weights='none', device='cuda:0', flip_test=False
    )
    with pytest.raises(ValueError, match='run on the CPU only, not on cuda:0'):
        CropModel(chosen)


def test_padded_batches_have_eight_crops(models, given, build):
    system = build('padded-batches', given_to(models))
    assert system.sessions['pose'].get_inputs()[0].shape[0] == 8
    many = np.tile(BOXES, (4, 1))
    assert len(system.infer(cv2.imread(given[0].path), many)) == 12


def test_a_thread_pool_is_created_once(models, given, build, monkeypatch):
    system = build('thread-pool', given_to(models))
    monkeypatch.setattr(crops, 'ThreadPoolExecutor', None)
    assert system.run(given)['persons'] == 1 + 2 + 3


def test_the_detector_finds_persons_for_others(models, images):
    chosen = models_of(models, 'rtmpose', **detector_of(models))
    detector = Detector(Contender(system='detector', models=chosen))
    found = detector.boxes(images)
    assert [boxes.shape[1] for boxes in found] == [4] * 3
    assert detector.run(images)['persons'] == sum(map(len, found)) > 0
    with pytest.raises(ValueError, match='neither annotations nor a detector'):
        Detector(Contender(system='detector', models=models_of(models, 'rtmo'))).boxes(images)


# ------------------------------------------------------------------------------ limits


@pytest.fixture
def ticks():
    """A clock that advances by one second per reading."""
    return partial(next, count(50.0))


@pytest.fixture(autouse=True)
def small_convolutions(monkeypatch):
    monkeypatch.setattr(limits, 'CONVOLUTIONS', SMALL_CONVOLUTIONS)


@pytest.mark.parametrize('name', ['rtmo', 'rtmpose'])
@pytest.mark.parametrize('engine', ['torch', 'openvino'])
def test_limits_are_those_of_the_network(models, images, build, ticks, name, engine):
    if engine != 'torch':
        pytest.importorskip(engine)
    more = {'given_boxes': True} if name == 'rtmpose' else {}
    ours = build(OURS, models_of(models, name, **more), engine=engine)
    if name == 'rtmpose':
        images = [Image(image.path, BOXES) for image in images]
    before = ours.run(images)
    found = measure_limits(ours.inferencer, lambda: ours.run(images), len(images), now=ticks)
    shares = found['test_step_shares']
    assert list(shares) == ['stacking', 'network', 'decoding']
    assert all(share > 0 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1.0)
    assert found['network_only'] == 3.0  # images in one second of this clock
    assert found['flop'] > 1e6
    assert found['best_rate'] == 4 * flop_of(8, 8)
    assert found['limit'] == pytest.approx(found['best_rate'] / found['flop'])
    assert (
        ours.limits(images)['flop'] == found['flop']
    )  # as a contender measures it, with a real clock
    assert 'test_step' not in vars(ours.inferencer.runner)
    after = ours.run(images)
    assert after['persons'] == before['persons']


def flop_of(channels: int, side: int) -> int:
    """Operations of a 3x3 convolution."""
    return 2 * side**2 * channels**2 * 9


def test_without_persons_there_are_no_limits(models, images, build):
    ours = build(OURS, models_of(models, 'rtmpose', given_boxes=True))
    assert ours.limits([Image(image.path, BOXES[:0]) for image in images]) == {}


def test_engines_are_warmed_up_with_images_spread_over_the_round(models, images):
    pytest.importorskip('openvino')
    contender = Contender(
        system=OURS,
        models=models_of(models, 'rtmo'),
        settings={'engine': 'onnxruntime', 'precision': 'int8', 'self_check': False},
    )
    ours = build_system(contender)
    assert ours.inferencer.runner.selection is None
    ours.prepare(images * 10)
    assert ours.report()['engines']['pose']['calibrated_with'] == 30
    assert ours.report()['engine_bytes'] > 1000


def test_both_engines_count_the_same_operations(models, images, build):
    pytest.importorskip('openvino')
    flop = [
        build(OURS, models_of(models, 'rtmo'), engine=engine).limits(images)['flop']
        for engine in ('torch', 'openvino')
    ]
    assert flop[0] == flop[1]


def test_operations_are_counted_for_every_instance(models, images, build):
    ours = build(OURS, models_of(models, 'rtmo'))
    one, three = ours.limits(images[:1]), ours.limits(images)
    assert three['flop'] == pytest.approx(one['flop'])  # inputs of one size, per image


def test_the_operations_of_a_convolution_are_counted():
    class Probed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Identity()
            self.extract_feat = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)

    probe = Probe(Probed())
    probe.groups = [
        [torch.zeros(2, 3, 16, 16)],
        [torch.zeros(5, 3, 16, 16), torch.zeros(1, 3, 8, 8)],
    ]
    per_pixel = 2 * 3 * 8 * 9
    assert count_flop(probe, SimpleNamespace(by_reference=nullcontext)) == per_pixel * (
        7 * 256 + 64
    )


def test_a_best_rate_is_known_if_pytorch_supports_the_precision(monkeypatch, ticks):
    cpu = torch.device('cpu')
    assert best_rate('fp32', cpu, now=ticks) == 4 * flop_of(8, 8)
    assert best_rate('bf16', cpu, now=ticks) == 4 * flop_of(8, 8)
    assert best_rate('int8', cpu) is None
    monkeypatch.undo()
    assert best_rate('fp32', cpu, tries=1, now=ticks) == 8 * flop_of(512, 16)


# -------------------------------------------------------------------------------- work


def test_scenes_have_boxes_and_an_ap(models, build, tmp_path):
    ann_file = write_scenes(tmp_path, 3, seed=1, quiet=True)
    paths = [str(path) for path in sorted(tmp_path.glob('*.jpg'))]
    images = with_annotated_persons([*paths, paths[0]], str(ann_file))
    assert [image.path for image in images] == [*paths, paths[0]]
    assert all((image.bboxes[:, 2:] > image.bboxes[:, :2]).all() for image in images)
    ours = build(OURS, models_of(models, 'rtmpose', given_boxes=True))
    assert ours.run(images)['persons'] == sum(len(image.bboxes) for image in images)
    with pytest.raises(AnnotationError, match=r'photo\.jpg has no annotation, or several'):
        with_annotated_persons(['photo.jpg'], str(ann_file))
    assert 0 <= ours.ap(images, str(ann_file)) <= 1


def test_inputs_are_repeated():
    assert repeat(['a', 'b', 'c'], 5) == ['a', 'b', 'c', 'a', 'b']
    assert repeat(['a', 'b', 'c'], 2) == ['a', 'b']


def test_upstream_uses_the_detector_of_the_config(models, build, tmp_path, images):
    (tmp_path / 'detector.py').write_text(
        f'_base_ = {models.file("rtmdet.py")!r}\n'
        f'inferencer = dict(weights={models.file("rtmdet.pth")!r})\n'
    )
    (tmp_path / 'pose.py').write_text(
        f'_base_ = {models.file("rtmpose.py")!r}\n'
        f'inferencer = dict(weights={models.file("rtmpose.pth")!r}, '
        f'det_model={str(tmp_path / "detector.py")!r})\n'
    )
    chosen = Models(pose2d=str(tmp_path / 'pose.py'), device='cpu')
    upstream, ours = build(UPSTREAM, chosen), build(OURS, chosen)
    key = 'backbone.stem.0.conv.weight'
    expected = torch.load(models.file('rtmdet.pth'), weights_only=True)['state_dict'][key]
    assert torch.equal(upstream._inferencer.detector.model.state_dict()[key], expected)
    assert upstream.run(images)['persons'] == ours.run(images)['persons']
