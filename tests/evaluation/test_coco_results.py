"""COCO results have the scores of MMPose's own metric."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmpose.evaluation.metrics import CocoMetric

from mmpose_batch.errors import RunError
from mmpose_batch.evaluation.coco_results import to_coco

RNG = np.random.default_rng(0)


def instance(scores: np.ndarray, box: bool = True) -> dict:
    keypoints = RNG.uniform(0, 100, (17, 2)).round(3)
    boxes = {'bbox': [10.0, 20.0, 50.5, 80.25], 'bbox_score': 0.75} if box else {}
    return {'keypoints': keypoints.tolist(), 'keypoint_scores': scores.tolist(), **boxes}


RECORD = {
    'image': 'x/a.jpg',
    'width': 100,
    'height': 100,
    'instances': [instance(RNG.uniform(0, 1, 17).round(5)), instance(np.zeros(17))],
}


def scores_by_mmpose(score_mode: str, kpt_thr: float, folder: Path) -> list[float]:
    """Scores that upstream's CocoMetric writes for the same instances."""
    annotations = folder / 'annotations.json'
    categories = [{'id': 1, 'name': 'person'}]
    annotations.write_text(
        json.dumps({'images': [{'id': 7}], 'annotations': [], 'categories': categories})
    )
    metric = CocoMetric(
        ann_file=str(annotations),
        score_mode=score_mode,
        keypoint_score_thr=kpt_thr,
        nms_mode='none',
        format_only=True,
        outfile_prefix=str(folder / 'upstream'),
    )
    metric.dataset_meta = {
        'dataset_name': 'coco',
        'classes': ['person'],
        'num_keypoints': 17,
        'sigmas': np.ones(17),
    }
    predictions = [
        {
            'id': number,
            'img_id': 7,
            'category_id': 1,
            'keypoints': np.array([found['keypoints']]),
            'keypoint_scores': np.array([found['keypoint_scores']]),
            'bbox_scores': np.array([found['bbox_score']]),
        }
        for number, found in enumerate(RECORD['instances'])
    ]
    metric.compute_metrics([(prediction, {}) for prediction in predictions])
    return [
        found['score'] for found in json.loads((folder / 'upstream.keypoints.json').read_text())
    ]


@pytest.mark.parametrize('score_mode', ['bbox', 'keypoint', 'bbox_keypoint', 'bbox_rle'])
@pytest.mark.parametrize('kpt_thr', [0.0, 0.2, 0.9])
def test_scores_are_those_of_mmposes_metric(tmp_path, score_mode, kpt_thr):
    expected = scores_by_mmpose(score_mode, kpt_thr, tmp_path)
    found = [result['score'] for result in to_coco(RECORD, 7, score_mode, kpt_thr)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_an_instance_becomes_a_coco_result():
    first, _ = to_coco(RECORD, 7, 'bbox', 0.2)
    source = RECORD['instances'][0]
    assert (first['image_id'], first['category_id'], first['score']) == (7, 1, 0.75)
    assert first['file_name'] == 'x/a.jpg'
    assert first['bbox'] == [10.0, 20.0, 40.5, 60.25]  # width and height, not the corner
    assert len(first['keypoints']) == 17 * 3
    assert first['keypoints'][3:6] == [*source['keypoints'][1], source['keypoint_scores'][1]]


def test_results_have_the_category_of_the_annotations():
    assert {r['category_id'] for r in to_coco(RECORD, 7, 'bbox', 0.2, category_id=0)} == {0}


def test_the_result_of_an_instance():
    record = {
        'image': 'a/b.jpg',
        'instances': [
            {
                'keypoints': [[1.5, 2], [3, 4]],
                'keypoint_scores': [0.5, 0.1],
                'bbox': [1, 2, 11.5, 22],
                'bbox_score': 0.8,
            }
        ],
    }
    (result,) = to_coco(record, 7, 'bbox_keypoint', 0.2)
    assert result == {
        'image_id': 7,
        'category_id': 1,
        'keypoints': [1.5, 2, 0.5, 3, 4, 0.1],
        'score': 0.4,
        'file_name': 'a/b.jpg',
        'bbox': [1, 2, 10.5, 20],
    }


def test_with_several_categories_each_instance_has_its_own():
    first, second = RECORD['instances']
    instances = [{**first, 'category_id': 7}, {**second, 'category_id': None}]
    (result,) = to_coco({**RECORD, 'instances': instances}, 7, 'bbox', 0.2, category_id=None)
    assert result['category_id'] == 7
    assert list(to_coco(RECORD, 7, 'bbox', 0.2, category_id=None)) == []


def test_body_parts_have_separate_fields():
    plain, parted = (
        list(to_coco(RECORD, 7, 'bbox', 0.2, parts=parts))
        for parts in (None, {'keypoints': 9, 'foot_kpts': 8})
    )
    for one, other in zip(plain, parted, strict=True):
        assert (len(other['keypoints']), len(other['foot_kpts'])) == (27, 24)
        assert one['keypoints'] == other['keypoints'] + other.pop('foot_kpts')
        assert one.keys() == other.keys()


def test_an_instance_without_a_box_scores_by_its_keypoints():
    scores = np.full(17, 0.5)
    (result,) = to_coco(
        {**RECORD, 'instances': [instance(scores, box=False)]}, 7, 'bbox_keypoint', 0
    )
    assert result['score'] == pytest.approx(0.5)
    assert 'bbox' not in result


@pytest.mark.parametrize('record', [{'image': 'a.jpg', 'error': 'x'}, {**RECORD, 'instances': []}])
def test_an_image_without_persons_has_no_results(record):
    assert list(to_coco(record, 7, 'bbox', 0.2)) == []


BROKEN = {
    'keypoint_scores': [0.5] * 16 + [None],
    'keypoints': [[1.0, 2.0]] * 16 + [[None, 2.0]],
    'bbox': [1.0, 2.0, None, 3.0],
    'bbox_score': None,
}


@pytest.mark.parametrize(('name', 'value'), BROKEN.items(), ids=BROKEN)
@pytest.mark.parametrize('score_mode', ['bbox', 'bbox_keypoint'])
def test_null_for_a_number_is_an_error_of_one_line(name, value, score_mode):
    """Runs of earlier versions wrote null if the network had output NaN."""
    first, second = RECORD['instances']
    record = {**RECORD, 'instances': [first, {**second, name: value}]}
    results = to_coco(record, 7, score_mode, 0.2)
    assert next(results)['image_id'] == 7
    with pytest.raises(RunError, match=f'x/a.jpg: expected numbers as {name}, found null, .*--res'):
        next(results)
