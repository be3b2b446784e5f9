"""Copies and specs of an inferencer have equal outputs, also in another process."""

import copy
import json
import multiprocessing
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from support.tiny import OurDetector, TinyModel, detector_config, picture

from mmpose_batch import BatchPose2DInferencer, build_inferencer, copies
from mmpose_batch.engines.selection import Selection
from mmpose_batch.factory import InferencerSpec, plan_inferencer
from mmpose_batch.scenes import SceneOptions, draw_scene

pytestmark = pytest.mark.usefixtures('one_thread')

WHOLE = 'whole_image'
PICTURES = [picture(60, 90), picture(83, 70, 1), picture(60, 90, 2)]


def by_pickle(inferencer: BatchPose2DInferencer) -> BatchPose2DInferencer:
    return pickle.loads(pickle.dumps(inferencer))


def by_spec(inferencer: BatchPose2DInferencer) -> BatchPose2DInferencer:
    return pickle.loads(pickle.dumps(InferencerSpec.of(inferencer))).build()


def sent_to_another_process(inferencer: BatchPose2DInferencer) -> BatchPose2DInferencer:
    """As :func:`by_pickle`, in what looks like another process."""
    state = pickle.dumps(inferencer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, '_PROCESS', 'another')
        return pickle.loads(state)


WAYS = {'deepcopy': copy.deepcopy, 'pickle': by_pickle, 'spec': by_spec}
in_every_way = pytest.mark.parametrize('way', WAYS.values(), ids=WAYS)
# `deepcopy` uses the same state as `pickle`, so most tests omit it.
sent = pytest.mark.parametrize('way', [by_pickle, by_spec], ids=['pickle', 'spec'])
# Ways that copy weights which exist only in memory.
in_memory = pytest.mark.parametrize('way', [copy.deepcopy, by_pickle], ids=['deepcopy', 'pickle'])


def outputs(inferencer: BatchPose2DInferencer, images: list[np.ndarray] = PICTURES) -> list[Any]:
    """All numbers in the results, without thresholds."""
    return [result['predictions'] for result in inferencer(images, bbox_thr=0.0, nms_thr=0.9)]


def scenes() -> list[np.ndarray]:
    options = SceneOptions(persons=(2, 3))
    return [draw_scene(4, index, options).image for index in range(3)]


def assert_same(one: BatchPose2DInferencer, other: BatchPose2DInferencer) -> None:
    """Check that outputs are bitwise equal, and that the objects differ."""
    found = outputs(one)
    assert sum(len(instances) for (instances,) in found)
    assert outputs(other) == found
    assert other is not one and other.model is not one.model
    assert other.options == one.options


@pytest.fixture(scope='module', params=['demo', 'demo-rtmpose'])
def demo(
    request: pytest.FixtureRequest, one_thread: None
) -> tuple[BatchPose2DInferencer, list[np.ndarray], list[Any]]:
    """An inferencer built from a model name, images, and its outputs for them."""
    original = build_inferencer(request.param, device='cpu', num_workers=0, batch_size=2)
    images = scenes()
    found = outputs(original, images)
    assert all(instances for (instances,) in found)
    return original, images, found


@in_every_way
def test_outputs_are_equal(demo, way):
    original, images, found = demo
    assert outputs(way(original), images) == found


@sent
def test_a_config_object_needs_no_file(one_stage, way):
    original = one_stage.ours(batch_size=2)
    made = way(original)
    assert_same(original, made)
    assert made.model.dataset_meta['num_keypoints'] == 17


@sent
def test_changes_to_the_config_are_copied(one_stage, way):
    changes = {'model.test_cfg.nms_pre': 1}
    original = build_inferencer(one_stage.cfg, one_stage.weights, changes, device='cpu')
    made = way(original)
    assert_same(original, made)
    assert [len(instances) for (instances,) in outputs(made)] == [1, 1, 1]


