"""Crops of all persons of an image at once: identical to those of the pipeline."""

import copy

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmpose.datasets.transforms import GetBBoxCenterScale, LoadImage, PackPoseInputs, TopdownAffine

from mmpose_batch.speedups.crops import StandardCrops

META = {'flip_indices': [0, 2, 1], 'dataset_name': 'coco', 'skeleton_links': [(0, 1)]}


def pipeline(size=(48, 64), udp=False, padding=1.25, **load) -> Compose:
    steps = [LoadImage(**load), GetBBoxCenterScale(padding), TopdownAffine(size, use_udp=udp)]
    composed = Compose([])
    composed.transforms = [*steps, PackPoseInputs()]
    return composed


def boxes(count: int, dtype=np.float32) -> np.ndarray:
    rng = np.random.default_rng(count)
    corner = rng.uniform(-40, 150, (count, 2))
    size = np.exp(rng.uniform(np.log(0.5), np.log(300), (count, 2)))
    return np.hstack([corner, corner + size, rng.random((count, 1))]).astype(dtype)


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 170, 3), dtype=np.uint8)


def assert_same(one, other) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert one.is_contiguous() == other.is_contiguous()
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize('count', [0, 1, 2, 60])
@pytest.mark.parametrize('size', [(48, 64), (192, 256), (33, 21)])
@pytest.mark.parametrize('udp', [False, True])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_every_person_equals_that_of_the_pipeline(count, size, udp, dtype):
    steps, persons = pipeline(size, udp), boxes(count, dtype)
    info = {'img': image(), 'img_path': 'a.jpg', **META}
    found = StandardCrops(steps)(info, persons)
    assert_packed_as_by(steps, info, persons, found)


@pytest.mark.parametrize('meta_keys', [None, ('img_path', 'input_size', 'input_scale')])
def test_an_image_does_not_affect_the_next(meta_keys):
    steps = pipeline()
    if meta_keys:
        steps.transforms[-1] = PackPoseInputs(meta_keys=meta_keys)
    crops = StandardCrops(steps)
    for path, img, persons in (
        ('a.jpg', image(), boxes(3)),
        ('b.jpg', image()[:90, :70], boxes(1)),
        (None, image()[:30], boxes(2, np.float64)),
    ):
        info = {'img': img, 'img_path': path, **META}
        assert_packed_as_by(steps, info, persons, crops(info, persons))


def assert_packed_as_by(steps, info, persons, found) -> None:
    expected = [
        steps({**info, 'bbox': person[None, :4], 'bbox_score': person[4:5]}) for person in persons
    ]
    assert len(found) == len(persons)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert_same(ours['inputs'], theirs['inputs'])
        one, other = ours['data_samples'], theirs['data_samples']
        assert set(one.keys()) == set(other.keys())
        assert set(one.metainfo_keys()) == set(other.metainfo_keys())
        for name in other.metainfo_keys():
            assert_same(one.get(name), other.get(name))
        for part in ('gt_instances', 'gt_instance_labels'):
            mine, upstream = one.get(part), other.get(part)
            assert set(mine.keys()) == set(upstream.keys())
            assert len(mine) == len(upstream)
            for name in sorted(upstream.keys()):
                assert_same(mine.get(name), upstream.get(name))


def test_persons_do_not_share_fields_that_are_set_later():
    packed = StandardCrops(pipeline())({'img': image(), 'img_path': 'a', **META}, boxes(3))
    samples = [one['data_samples'] for one in packed]
    samples[1].set_metainfo({'pad_shape': (1, 2)})
    samples[2].gt_instances.keypoints = np.zeros((1, 3, 2))
    samples[2].pred_instances = copy.deepcopy(samples[2].gt_instances)
    for other in (samples[0], samples[1]):
        assert 'keypoints' not in other.gt_instances
        assert 'pred_instances' not in other
    for other in (samples[0], samples[2]):
        assert 'pad_shape' not in other
    samples[0].gt_instances.keypoints_visible[:] = 7
    assert (samples[1].gt_instances.keypoints_visible == 1).all()


@pytest.mark.parametrize(
    'change',
    [
        lambda steps: setattr(steps[1], 'padding', 1.0),
        lambda steps: setattr(steps[2], 'use_udp', True),
        lambda steps: setattr(steps[2], 'input_size', (24, 32)),
        lambda steps: setattr(steps[3], 'meta_keys', ('img_path',)),
        lambda steps: steps.__setitem__(1, GetBBoxCenterScale(1.25)),
    ],
)
def test_a_changed_pipeline_has_other_settings(change):
    steps = pipeline()
    before = StandardCrops.settings(steps)
    assert StandardCrops.settings(steps) == before
    change(steps.transforms)
    assert StandardCrops.settings(steps) != before


@pytest.mark.parametrize(
    'change',
    [
        lambda steps: steps.pop(1),
        lambda steps: steps.insert(1, steps[1]),
        lambda steps: steps.__setitem__(2, type('Mine', (TopdownAffine,), {})((48, 64))),
        lambda steps: steps.__setitem__(0, LoadImage(to_float32=True)),
        lambda steps: steps.__setitem__(3, PackPoseInputs(pack_transformed=True)),
        lambda steps: steps.__setitem__(3, PackPoseInputs(meta_keys=('img_path', 'bbox_score'))),
    ],
)
def test_it_applies_only_to_the_standard_pipeline(change):
    steps = pipeline()
    assert StandardCrops.applies(steps, image())
    change(steps.transforms)
    assert not StandardCrops.applies(steps, image())


@pytest.mark.parametrize(
    'img',
    [
        image().astype(np.uint16),
        image()[..., 0],
        image()[..., :1],
        np.concatenate([image(), image()[..., :1]], axis=-1),
    ],
)
def test_it_applies_only_to_bgr_images(img):
    assert not StandardCrops.applies(pipeline(), img)
