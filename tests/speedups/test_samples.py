"""Data samples: copies and merges are equal to those of MMEngine and MMPose."""

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from mmpose.structures import PoseDataSample, merge_data_samples

from mmpose_batch.speedups.samples import (
    copy_sample,
    merge_samples,
    new_instances,
    replace_fields,
)


def person(seed: int, **more: object) -> PoseDataSample:
    rng = np.random.default_rng(seed)
    sample = PoseDataSample(
        metainfo={
            'img_path': 'a.jpg',
            'ori_shape': (60, 80),
            'input_center': rng.random(2),
            'input_scale': 20 + rng.random(2),
            'flip_indices': [0, 2, 1],
        }
    )
    sample.gt_instances = InstanceData(bboxes=rng.random((1, 4)), bbox_scores=rng.random(1))
    fields = {'keypoints': rng.random((1, 3, 2)), 'keypoint_scores': rng.random((1, 3)), **more}
    sample.pred_instances = InstanceData(metainfo={'of': 'the first'}, **fields)
    sample.gt_instance_labels = InstanceData(keypoint_weights=torch.ones(1, 3))
    return sample


def contents(sample: object) -> dict[str, object]:
    """Fields and their types, in a form that pytest can compare."""
    found = {}
    for name in (*sample.keys(), *sample.metainfo_keys()):
        value = getattr(sample, name)
        if hasattr(value, 'metainfo_keys'):
            value = contents(value)
        elif isinstance(value, np.ndarray | torch.Tensor):
            value = type(value), value.dtype, value.tolist()
        found[name] = name in sample.metainfo_keys(), value
    return found


def with_heatmaps(sample: PoseDataSample) -> PoseDataSample:
    sample.pred_fields = PixelData(heatmaps=np.random.default_rng(0).random((3, 8, 6), np.float32))
    return sample


@pytest.mark.parametrize(
    'samples',
    [
        [person(0)],
        [person(0), person(1), person(2)],
        [person(0, names=['a']), person(1, names=['b'])],
        [person(0, sizes=torch.ones(1)), person(1, sizes=torch.zeros(1))],
        [with_heatmaps(person(0)), with_heatmaps(person(1))],
    ],
    ids=['one', 'three', 'lists', 'tensors', 'heatmaps'],
)
def test_persons_are_merged_as_in_mmpose(samples):
    expected = contents(merge_data_samples(list(map(copy_sample, samples))))
    before = list(map(contents, samples))
    merged = merge_samples(samples)
    assert contents(merged) == expected
    assert type(merged) is PoseDataSample
    assert merged.flip_indices is not samples[0].flip_indices  # shared by the samples of a pipeline
    assert list(map(contents, samples)) == before


def test_persons_without_predictions_are_merged_too():
    samples = [person(0), person(1)]
    for sample in samples:
        del sample.pred_instances
    assert contents(merge_samples(samples)) == contents(merge_data_samples(samples))


def test_persons_with_different_fields_are_rejected_as_in_mmengine():
    with pytest.raises(AssertionError, match='different keys'):
        merge_samples([person(0), person(1, areas=np.ones(1))])


def test_fields_of_a_copy_are_independent():
    first = person(0)
    before = contents(first)
    copied = copy_sample(first)
    assert contents(copied) == before
    replace_fields(copied, img_path='b.jpg')
    replace_fields(copied.pred_instances, keypoints=np.zeros((1, 3, 2)))
    copied.gt_instances.areas = np.ones(1)
    assert copied.img_path == copied.metainfo['img_path'] == 'b.jpg'
    assert contents(first) == before


def test_new_instances_are_those_of_mmengine():
    fields = {'scores': np.ones(2), 'keypoints': np.zeros((2, 17, 2))}
    found, expected = new_instances(**fields), InstanceData(**fields)
    assert contents(found) == contents(expected)
    assert len(found) == 2
    assert all(found[name] is values for name, values in fields.items())
    with pytest.raises(AssertionError):
        found.labels = np.ones(3)