@sent
def test_options_detector_and_settings_are_copied(top_down, tmp_path, way, monkeypatch):
    original = BatchPose2DInferencer(
        top_down.cfg,
        top_down.weights,
        'cpu',
        det_model=detector_config(),
        det_weights='none',
        det_cat_ids=0,
        show_progress=True,
        no_person='whole_image',
        rect=True,
        engine_cache=False,
    )
    monkeypatch.chdir(tmp_path)  # relative paths change their meaning
    made = way(original)
    original.show_progress = made.show_progress = False
    assert_same(original, made)
    assert made.detector.cat_ids == (0,)
    assert (made.device, made.scope) == (original.device, original.scope)
    assert made.options.no_person == 'whole_image'
    assert InferencerSpec.of(made) == InferencerSpec.of(original)


@in_memory
@pytest.mark.parametrize('weights', ['none', None], ids=['the same', 'of this process'])
def test_random_weights_are_copied(top_down, way, weights):
    original = BatchPose2DInferencer(top_down.cfg, weights, 'cpu', det_model='whole_image')
    state = torch.get_rng_state()
    assert_same(original, way(original))
    assert torch.equal(torch.get_rng_state(), state)


@in_memory
@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
def test_changes_in_memory_are_copied(one_stage, top_down, way, kind):
    tiny: TinyModel = {'one_stage': one_stage, 'top_down': top_down}[kind]
    original = BatchPose2DInferencer(tiny.cfg, tiny.weights, 'cpu', det_model='whole_image')
    before = outputs(original)
    with torch.no_grad():
        for parameter in original.model.parameters():
            parameter.mul_(0.97)
    original.model.dataset_meta['dataset_name'] = 'mine'
    original.visualizer.alpha = 0.5
    made = way(original)
    assert_same(original, made)
    assert outputs(made) != before
    assert made.model.dataset_meta['dataset_name'] == 'mine'
    assert made.visualizer.alpha == 0.5


def test_the_checkpoint_is_not_read_again(one_stage, tmp_path):
    weights = tmp_path / 'weights.pth'
    weights.write_bytes(Path(one_stage.weights).read_bytes())
    original = BatchPose2DInferencer(one_stage.cfg, str(weights), 'cpu')
    weights.unlink()
    made = by_pickle(original)
    assert_same(original, made)
    assert InferencerSpec.of(made).weights == str(weights)


class Mine(BatchPose2DInferencer):
    """A user's subclass with its own constructor and attributes."""

    def __init__(self, cfg: Any, weights: str, names: list[str]) -> None:
        self.names = names
        super().__init__(cfg, weights, 'cpu', batch_size=2)
        self.count = len(names)


@in_memory
def test_a_subclass_keeps_its_attributes(one_stage, way):
    original = Mine(one_stage.cfg, one_stage.weights, ['one', 'two'])
    original.later = {'added': 1}
    made = way(original)
    assert_same(original, made)
    assert type(made) is Mine
    assert (made.names, made.count, made.later) == (['one', 'two'], 2, {'added': 1})
    assert made.names is not original.names


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Set PyTorch's number of threads, which tests change, back to one."""
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures('restored_threads')
@pytest.mark.parametrize(
    ('given', 'way', 'expected'),
    [
        (None, copy.deepcopy, 2),
        (None, by_pickle, 2),
        (None, sent_to_another_process, 1),
        (None, by_spec, 1),
        (1, copy.deepcopy, 1),
        (1, by_pickle, 1),
    ],
)
def test_threads_of_the_process(one_stage, given, way, expected):
    """A copy in the same process changes PyTorch's number of threads only if one was given."""
    original = one_stage.ours(num_threads=given)  # with one thread, as it is in this module
    torch.set_num_threads(2)
    made = way(original)
    assert torch.get_num_threads() == made.options.num_threads == expected


def with_detector(top_down: TinyModel, **settings: Any) -> BatchPose2DInferencer:
    """A tiny top-down model with a detector of random weights."""
    usual = {'det_model': detector_config(), 'det_weights': 'none', 'device': 'cpu'}
    torch.manual_seed(0)
    return BatchPose2DInferencer(top_down.cfg, top_down.weights, **usual | settings)


def padded(pipeline: Compose) -> Compose:
    """A copy of a top-down pipeline, with larger crops."""
    changed = copy.deepcopy(pipeline)
    changed.transforms[1].padding = 2.0
    return changed


