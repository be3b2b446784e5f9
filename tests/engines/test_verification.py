"""Comparison of the outputs of two engines."""

import numpy as np
import pytest

from mmpose_batch.engines import verification
from mmpose_batch.engines.verification import BOUNDS, Difference, Instances


def pose(x: float, size: float = 100.0, count: int = 17) -> np.ndarray:
    rng = np.random.default_rng(int(x))
    points = rng.uniform(0, 1, (count, 2)) * (0.6, 0.8) * size
    points[0], points[1] = (0, 0), (0.6 * size, 0.8 * size)  # the diagonal is the size
    return points + x


def image(*poses: np.ndarray, score: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    points = np.array(poses).reshape(-1, 17, 2)
    return points, np.full(points.shape[:2], score)


def compare(
    reference: list[Instances], other: list[Instances], precision: str = 'fp32'
) -> Difference:
    return verification.compare(reference, other, BOUNDS[precision].quantile)


def test_equal_outputs_do_not_differ():
    outputs = [image(pose(0), pose(300)), image()]
    found = compare(outputs, outputs)
    assert (found.instances, found.found, found.px, found.score) == (2, 1.0, 0.0, 0.0)
    assert found.within(BOUNDS['fp32'])


def test_a_shift_is_reported_in_pixels_and_as_a_fraction_of_the_person():
    found = compare([image(pose(0), score=0.8)], [image(pose(0) + np.array([3, 4]), score=0.7)])
    assert found.px == pytest.approx(5)
    assert found.size == pytest.approx(0.05)
    assert found.score == pytest.approx(0.1)


def test_instances_are_compared_in_any_order():
    found = compare([image(pose(0), pose(300))], [image(pose(300), pose(0))])
    assert (found.found, found.px) == (1.0, 0.0)


@pytest.mark.parametrize(
    ('others', 'part'),
    [
        pytest.param([], 0.0, id='none'),
        pytest.param([pose(0)], 0.5, id='one of two'),
        pytest.param([pose(0), pose(300) + 50], 0.5, id='one at another place'),
        pytest.param([pose(0), pose(300), pose(600)], 1.0, id='one more'),
    ],
)
def test_the_fraction_of_found_persons_is_reported(others, part):
    assert compare([image(pose(0), pose(300))], [image(*others)]).found == part


def test_surplus_persons_are_reported():
    reference = [image(pose(0), pose(300))]
    one_more = compare(reference, [image(pose(0), pose(300), pose(600))])
    assert one_more.surplus == 1 and one_more.within(BOUNDS['fp32'])
    many_more = compare(reference, [image(*map(pose, range(0, 3000, 300)))])
    assert many_more.surplus == 8 and not many_more.within(BOUNDS['fp32'])
    assert '8 more' in str(many_more)


@pytest.mark.parametrize(
    ('precision', 'spared'), [('fp32', 2), ('fp16', 2), ('bf16', 4), ('int8', 4)]
)
def test_a_few_keypoints_may_deviate_by_any_distance(precision, spared):
    bound = BOUNDS[precision]
    for moved, good in ((spared, True), (spared + 2, False)):
        reference, other = ([image(pose(0), pose(300), pose(600))] for _ in range(2))
        other[0][0][np.arange(moved) % 3, 5 + np.arange(moved)] += 40
        assert compare(reference, other, precision).within(bound) == good


def test_one_keypoint_of_one_person_may_deviate_by_any_distance():
    reference, other = [image(pose(0))], [image(pose(0))]
    other[0][0][0, 5] += 40
    assert compare(reference, other).px == 0


def test_a_keypoint_that_deviates_in_all_persons_is_reported():
    reference = [image(*map(pose, range(0, 3000, 300)))]
    other = [image(*map(pose, range(0, 3000, 300)))]
    other[0][0][:, 5] += 40
    found = compare(reference, other, 'int8')
    assert found.px == pytest.approx(40 * 2**0.5) and not found.within(BOUNDS['int8'])


@pytest.mark.parametrize(('persons', 'good'), [(1, False), (2, False), (3, True), (9, True)])
def test_one_of_at_least_three_persons_may_be_missing(persons, good):
    all_persons = [pose(300 * index) for index in range(persons)]
    found = compare([image(*all_persons)], [image(*all_persons[1:])])
    assert found.within(BOUNDS['fp32']) == good


def test_without_detections_there_is_no_difference():
    found = compare([image()], [image()])
    assert found.within(BOUNDS['fp32'])
    assert 'no detections' in str(found)


@pytest.mark.parametrize('precision', BOUNDS)
def test_bounds_widen_with_the_precision(precision):
    assert BOUNDS[precision].size >= BOUNDS['fp32'].size
    assert 0 < BOUNDS[precision].found <= 1
