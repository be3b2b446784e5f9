"""AP and AR equal those of upstream's metrics for the same data samples."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.datasets.transforms import GetBBoxCenterScale, TopdownAffine
from mmpose.evaluation.metrics import CocoMetric, CocoWholeBodyMetric, coco_wholebody_metric
from pycocotools.coco import COCO as PycocoCOCO
from pycocotools.cocoeval import COCOeval
from support.annotated import annotations, predictions, with_gaps, without_area, written
from support.factories import real_models, run_tool, upstream_metrics

from mmpose_batch.evaluation.ap import BY_CROWDING, BY_SIZE, drop_duplicates, evaluate
from mmpose_batch.evaluation.coco_results import to_coco
from mmpose_batch.evaluation.metric import ScoringOptions
from mmpose_batch.evaluation.truth import read_truth

COCO = parse_pose_metainfo({'from_file': 'configs/_base_/datasets/coco.py'})
WHOLE_BODY = parse_pose_metainfo({'from_file': 'configs/_base_/datasets/coco_wholebody.py'})
SIGMAS = COCO['sigmas']


# ------------------------------------------------------------------------ upstream's metrics


def our_metrics(
    path: str, records: list[dict[str, Any]], scoring: ScoringOptions, category: int | None = 1
) -> dict[str, float | None]:
    sigmas = WHOLE_BODY['sigmas'] if scoring.whole_body else SIGMAS
    mode, kpt_thr = scoring.score_mode, scoring.keypoint_score_thr
    parts = scoring.parts(len(sigmas))
    results = [
        result
        for number, record in enumerate(records)
        for result in to_coco(record, number, mode, kpt_thr, category, parts)
    ]
    return evaluate(path, results, list(range(len(records))), sigmas, scoring)


def upstream_ap_of_records(
    path: str, records: list[dict[str, Any]], scoring: ScoringOptions
) -> dict[str, float | None]:
    """AP and AR by upstream's metric for the same instances, each in a separate data sample."""
    settings = asdict(scoring)
    for name in ('whole_body', 'converters', 'crop'):
        del settings[name]
    kind, meta = (CocoWholeBodyMetric, WHOLE_BODY) if scoring.whole_body else (CocoMetric, COCO)
    metric = kind(ann_file=path, **settings)
    metric.dataset_meta = dict(meta)
    instances = [
        (image, instance)
        for image, record in enumerate(records)
        for instance in record['instances']
    ]
    for number, (image, instance) in enumerate(instances):
        metric.process({}, [data_sample(number, image, instance, scoring.crop is not None)])
    values = metric.compute_metrics(metric.results)
    return {name: None if value == -1 else value for name, value in values.items()}


def data_sample(
    number: int, image: int, instance: dict[str, Any], with_crop: bool
) -> dict[str, Any]:
    bbox = np.array([instance['bbox']])
    return {
        'id': number,
        'img_id': image,
        **({'category_id': instance['category_id']} if 'category_id' in instance else {}),
        'pred_instances': {
            'keypoints': np.array([instance['keypoints']]),
            'keypoint_scores': np.array([instance['keypoint_scores']]),
            'bboxes': bbox,
            'bbox_scores': np.array([instance['bbox_score']]),
        },
        'gt_instances': {'bbox_scales': crop_scales(bbox)} if with_crop else {},
    }


def crop_scales(bbox: np.ndarray) -> np.ndarray:
    """Width and height, (1, 2), of the crop of a box by a test pipeline."""
    info = {'bbox': bbox.astype(np.float32), 'img': np.zeros((2, 2, 3), np.uint8)}
    for step in (GetBBoxCenterScale(), TopdownAffine(input_size=(192, 256))):
        info = step.transform(info)
    return info['bbox_scale']


def assert_same(ours: dict[str, float | None], theirs: dict[str, float | None]) -> None:
    assert list(ours.values()) == pytest.approx(list(theirs.values()), abs=1e-6)
    assert 0.2 < ours['AP'] < 0.9


@pytest.mark.parametrize('score_mode', ['bbox', 'keypoint', 'bbox_keypoint', 'bbox_rle'])
@pytest.mark.parametrize('nms_mode', ['none', 'oks_nms', 'soft_oks_nms'])
@pytest.mark.parametrize('crop', [None, (1.25, 0.75)], ids=['extents', 'crops'])
def test_scores_and_suppression_are_those_of_upstream(tmp_path, score_mode, nms_mode, crop):
    content = with_gaps(annotations(images=5))
    path = written(tmp_path, content)
    records = predictions(content, copies=2, jitter=0.02, missed=4)
    scoring = ScoringOptions(score_mode=score_mode, nms_mode=nms_mode, nms_thr=0.8, crop=crop)
    assert_same(our_metrics(path, records, scoring), upstream_ap_of_records(path, records, scoring))