@in_memory
def test_a_replaced_pipeline_is_copied(top_down, way):
    original = BatchPose2DInferencer(top_down.cfg, top_down.weights, 'cpu', det_model=WHOLE)
    before = outputs(original)
    original.pipeline = padded(original.pipeline)
    made = way(original)
    assert_same(original, made)
    assert outputs(made) != before
    assert_same(made, way(made))
    for each in (original, made):
        with pytest.raises(TypeError, match='by a spec after its pipeline was replaced'):
            InferencerSpec.of(each)


@in_memory
def test_a_change_within_the_pipeline_is_copied(top_down, way):
    original = BatchPose2DInferencer(top_down.cfg, top_down.weights, 'cpu', det_model=WHOLE)
    before = outputs(original)
    original.pipeline.transforms[1].padding = 2.0
    made = way(original)
    assert_same(original, made)
    assert outputs(made) != before


@in_memory
def test_a_replaced_pipeline_of_the_detector_is_copied(top_down, way):
    original = with_detector(top_down)
    before = original.detector.prepare(PICTURES[0])['inputs']
    original.detector.pipeline = changed = copy.deepcopy(original.detector.pipeline)
    changed.transforms[1].scale = (64, 64)
    made = way(original)
    inputs = [each.detector.prepare(PICTURES[0])['inputs'] for each in (original, made)]
    assert torch.equal(*inputs)
    assert not torch.equal(inputs[0], before)
    for each in (original, made):
        with pytest.raises(TypeError, match='by a spec after its det_pipeline was replaced'):
            InferencerSpec.of(each)


@in_every_way
def test_a_removed_detector_is_copied(top_down, way):
    original = with_detector(top_down, det_batch_size=3, det_cat_ids=[0])
    before = outputs(original)
    original.detector = None
    made = way(original)
    assert made.detector is None
    assert outputs(made) == outputs(original) != before
    assert way(made).detector is None


@in_every_way
def test_changed_categories_are_copied(top_down, way):
    det_model = detector_config()
    det_model.model.bbox_head.num_classes = 8
    original = with_detector(top_down, det_model=det_model)
    before = outputs(original)
    original.detector.cat_ids = (5,)
    made = way(original)
    assert made.detector.cat_ids == (5,)
    if way is not by_spec:  # which does not contain the random weights
        assert outputs(made) == outputs(original) != before


@pytest.mark.parametrize('cat_ids', [(), (5,)])
def test_a_spec_needs_categories_that_exist(top_down, cat_ids):
    original = with_detector(top_down)
    original.detector.cat_ids = cat_ids
    assert by_pickle(original).detector.cat_ids == cat_ids
    with pytest.raises(ValueError, match='det_cat_ids: expected integers'):
        InferencerSpec.of(original)


@in_every_way
def test_another_detector_cannot_be_copied(top_down, way):
    original = with_detector(top_down)
    original.detector = OurDetector()
    with pytest.raises(TypeError, match='cannot copy an inferencer whose detector was replaced'):
        way(original)


@sent
@pytest.mark.parametrize('sizes', [{'batch_size': 1}, {'det_batch_size': 1}, {}], ids=str)
def test_engines_are_built_for_the_same_aim(top_down, way, sizes):
    original = with_detector(top_down, **sizes)
    made = way(original)
    assert made.options == original.options
    for name in ('pose', 'detector'):
        assert made.runners[name].options == original.runners[name].options
    assert made.runners['detector'].options.latency == (1 in sizes.values())


