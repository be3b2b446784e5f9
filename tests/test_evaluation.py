"""AP and AR, which image a result belongs to, and files of boxes and annotations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.evaluation.metrics import CocoMetric
from support.factories import real_models, run_tool, stocks_metrics

from mmpose_batch.evaluation import (
    AnnotationError,
    ImageIds,
    ScoringOptions,
    assign_bboxes,
    check_annotations,
    evaluate,
    read_annotations,
    read_bboxes,
)
from mmpose_batch.writers.coco import to_coco

COCO = parse_pose_metainfo({'from_file': 'configs/_base_/datasets/coco.py'})
SIGMAS = COCO['sigmas']


def annotations(images: int = 4, persons: int = 3, category: int = 1) -> dict[str, Any]:
    """COCO annotations of persons with keypoints all over their boxes, of two sizes."""
    rng = np.random.default_rng(0)
    entries = []
    for number in range(images * persons):
        size = 50 if number % 2 else 200
        corner = rng.uniform(0, 300, 2)
        points = np.column_stack((corner + rng.uniform(0, size, (17, 2)), np.full(17, 2)))
        entries.append(
            {
                'id': number + 1,
                'image_id': number // persons,
                'category_id': category,
                'bbox': [*corner, size, size],
                'area': float(size**2),
                'iscrowd': 0,
                'num_keypoints': 17,
                'keypoints': points.ravel().tolist(),
            }
        )
    return {
        'images': [
            {'id': number, 'file_name': f'{number:012}.jpg', 'width': 640, 'height': 640}
            for number in range(images)
        ],
        'annotations': entries,
        'categories': [{'id': category, 'name': 'person', 'keypoints': [], 'skeleton': []}],
    }


def written(folder: Path, content: object) -> str:
    path = folder / 'file.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


# ------------------------------------------------------------------------------- image ids

IDS = {
    'a name': ('000000000785.jpg', None, 785),
    'in a folder': ('/data/val/000000000785.png', None, 785),
    'a name that is no number': ('photo.jpg', None, None),
    'a number to Unicode only': ('\u00b2.jpg', None, None),
    'a name of the file': ('x/b.jpg', [('b.jpg', 7)], 7),
    'another name': ('x/c.jpg', [('b.jpg', 7)], None),
    # The number in the name is not asked where there are annotations.
    'a number not in the file': ('000000000785.jpg', [('b.jpg', 7)], None),
    'the folder differs': ('images/b.jpg', [('val2017/b.jpg', 7)], None),
    'a number of more than 64 bits': ('9223372036854775808.jpg', None, None),
    'the folder decides': ('in/val/b.jpg', [('train/b.jpg', 6), ('val/b.jpg', 7)], 7),
    'the folder does not decide': ('in/b.jpg', [('train/b.jpg', 6), ('val/b.jpg', 7)], None),
    'part of a name decides nothing': ('in/b.jpg', [('n/b.jpg', 6), ('val/b.jpg', 7)], None),
    'a dot in the file': ('val/b.jpg', [('./val/b.jpg', 7), ('train/b.jpg', 6)], 7),
}


@pytest.mark.parametrize(('path', 'images', 'expected'), IDS.values(), ids=IDS)
def test_the_number_of_an_image_is_found_by_its_path(path, images, expected):
    if images is not None:
        images = [{'file_name': name, 'id': number} for name, number in images]
    assert ImageIds(images).find(path) == expected


# -------------------------------------------------------------------------------- AP and AR


def predictions(truth: dict[str, Any], copies: int, jitter: float) -> list[dict[str, Any]]:
    """Records as of a run: every person some times, moved more or less, with scores."""
    rng = np.random.default_rng(1)
    records = []
    for image in truth['images']:
        instances = []
        for entry in truth['annotations']:
            if entry['image_id'] != image['id']:
                continue
            for copy_number in range(copies):
                points = np.reshape(entry['keypoints'], (17, 3))[:, :2]
                x, y, width, height = entry['bbox']
                instances.append(
                    {
                        'keypoints': (points + rng.normal(0, jitter * width, (17, 2))).tolist(),
                        'keypoint_scores': rng.uniform(0, 1, 17).tolist(),
                        'bbox': [x, y, x + width, y + height],
                        'bbox_score': float(rng.uniform(0.3, 1)) / (copy_number + 1),
                    }
                )
        records.append({'image': image['file_name'], 'instances': instances})
    return records


def our_metrics(
    path: str, records: list[dict[str, Any]], scoring: ScoringOptions
) -> dict[str, float]:
    results = [
        result
        for number, record in enumerate(records)
        for result in to_coco(record, number, scoring.score_mode, scoring.keypoint_score_thr)
    ]
    return evaluate(path, results, list(range(len(records))), SIGMAS, scoring)


def stock_metrics(
    path: str, records: list[dict[str, Any]], scoring: ScoringOptions
) -> dict[str, float]:
    metric = CocoMetric(
        ann_file=path,
        score_mode=scoring.score_mode,
        keypoint_score_thr=scoring.keypoint_score_thr,
        nms_mode=scoring.nms_mode,
        nms_thr=scoring.nms_thr,
    )
    metric.dataset_meta = {**COCO, 'CLASSES': None}
    for number, record in enumerate(records):
        columns = {
            name: np.array([instance[name] for instance in record['instances']])
            for name in ('keypoints', 'keypoint_scores', 'bbox')
        }
        found = {
            'keypoints': columns['keypoints'],
            'keypoint_scores': columns['keypoint_scores'],
            'bboxes': columns['bbox'],
            'bbox_scores': np.array([i['bbox_score'] for i in record['instances']]),
        }
        sample = {
            'id': [number],
            'img_id': number,
            'category_id': 1,
            'pred_instances': found,
            'gt_instances': {},
        }
        metric.process({}, [sample])
    values = metric.compute_metrics(metric.results)
    return dict(zip(our_names(), values.values(), strict=True))


def our_names() -> list[str]:
    return [f'{kind}{part}' for kind in ('AP', 'AR') for part in ('', '50', '75', '(M)', '(L)')]


@pytest.mark.parametrize('score_mode', ['bbox', 'keypoint', 'bbox_keypoint', 'bbox_rle'])
@pytest.mark.parametrize('nms_mode', ['none', 'oks_nms', 'soft_oks_nms'])
def test_metrics_are_those_of_stock(tmp_path, score_mode, nms_mode):
    truth = annotations()
    path = written(tmp_path, truth)
    records = predictions(truth, copies=3, jitter=0.05)
    scoring = ScoringOptions(score_mode=score_mode, nms_mode=nms_mode, nms_thr=0.7)
    ours = our_metrics(path, records, scoring)
    assert ours == pytest.approx(stock_metrics(path, records, scoring), abs=1e-9)
    assert 0.05 < ours['AP'] < 0.95


@pytest.mark.parametrize('category', [1, 0, 7])
def test_perfect_predictions_are_worth_1_whatever_number_the_category_has(tmp_path, category):
    truth = annotations(category=category)
    records = predictions(truth, copies=1, jitter=0.0)
    metrics = our_metrics(written(tmp_path, truth), records, ScoringOptions())
    assert list(metrics) == our_names()
    assert metrics['AP'] == pytest.approx(1.0)
    assert metrics['AR'] == pytest.approx(1.0)


def test_where_nobody_is_found_ap_is_0(tmp_path):
    truth = annotations()
    records = [{'image': image['file_name'], 'instances': []} for image in truth['images']]
    assert our_metrics(written(tmp_path, truth), records, ScoringOptions())['AP'] == 0.0


def test_an_image_that_failed_counts_as_missed(tmp_path):
    truth = annotations(images=4, persons=1)
    records = predictions(truth, copies=1, jitter=0.0)
    records[2] = {'image': records[2]['image'], 'error': 'expected an image'}
    metrics = our_metrics(written(tmp_path, truth), records, ScoringOptions())
    assert metrics['AR'] == pytest.approx(0.75)


def test_images_that_were_not_run_do_not_count(tmp_path):
    truth = annotations(images=4)
    records = predictions(truth, copies=1, jitter=0.0)[:2]
    metrics = our_metrics(written(tmp_path, truth), records, ScoringOptions())
    assert metrics['AR'] == pytest.approx(1.0)


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


COCO_METRIC = {'type': 'CocoMetric', 'score_mode': 'bbox', 'nms_mode': 'none'}
EVALUATORS = {
    'none': ({}, ScoringOptions()),
    'a CocoMetric': ({'test_evaluator': COCO_METRIC}, ScoringOptions('bbox', nms_mode='none')),
    'one of several': (
        {'test_evaluator': [{'type': 'PCKAccuracy'}, COCO_METRIC]},
        ScoringOptions('bbox', nms_mode='none'),
    ),
    'another': ({'test_evaluator': {'type': 'PCKAccuracy', 'thr': 1}}, ScoringOptions()),
}


@pytest.mark.parametrize(('cfg', 'expected'), EVALUATORS.values(), ids=EVALUATORS)
def test_results_are_scored_as_the_config_says(cfg, expected):
    assert ScoringOptions.from_config(Config(cfg)) == expected


# -------------------------------------------------------------------- files of annotations


def without(kind: str, field: str) -> dict[str, Any]:
    content = annotations()
    del content[kind][1][field]
    return content


def with_entry(**entry: Any) -> dict[str, Any]:
    content = annotations()
    content['annotations'][1].update(entry)
    return content


UNREADABLE = {
    'no file': (None, 'cannot be read: No such file or directory'),
    'no json': ('{', 'expected JSON, found'),
    'no text': ('\ud83d', 'expected JSON'),
    'results': ([], 'expected COCO annotations with images, annotations, categories'),
    'no images': ({'annotations': []}, 'expected COCO annotations with images'),
    'an image without a name': (
        without('images', 'file_name'),
        r'images\[1\] has no valid file_name',
    ),
    'boxes only': (without('annotations', 'keypoints'), r'annotations\[1\] has no valid keypoints'),
    'no area': (without('annotations', 'area'), r'annotations\[1\] has no valid area'),
    'an empty box': (
        with_entry(bbox=[]),
        r'annotations\[1\]: expected a bbox of 4 numbers and keypoints of 3 numbers each',
    ),
    'a box of words': (
        with_entry(bbox=['a'] * 4),
        r'annotations\[1\]: expected a bbox of 4 numbers and keypoints of 3 numbers each',
    ),
    'keypoints of words': (
        with_entry(keypoints=['x'] * 51),
        r'annotations\[1\]: expected a bbox of 4 numbers and keypoints of 3 numbers each',
    ),
    'half a keypoint': (
        with_entry(keypoints=[1] * 50),
        r'annotations\[1\]: expected a bbox of 4 numbers and keypoints of 3 numbers each',
    ),
}


@pytest.mark.parametrize(('content', 'message'), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_of_another_form_is_an_error(tmp_path, content, message):
    path = tmp_path / 'file.json'
    if isinstance(content, str):
        path.write_bytes(content.encode('utf-16', 'surrogatepass'))
    elif content is not None:
        path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=message) as raised:
        read_annotations(str(path))
    assert str(path) in str(raised.value)


def several_categories() -> dict[str, Any]:
    content = annotations()
    content['annotations'][0]['category_id'] = 2
    return content


UNFIT = {
    'keypoints': (annotations(), ['0.jpg'], 133, r'expected 133 keypoints .*, found \[17\]'),
    'no persons': (annotations(persons=0), ['000000000000.jpg'], 17, r'found \[\]'),
    'categories': (several_categories(), ['000000000000.jpg'], 17, r'one category, found \[1, 2\]'),
    'images': (annotations(), ['other.jpg'], 17, 'none of the images is in them'),
    'one image twice': (
        annotations(),
        ['a/000000000001.jpg', 'b/000000000001.jpg'],
        17,
        'one input for image 1 of the file, found a/000000000001.jpg and b/000000000001.jpg',
    ),
}


@pytest.mark.parametrize(('content', 'paths', 'keypoints', 'message'), UNFIT.values(), ids=UNFIT)
def test_annotations_that_cannot_judge_a_run_are_an_error(content, paths, keypoints, message):
    with pytest.raises(AnnotationError, match=message):
        check_annotations(content, paths, ImageIds(content['images']), keypoints)


def test_annotations_that_fit_are_none():
    content = annotations()
    paths = ['000000000001.jpg', 'x/000000000002.jpg', 'other.jpg']
    check_annotations(content, paths, ImageIds(content['images']), 17)


# --------------------------------------------------------------------------- files of boxes

BOX = {'image_id': 1, 'category_id': 1, 'bbox': [10, 20, 30, 40], 'score': 0.5}


def but(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**BOX, **changes}.items() if value is not None}


BOXES = {
    'a box': ([BOX], {1: [[10, 20, 40, 60, 0.5]]}),
    'by name': ([but(image_id=None, file_name='./a/b.jpg')], {'a/b.jpg': [[10, 20, 40, 60, 0.5]]}),
    'without a score': ([but(score=None)], {1: [[10, 20, 40, 60, 1]]}),
    'without a category': ([but(category_id=None)], {1: [[10, 20, 40, 60, 0.5]]}),
    'of a low score': ([but(score=0.3)], {1: []}),
    'of another category': ([but(category_id=3)], {1: []}),
    'several': (
        [BOX, but(image_id=2), but(score=0.4)],
        {1: [[10, 20, 40, 60, 0.5], [10, 20, 40, 60, 0.4]], 2: [[10, 20, 40, 60, 0.5]]},
    ),
    'none': ([], {}),
}


@pytest.mark.parametrize(('content', 'expected'), BOXES.values(), ids=BOXES)
def test_boxes_are_read(tmp_path, content, expected):
    found = read_bboxes(written(tmp_path, content), bbox_thr=0.3)
    assert found.keys() == expected.keys()
    for key, boxes in expected.items():
        assert found[key].dtype == np.float32
        np.testing.assert_allclose(found[key], np.reshape(boxes, (-1, 5)))


WRONG_BOXES = {
    'annotations': ({'annotations': [BOX]}, 'expected a list of detections'),
    'no json': ('[', 'expected JSON'),
    'no image': ([BOX, but(image_id=None)], 'in entry 1, found'),
    'an image that is a list': ([but(image_id=[1])], 'in entry 0, found'),
    'no box': ([but(bbox=None)], 'in entry 0, found'),
    'three numbers': ([but(bbox=[1, 2, 3])], r'bbox \(x, y, width, height\)'),
    'words': ([but(bbox=['a', 'b', 'c', 'd'])], 'in entry 0, found'),
    'a score that is a word': ([but(score='high')], 'in entry 0, found'),
    'no entries': ([1, 2], 'in entry 0, found 1'),
    'lists': ([[1, 2, 3, 4]], 'in entry 0, found'),
}


@pytest.mark.parametrize(('content', 'message'), WRONG_BOXES.values(), ids=WRONG_BOXES)
def test_boxes_of_another_form_are_an_error(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(AnnotationError, match=message) as raised:
        read_bboxes(path, bbox_thr=0.3)
    assert str(raised.value).startswith(path)


def test_boxes_go_to_their_images():
    one, two = np.full((1, 5), 1, np.float32), np.full((2, 5), 2, np.float32)
    paths = ['in/000000000001.jpg', 'in/x/b.jpg', 'in/c.jpg', 'in/d.jpg']
    assigned = assign_bboxes(paths, {1: one, 'x/b.jpg': two, 'elsewhere/d.jpg': one}, ImageIds())
    assert [len(boxes) for boxes in assigned] == [1, 2, 0, 0]
    assert assigned[0] is one


def test_boxes_go_by_the_numbers_of_the_annotations():
    boxes = np.full((1, 5), 1, np.float32)
    image_ids = ImageIds([{'file_name': 'c.jpg', 'id': 9}])
    (assigned,) = assign_bboxes(['in/c.jpg'], {9: boxes}, image_ids)
    assert assigned is boxes


def test_boxes_of_other_images_are_an_error():
    with pytest.raises(AnnotationError, match='names none of the images'):
        assign_bboxes(['in/c.jpg'], {9: np.zeros((1, 5), np.float32)}, ImageIds())


@pytest.mark.parametrize('key', [1, '000000000001.jpg'])
def test_boxes_that_two_images_could_own_are_an_error(key):
    paths = ['a/000000000001.jpg', 'b/000000000001.jpg']
    with pytest.raises(AnnotationError, match=f'one input for image {key} of the file, found a/'):
        assign_bboxes(paths, {key: np.zeros((1, 5), np.float32)}, ImageIds())


# ------------------------------------------------------------------- the four photos, for real


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
def test_on_real_photos_ap_is_that_of_stock(shared, tmp_path, kind):
    arguments = real_models(shared)[kind]
    ann_file = str(shared / 'images' / 'person_keypoints.json')
    outcome = run_tool(
        *(shared / 'images', '--out-dir', tmp_path / 'out', '--ann-file', ann_file, *arguments)
    )
    assert outcome.status == 0
    ours = json.loads((tmp_path / 'out' / 'run.json').read_text())['metrics']
    theirs = stocks_metrics(stock_arguments(arguments), shared / 'images', ann_file)
    print(f'{kind}: AP {ours["AP"]:.4f}, of stock {theirs["AP"]:.4f}')
    assert ours == pytest.approx(theirs, abs=0.002)
    assert f'AP        {ours["AP"]:.4f}' in outcome.out
    # The checkpoints are fitted to these photos, the keypoints of the first one poorly.
    assert theirs['AP'] > {'one_stage': 0.01, 'top_down': 0.8}[kind]


def stock_arguments(arguments: list[str]) -> dict[str, Any]:
    """The constructor's arguments for the tool's."""
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
