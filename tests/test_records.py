"""Records of images in predictions.jsonl."""

import numpy as np
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample

from mmpose_batch.results import ImageResult, to_record
from mmpose_batch.sources.base import Frame
from mmpose_batch.speedups.samples import empty_sample


def sample_of(**fields: np.ndarray) -> PoseDataSample:
    sample = PoseDataSample()
    sample.pred_instances = InstanceData(**fields)
    return sample


KEYPOINTS = np.array([[[1.23456, 2.0], [3.00049, 4.0]], [[5, 6], [7, 8]]], dtype=np.float32)
SCORES = np.array([[0.123456789, 1], [0, 0.5]], dtype=np.float32)
BOXES = {
    'bboxes': np.array([[0, 0, 9.99999, 9], [1, 1, 5, 5]], dtype=np.float32),
    'bbox_scores': np.array([0.987654321, 0.5]),
}


def result_of(*samples: PoseDataSample) -> ImageResult:
    return ImageResult(Frame(0, 'in/x/a.jpg', 'x/a.jpg'), (640, 480), list(samples))


def test_a_record_has_all_instances_in_pixels():
    record = to_record(result_of(sample_of(keypoints=KEYPOINTS, keypoint_scores=SCORES, **BOXES)))
    assert {key: record[key] for key in ('image', 'width', 'height')} == {
        'image': 'x/a.jpg',
        'width': 640,
        'height': 480,
    }
    assert record['instances'] == [
        {
            'keypoints': [[1.235, 2.0], [3.0, 4.0]],
            'keypoint_scores': [0.12346, 1.0],
            'bbox': [0.0, 0.0, 10.0, 9.0],
            'bbox_score': 0.98765,
        },
        {
            'keypoints': [[5, 6], [7, 8]],
            'keypoint_scores': [0, 0.5],
            'bbox': [1, 1, 5, 5],
            'bbox_score': 0.5,
        },
    ]


def test_instances_have_the_category_of_their_label_if_requested():
    fields = {'keypoints': KEYPOINTS, 'keypoint_scores': SCORES, 'labels': np.array([4, -1])}
    with_labels = result_of(sample_of(**fields))
    found = to_record(with_labels, {4: 2**40})['instances']
    assert [instance.pop('category_id') for instance in found] == [2**40, None]
    assert found == to_record(with_labels)['instances']
    del fields['labels']
    assert found == to_record(result_of(sample_of(**fields)), {4: 1})['instances']


def test_boxes_are_omitted_if_the_model_has_none():
    record = to_record(result_of(sample_of(keypoints=KEYPOINTS, keypoint_scores=SCORES)))
    assert [sorted(instance) for instance in record['instances']] == [
        ['keypoint_scores', 'keypoints']
    ] * 2


def test_persons_that_were_not_merged_are_listed_in_order():
    one, two = (
        sample_of(keypoints=KEYPOINTS[i : i + 1], keypoint_scores=SCORES[i : i + 1]) for i in (0, 1)
    )
    record = to_record(result_of(one, two))
    assert [instance['keypoints'][0] for instance in record['instances']] == [[1.235, 2.0], [5, 6]]


def test_without_detections_instances_are_empty():
    assert to_record(result_of(empty_sample('a.jpg', (640, 480), 17)))['instances'] == []


def test_a_failure_has_a_record():
    result = ImageResult(Frame(0, 'in/a.jpg', 'a.jpg'), error='expected an image, found text')
    assert to_record(result) == {'image': 'a.jpg', 'error': 'expected an image, found text'}