@pytest.mark.parametrize('engine', ['openvino', 'onnxruntime'])
def test_int8_is_calibrated_with_the_inputs_of_the_original(top_down, engine):
    pytest.importorskip(engine)
    pytest.importorskip({'openvino': 'nncf', 'onnxruntime': 'onnx'}[engine])
    settings = {'calib_images': 2, 'self_check': False, 'engine_cache': False, 'batch_size': 2}
    original = BatchPose2DInferencer(
        *(top_down.cfg, top_down.weights, 'cpu'),
        **{'det_model': WHOLE, 'engine': engine, 'precision': 'int8', **settings},
    )
    InferencerSpec.of(original)  # nothing is calibrated yet
    outputs(original)
    others = [picture(50, 70, seed) for seed in (7, 8)]
    made = by_pickle(by_pickle(original))
    for each in (original, made):  # `made` has not seen an image
        with pytest.raises(TypeError, match='by a spec after int8 was calibrated'):
            InferencerSpec.of(each)
    assert outputs(made, others) == outputs(original, others)
    selections = made.runner.selection, original.runner.selection
    assert selections[0].calibration == selections[1].calibration


@sent
def test_the_selection_is_copied(one_stage, way, monkeypatch):
    original = one_stage.ours(engine='auto', precision='auto', batch_size='auto')
    lifecycle = original.runner.lifecycle
    monkeypatch.setattr(
        type(original.runner),
        'selection',
        property(lambda runner: Selection(engine='torch', precision='fp32')),
    )
    lifecycle.set_batch_size(3)
    restored = []
    monkeypatch.setattr(type(lifecycle), 'restore', lambda _, selection: restored.append(selection))
    made = way(original)
    assert restored == [Selection(engine='torch', precision='fp32')]
    assert made.runner.lifecycle.batch_size == 3
    assert (made.options.engine, made.options.batch_size) == ('auto', 'auto')


@pytest.mark.slow
def test_the_engine_that_was_fastest_computes_in_the_copy(one_stage, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    original = one_stage.ours(engine='auto', batch_size=2)
    found = outputs(original)
    made = by_pickle(original)
    assert outputs(original) == outputs(made)
    assert len(outputs(made)) == len(found)
    assert made.runner.selection.engine == original.runner.selection.engine


def test_a_spec_is_plain(top_down):
    spec = plan_inferencer(
        top_down.cfg,
        top_down.weights,
        det_model=detector_config(),
        det_weights='none',
        device='cpu',
        no_person='whole_image',
    ).spec
    assert json.loads(json.dumps([spec.config, spec.settings])) is not None
    assert spec.weights == top_down.weights
    assert spec.settings['det_model']['model']['type'] == 'RTMDet'
    made = [pickle.loads(pickle.dumps(spec)).build() for _ in range(2)]
    assert_same(*made)
    assert InferencerSpec.of(made[0]).settings['batch_size'] == made[0].options.batch_size
    assert len(pickle.dumps(spec)) < 100_000  # no weights


def test_paths_of_a_spec_are_absolute(one_stage, monkeypatch):
    folder, name = os.path.split(one_stage.weights)
    monkeypatch.chdir(folder)
    spec = plan_inferencer(one_stage.cfg, name, device='cpu').spec
    assert spec.weights == one_stage.weights


def test_a_spec_performs_the_imports_of_its_config(one_stage, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'imported_by_a_spec.py').write_text('')
    cfg = copy.deepcopy(one_stage.cfg)
    cfg.custom_imports = {'imports': ['imported_by_a_spec']}
    spec = plan_inferencer(cfg, one_stage.weights, device='cpu').spec
    spec.build()
    assert sys.modules.pop('imported_by_a_spec')


def infer_elsewhere(task: tuple[Any, list[np.ndarray]]) -> list[Any]:
    """Outputs in a worker process, which is sent an inferencer or its spec."""
    made, images = task
    return outputs(made.build() if isinstance(made, InferencerSpec) else made, images)


@pytest.mark.slow
def test_outputs_in_a_new_process_are_equal():
    images, originals = scenes(), []
    for name in ('demo', 'demo-rtmpose'):
        with DefaultScope.overwrite_default_scope('mmpose'):
            originals.append(build_inferencer(name, device='cpu', num_workers=0))
    tasks = [(original, images) for original in originals]
    tasks += [(InferencerSpec.of(original), images) for original in originals]
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        found = pool.map(infer_elsewhere, tasks)
    expected = [outputs(original, images) for original in originals]
    assert found == [*expected, *expected]
    assert all(instances for result in found for (instances,) in result)