def test_distances_are_compared_with_the_size_of_the_crops(tmp_path):
    records = predictions(annotations(), copies=2, jitter=0.05)
    results = [r for n, record in enumerate(records) for r in to_coco(record, n, 'bbox', 0.2)]
    kept = [
        len(drop_duplicates(results, SIGMAS, ScoringOptions(nms_thr=0.75, crop=crop)))
        for crop in (None, (1.25, 0.75))
    ]
    assert 12 <= kept[1] < kept[0] <= 24


SETTINGS = {
    'plain': (annotations(images=5), ScoringOptions(), BY_SIZE),
    'without area': (
        without_area(annotations(images=5)),
        ScoringOptions(use_area=False),
        BY_SIZE,
    ),
    'an area that the metric ignores': (
        annotations(images=5),
        ScoringOptions(use_area=False),
        BY_SIZE,
    ),
    'CrowdPose': (
        without_area(annotations(images=8, crowding=True)),
        ScoringOptions(use_area=False, iou_type='keypoints_crowd'),
        BY_CROWDING,
    ),
    'CrowdPose, with area': (
        annotations(images=8, crowding=True),
        ScoringOptions(iou_type='keypoints_crowd', score_mode='bbox', nms_mode='none'),
        BY_CROWDING,
    ),
    'CrowdPose, nothing hard': (
        annotations(images=2, persons=5, crowding=True)
        | {'images': [{'id': i, 'file_name': f'{i}.jpg', 'crowdIndex': 0.1} for i in range(2)]},
        ScoringOptions(iou_type='keypoints_crowd'),
        BY_CROWDING,
    ),
}


