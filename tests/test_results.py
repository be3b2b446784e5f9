"""Selection of instances, and results of images without instances."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.structures import InstanceData
from mmpose.apis.inferencers import Pose2DInferencer
from mmpose.structures import PoseDataSample, merge_data_samples, split_instances

from mmpose_batch.results import ImageResult, select_instances
from mmpose_batch.sources.base import Frame
from mmpose_batch.speedups.samples import empty_sample


def sample_of(scores: list[float], shifts: list[float], joints: int = 17) -> PoseDataSample:
    """Equal poses, each shifted to the right by some pixels."""
    rng = np.random.default_rng(0)
    form = rng.uniform(0, 100, (joints, 2))
    keypoints = form + np.column_stack((shifts, np.zeros(len(shifts))))[:, None]
    sample = PoseDataSample()
    sample.pred_instances = InstanceData(
        keypoints=keypoints,
        keypoint_scores=np.ones((len(scores), joints)),
        bboxes=np.zeros((len(scores), 4)),
        bbox_scores=np.array(scores, dtype=np.float64),
        place=np.arange(len(scores)),
    )
    return sample


def upstream_choice(sample: PoseDataSample, bbox_thr: float, pose_based_nms: bool) -> list[int]:
    """Indices of the instances that ``forward`` of upstream's ``Pose2DInferencer`` keeps."""
    itself = SimpleNamespace(
        model=SimpleNamespace(test_step=lambda inputs: [sample]),
        cfg=SimpleNamespace(data_mode='bottomup'),
    )
    (kept,) = Pose2DInferencer.forward(
        itself, None, bbox_thr=bbox_thr, pose_based_nms=pose_based_nms
    )
    return kept.pred_instances.place.tolist()


CASES = {
    'no detections': ([], []),
    'one': ([0.5], [0]),
    'apart': ([0.2, 0.9, 0.5], [0, 200, 400]),
    'coinciding': ([0.2, 0.9, 0.5, 0.4], [0, 0.5, 300, 300.5]),
    'all alike': ([0.3, 0.3, 0.3], [0, 0, 0]),
    'a chain': ([0.5, 0.6, 0.7, 0.8], [0, 5, 10, 15]),
    'more than thirty': (list(np.linspace(0.1, 0.9, 40)), list(range(0, 8000, 200))),
}


@pytest.mark.parametrize(('scores', 'shifts'), CASES.values(), ids=CASES)
@pytest.mark.parametrize('select_thr', [-1, 0, 0.3, 0.5, 2])
@pytest.mark.parametrize('pose_based_nms', [False, True])
def test_selected_instances_and_their_order_equal_those_of_upstream(
    scores, shifts, select_thr, pose_based_nms
):
    expected = upstream_choice(sample_of(scores, shifts), select_thr, pose_based_nms)
    selected = select_instances(sample_of(scores, shifts), select_thr, pose_based_nms)
    assert selected.pred_instances.place.tolist() == expected


def test_the_cases_distinguish_the_rules():
    def kept(case: str, select_thr: float, pose_based_nms: bool) -> list[int]:
        return upstream_choice(sample_of(*CASES[case]), select_thr, pose_based_nms)

    assert kept('apart', 0.5, False) == [1]  # above, not at, the threshold
    assert kept('coinciding', -1, True) == [1, 2]
    assert len(kept('more than thirty', -1, True)) == 30


@pytest.mark.parametrize('coinciding', range(18))
def test_poses_coincide_if_a_third_of_their_keypoints_do_as_in_upstream(coinciding):
    sample = sample_of([0.5, 0.9], [0, 200])
    points = sample.pred_instances.keypoints
    points[1, :coinciding] = points[0, :coinciding]
    expected = upstream_choice(copy.deepcopy(sample), -1, True)
    assert select_instances(sample, -1, True).pred_instances.place.tolist() == expected


def test_instances_without_a_box_score_are_not_selected_by_it():
    sample = sample_of([0.1, 0.9], [0, 200])
    del sample.pred_instances.bbox_scores
    assert len(select_instances(sample, 0.5, False).pred_instances) == 2


@pytest.mark.parametrize('num_keypoints', [17, 133])
def test_no_detections_are_an_empty_sample(num_keypoints):
    sample = merge_data_samples([empty_sample('a.jpg', (640, 480), num_keypoints)])
    assert len(sample.pred_instances) == 0
    assert sample.pred_instances.keypoints.shape == (0, num_keypoints, 2)
    assert sample.pred_instances.keypoint_scores.shape == (0, num_keypoints)
    assert sample.pred_instances.bboxes.shape == (0, 4)
    assert (sample.img_path, sample.ori_shape) == ('a.jpg', (480, 640))
    assert split_instances(sample.pred_instances) == []


def test_plain_predictions_of_each_sample_equal_those_of_upstream():
    samples = [sample_of([0.1, 0.9], [0, 200]), sample_of([], [])]
    result = ImageResult(Frame(0, 'x/a.jpg', 'a.jpg'), data_samples=samples)
    assert result.predictions == [split_instances(samples[0].pred_instances), []]
    assert [instance['bbox_score'] for instance in result.predictions[0]] == [0.1, 0.9]


@pytest.mark.parametrize(
    ('frame', 'image'),
    [
        pytest.param(Frame(0, 'x/a.jpg', 'a.jpg'), 'x/a.jpg', id='file'),
        pytest.param(Frame(3, np.zeros(1), '000003.jpg'), '000003.jpg', id='array'),
    ],
)
def test_a_failure_record_has_the_path_that_the_user_passed(frame, image):
    result = ImageResult(frame, error='expected an image, found text')
    assert result.failure == {'image': image, 'error': 'expected an image, found text'}


def test_instances_that_are_all_selected_are_not_copied():
    sample = sample_of([0.9, 0.5], [0, 200])
    before = sample.pred_instances
    assert select_instances(sample, 0.3, pose_based_nms=False).pred_instances is before
    assert select_instances(sample, 0.5, pose_based_nms=False).pred_instances is not before
