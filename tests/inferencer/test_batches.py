"""Persons and images of several inputs share batches."""

import copy

import numpy as np
import pytest
from support.inferencing import (
    KINDS,
    PERSONS,
    PICTURES,
    SIZES,
    assert_close,
    persons_of,
    wrap_test_step,
)
from support.tiny import OurDetector, TinyModel, picture

from mmpose_batch import BatchPose2DInferencer

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')


def batches_of(inferencer: BatchPose2DInferencer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that receives the sizes of all later batches of the pose network."""
    sizes: list[int] = []
    wrap_test_step(inferencer, monkeypatch, lambda data: sizes.append(len(data['inputs'])))
    return sizes


def test_persons_of_many_images_fill_one_batch(ours, monkeypatch):
    inferencer = ours['top_down']
    monkeypatch.setattr(inferencer, 'detector', OurDetector())
    counts = [0, 40, 1, 0, 3, 0, 2]
    images = [picture(120, 90, seed, count) for seed, count in enumerate(counts)]
    sizes = batches_of(inferencer, monkeypatch)
    results = list(inferencer(images, batch_size=16))
    assert persons_of(results) == counts
    assert sizes == [16, 16, 14]
    assert inferencer.detector.batches == [2, 2, 2, 1]
    alone = [next(iter(inferencer(image))) for image in images]
    for together, single in zip(results, alone, strict=True):
        assert_close(together['predictions'], single['predictions'])


def test_images_of_a_one_stage_model_fill_batches(ours, monkeypatch):
    sizes = batches_of(ours['one_stage'], monkeypatch)
    list(ours['one_stage'](PICTURES))
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('batch_size', [1, 2, 100])
def test_a_call_may_have_its_own_batch_size(ours, monkeypatch, kind, batch_size):
    sizes = batches_of(ours[kind], monkeypatch)
    list(ours[kind](PICTURES, batch_size=batch_size))
    whole = sum(PERSONS) if kind == 'top_down' else len(PICTURES)
    assert max(sizes) == min(batch_size, whole)
    assert sum(sizes) == whole


def test_inputs_of_different_shape_are_never_in_one_batch(one_stage, monkeypatch):
    # Without resizing to one size, inputs have different shapes.
    cfg = copy.deepcopy(one_stage.cfg)
    cfg.test_dataloader.dataset.pipeline[1] = {
        'type': 'BottomupResize',
        'input_size': (96, 96),
        'size_factor': 32,
        'resize_mode': 'expand',
        'pad_val': (114, 114, 114),
    }
    inferencer = TinyModel(cfg, one_stage.weights).ours(batch_size=3)
    shapes = []
    wrap_test_step(
        *(inferencer, monkeypatch),
        lambda data: shapes.append({tuple(image.shape) for image in data['inputs']}),
    )
    sizes = [(96, 96), (192, 96), (96, 96), (96, 192), (192, 96), (96, 96)]
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    results = list(inferencer(images, bbox_thr=0.2))
    assert [len(batch) for batch in shapes] == [1] * len(shapes)
    assert len(shapes) == 3
    alone = [next(iter(inferencer(image, bbox_thr=0.2))) for image in images]
    for together, single in zip(results, alone, strict=True):
        assert_close(together['predictions'], single['predictions'])


def test_no_detections_are_an_empty_result_by_default(ours):
    (result,) = ours['top_down'](PICTURES[1])
    assert result == {'predictions': [[]], 'visualization': None}
    (result,) = ours['top_down'](PICTURES[1], merge_results=False, return_datasamples=True)
    instances = result['predictions'][0].pred_instances
    assert len(instances) == 0
    assert instances.keypoints.shape == (0, 17, 2)


def test_no_person_whole_image_equals_upstream(top_down, upstream):
    inferencer = top_down.ours(no_person='whole_image')
    found, expected = list(inferencer(PICTURES)), list(upstream['top_down'](PICTURES))
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine['predictions'], theirs['predictions'])
    assert 0 not in persons_of(found)


def test_without_a_detector_every_image_is_one_person(ours, monkeypatch):
    monkeypatch.setattr(ours['top_down'], 'detector', None)
    results = list(ours['top_down'](PICTURES))
    assert persons_of(results) == [1] * len(PICTURES)
    boxes = [result['predictions'][0][0]['bbox'][0] for result in results]
    np.testing.assert_allclose(boxes, [[0, 0, *size] for size in SIZES], atol=0.01)