@pytest.mark.parametrize(('content', 'scoring', 'names'), SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize('gaps', [False, True], ids=['all labelled', 'gaps'])
def test_ap_is_that_of_the_metric_that_the_config_names(tmp_path, content, scoring, names, gaps):
    truth = copy.deepcopy(content)
    content = with_gaps(copy.deepcopy(content)) if gaps else content
    path = written(tmp_path, content)
    records = predictions(truth, copies=2, jitter=0.05, missed=4)
    ours = our_metrics(path, records, scoring)
    assert tuple(ours) == names
    assert_same(ours, upstream_ap_of_records(path, records, scoring))


def test_the_settings_make_a_difference(tmp_path):
    content = annotations(images=8, crowding=True)
    for entry in content['annotations']:
        entry['area'] /= 4  # like a mask smaller than its box
    path, records = written(tmp_path, content), predictions(content, copies=2, jitter=0.05)
    found = [
        our_metrics(path, records, ScoringOptions(**settings))['AP']
        for settings in ({}, {'use_area': False})
    ]
    assert found[1] > found[0] + 0.05


@pytest.mark.parametrize('use_area', [True, False])
@pytest.mark.parametrize('crop', [None, (1.25, 0.75)], ids=['extents', 'crops'])
def test_a_whole_body_is_evaluated_part_by_part(tmp_path, monkeypatch, use_area, crop):
    stats: list[Sequence[float]] = []

    class Recording(coco_wholebody_metric.COCOeval):
        def summarize(self) -> None:
            super().summarize()
            stats.append(self.stats)

    monkeypatch.setattr(coco_wholebody_metric, 'COCOeval', Recording)
    truth = annotations(images=5, whole_body=True)
    content = with_gaps(copy.deepcopy(truth))
    path = written(tmp_path, content if use_area else without_area(content))
    records = predictions(truth, copies=2, jitter=0.015, missed=4)
    scoring = ScoringOptions(whole_body=True, use_area=use_area, crop=crop, nms_thr=0.8)
    ours = our_metrics(path, records, scoring)
    theirs = upstream_ap_of_records(path, records, scoring)
    assert list(ours)[:11:10] == ['body AP', 'foot AP']
    assert list(ours)[-10:] == list(BY_SIZE)
    assert [ours[name] for name in BY_SIZE] == pytest.approx(list(theirs.values()), abs=1e-6)
    values = [None if value == -1 else value for part in stats for value in part]
    assert list(ours.values()) == pytest.approx(values, abs=1e-6)
    assert len({ours[f'{part} AP'] for part in ('body', 'foot', 'face', 'left hand')}) == 4
    assert 0.2 < ours['AP'] < 0.9


@pytest.mark.parametrize('nms_mode', ['none', 'oks_nms'])
def test_ap_of_several_categories_is_their_mean_as_upstream(tmp_path, nms_mode):
    truth = annotations(images=5, category=3, categories=['cat', 'dog', 'horse', 'cow'])
    truth['annotations'] = [e for e in truth['annotations'] if e['category_id'] != 6]
    path = written(tmp_path, with_gaps(copy.deepcopy(truth)))
    records = predictions(truth, copies=2, jitter=0.05, missed=4, own_category=True)
    records[0]['instances'][0]['category_id'] = 4  # a cat with the category of dogs
    scoring = ScoringOptions(nms_mode=nms_mode)
    ours = our_metrics(path, records, scoring, category=None)
    assert_same(ours, upstream_ap_of_records(path, records, scoring))
    as_one = our_metrics(path, records, scoring, category=3)
    assert as_one['AP'] < ours['AP'] / 2


# ---------------------------------------------------------------------------- special cases


@pytest.mark.parametrize('category', [1, 0, 7])
def test_perfect_predictions_have_ap_1_for_any_category_id(tmp_path, category):
    truth = annotations(category=category)
    records = predictions(truth, copies=1, jitter=0.0)
    metrics = our_metrics(written(tmp_path, truth), records, ScoringOptions())
    assert tuple(metrics) == BY_SIZE
    assert metrics['AP'] == pytest.approx(1.0)
    assert metrics['AR'] == pytest.approx(1.0)


def test_without_detections_ap_is_0(tmp_path):
    truth = annotations()
    records = [{'image': image['file_name'], 'instances': []} for image in truth['images']]
    assert our_metrics(written(tmp_path, truth), records, ScoringOptions())['AP'] == 0.0


def test_an_image_that_failed_counts_as_missed(tmp_path):
    truth = annotations(images=4, persons=1)
    records = predictions(truth, copies=1, jitter=0.0)
    records[2] = {'image': records[2]['image'], 'error': 'expected an image'}
    metrics = our_metrics(written(tmp_path, truth), records, ScoringOptions())
    assert metrics['AR'] == pytest.approx(0.75)


def test_images_that_were_not_run_are_ignored(tmp_path):
    truth = annotations(images=4)
    records = predictions(truth, copies=1, jitter=0.0)[:2]
    metrics = our_metrics(written(tmp_path, truth), records, ScoringOptions())
    assert metrics['AR'] == pytest.approx(1.0)


def test_persons_without_labelled_keypoints_hide_detections_as_in_upstream(tmp_path):
    content = annotations()
    for entry in content['annotations'][::3]:
        entry.update(keypoints=[0] * 51, num_keypoints=0)
    for entry in content['annotations'][1::6]:
        entry['iscrowd'] = 1
    path = written(tmp_path, content)
    records = predictions(annotations(), copies=2, jitter=0.05)
    ours = our_metrics(path, records, ScoringOptions())
    assert_same(ours, upstream_ap_of_records(path, records, ScoringOptions()))
    assert read_truth(path, 17).skipped == {'without keypoints': 4}


@pytest.mark.parametrize('category', [1, 0, 7])
def test_pycocotools_gives_the_same_ap(tmp_path, category):
    content = annotations(category=category)
    path = written(tmp_path, content)
    records = predictions(content, copies=3, jitter=0.03)
    results = [
        result
        for number, record in enumerate(records)
        for result in to_coco(record, number, 'bbox_keypoint', 0.2, category)
    ]
    results = drop_duplicates(results, SIGMAS, ScoringOptions())
    ours = evaluate(path, copy.deepcopy(results), list(range(4)), SIGMAS, ScoringOptions())
    truth = PycocoCOCO(path)
    theirs = COCOeval(truth, truth.loadRes(results), 'keypoints')
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    assert list(ours.values()) == pytest.approx(list(theirs.stats), abs=1e-6)
    assert 0.2 < ours['AP'] < 0.95


# ------------------------------------------------------------------------ the four photos


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
def test_on_real_photos_ap_equals_that_of_upstream(shared, tmp_path, kind):
    arguments = real_models(shared)[kind]
    ann_file = str(shared / 'images' / 'person_keypoints.json')
    outcome = run_tool(
        *(shared / 'images', '--out-dir', tmp_path / 'out', '--ann-file', ann_file, *arguments)
    )
    assert outcome.status == 0
    ours = json.loads((tmp_path / 'out' / 'run.json').read_text())['metrics']
    theirs = upstream_metrics(upstream_arguments(arguments), shared / 'images', ann_file)
    print(f'{kind}: AP {ours["AP"]:.4f}, upstream {theirs["AP"]:.4f}')
    assert ours == pytest.approx(theirs, abs=0.002)
    assert f'AP        {ours["AP"]:.4f}' in outcome.out
    # The checkpoints are overfitted to these photos, with poor keypoints of the first one.
    assert theirs['AP'] > {'one_stage': 0.01, 'top_down': 0.8}[kind]


def upstream_arguments(arguments: list[str]) -> dict[str, Any]:
    """Arguments of the constructor that correspond to those of the tool."""
    names = {
        '--pose2d': 'model',
        '--pose2d-weights': 'weights',
        '--det-model': 'det_model',
        '--det-weights': 'det_weights',
        '--det-cat-ids': 'det_cat_ids',
    }
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    found = {names[option]: value for option, value in given.items()}
    return {**found, 'det_cat_ids': [0]} if 'det_cat_ids' in found else found
