"""AP and AR, what can be judged, and how many of the images are."""

import copy
import json
import re
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.evaluation.metrics import CocoMetric
from pycocotools.coco import COCO as PycocoCOCO
from pycocotools.cocoeval import COCOeval
from support.annotated import annotations, predictions, written
from support.factories import real_models, run_tool, stocks_metrics

from mmpose_batch.annotations import SCHEMA, AnnotationError, ImageIds, read_annotations
from mmpose_batch.evaluation import (
    METRICS,
    Coverage,
    Evaluation,
    ScoringOptions,
    check_annotations,
    check_images,
    check_sigmas,
    drop_duplicates,
    evaluate,
    not_judged,
    read_truth,
)
from mmpose_batch.writers.coco import to_coco

COCO = parse_pose_metainfo({'from_file': 'configs/_base_/datasets/coco.py'})
SIGMAS = COCO['sigmas']


# -------------------------------------------------------------------------------- AP and AR


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


# ------------------------------------------------------------------ a file that is not sound

NAN, INF = float('nan'), float('inf')
MUTATIONS = {
    'missing': None,
    'null': None,
    'list': [],
    'object': {},
    'text': 'x',
    'number as text': '1',
    'bool': False,
    'nan': NAN,
    'inf': INF,
    'huge': 10**30,
    'huge float': 1e300,
    '65 bits': 2**63,
}
FIELDS = [(kind, field.name) for kind, fields in SCHEMA.items() for field in fields]
IMAGES = [f'{number:012}.jpg' for number in range(4)]


def mutated(kind: str, field: str, mutation: str) -> dict[str, Any]:
    """Annotations, of which one field of the last entry is replaced."""
    content = annotations()
    entry = content[kind][-1]
    if mutation == 'missing':
        del entry[field]
    elif mutation == 'duplicate':
        entry[field] = content[kind][0][field]
    elif isinstance(entry[field], list) and mutation not in ('null', 'list', 'object'):
        entry[field][-1] = MUTATIONS[mutation]
    else:
        entry[field] = MUTATIONS[mutation]
    return content


def judge(path: str) -> Evaluation:
    """The evaluation of fixed predictions, as a run does it."""
    ids = ImageIds(read_annotations(path)['images'])
    check_images(IMAGES, ids)
    truth = read_truth(path, 17)
    numbers = [ids.find(image) for image in IMAGES]
    records = predictions(annotations(), copies=2, jitter=0.05)
    results = [
        result
        for number, record in zip(numbers, records, strict=True)
        if number is not None
        for result in to_coco(record, number, 'bbox_keypoint', 0.2)
    ]
    known = [number for number in numbers if number is not None]
    metrics = evaluate(truth, results, known, SIGMAS, ScoringOptions())
    coverage = Coverage.of(IMAGES, numbers, ids.names)
    return Evaluation(
        coverage, truth.category, truth.skipped, not_judged(truth, known), metrics=metrics
    )


@pytest.fixture(scope='module')
def sound(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return judge(written(tmp_path_factory.mktemp('sound'), annotations()))


@pytest.mark.parametrize('mutation', MUTATIONS)
@pytest.mark.parametrize(('kind', 'field'), FIELDS, ids=map('.'.join, FIELDS))
def test_a_mutated_field_is_one_line_or_does_not_change_ap(tmp_path, sound, kind, field, mutation):
    path = written(tmp_path, mutated(kind, field, mutation))
    try:
        found = judge(path)
    except AnnotationError as error:
        line = rf'{re.escape(path)}: (images|annotations|categories)\[\d+\]: \w+: expected [^\n]+'
        assert re.fullmatch(line, str(error))
        assert field in str(error) or (kind, field) in (('images', 'id'), ('categories', 'id'))
        return
    if field == 'keypoints':
        assert mutation in ('missing', 'list')
        assert found.skipped == {'without keypoints': 1}
        assert 'skipped   annotations: 1 without keypoints' in found.lines()
    elif field == 'file_name':
        assert mutation in ('text', 'number as text')  # a name like others
        assert (found.coverage.judged, sound.coverage.judged) == (3, 4)
        assert IMAGES[-1] in found.coverage.warning()
    else:
        assert found == sound
        assert 0.2 < found.metrics['AP'] < 0.9


UNIQUE = [('images', 'id'), ('images', 'file_name'), ('annotations', 'id')]


@pytest.mark.parametrize(('kind', 'field'), UNIQUE, ids=map('.'.join, UNIQUE))
def test_a_duplicate_is_one_line(tmp_path, kind, field):
    path = written(tmp_path, mutated(kind, field, 'duplicate'))
    last, value = len(annotations()[kind]) - 1, annotations()[kind][0][field]
    with pytest.raises(AnnotationError) as raised:
        read_annotations(path)
    assert str(raised.value) == (
        f'{path}: {kind}[{last}]: {field}: expected a unique value, found {value!r} as in {kind}[0]'
    )


def test_a_category_twice_is_one_line(tmp_path):
    content = annotations()
    content['categories'] *= 2
    with pytest.raises(AnnotationError, match=r'categories\[1\]: id: expected a unique value'):
        read_annotations(written(tmp_path, content))


@pytest.mark.parametrize('first', [0, -1, -5])
def test_annotation_ids_from_0_or_below_do_not_change_ap(tmp_path, sound, first):
    content = annotations()
    for number, entry in enumerate(content['annotations'], first):
        entry['id'] = number
    assert judge(written(tmp_path, content)) == sound


# ------------------------------------------------------------------------ what can be judged


def changed(change: str) -> dict[str, Any]:
    content = annotations()
    if change == 'no categories':
        content['categories'] = []
    elif change == 'no annotations':
        content['annotations'] = []
    for entry in content['annotations']:
        if change == 'all crowd':
            entry['iscrowd'] = 1
        elif change == 'all unlabelled':
            entry.update(keypoints=[0] * 51, num_keypoints=0)
        elif change == 'all empty':
            entry.update(keypoints=[], num_keypoints=0)
        elif change == 'no keypoints':
            del entry['keypoints'], entry['area']
    if change == 'others':
        content['images'].append({'id': 9, 'file_name': 'other.jpg'})
        for entry in content['annotations']:
            entry['image_id'] = 9
    return content


REASONS = {
    'no categories': 'the file has no categories',
    'no annotations': 'the file has no annotations',
    'no keypoints': 'no annotation has keypoints',
    'all empty': 'no annotation has keypoints',
    'all crowd': 'all 12 persons with labelled keypoints are crowds',
    'all unlabelled': 'no keypoint of the 12 persons is labelled',
    'others': 'no person with keypoints is annotated in the 4 images judged',
}


@pytest.mark.parametrize(('change', 'reason'), REASONS.items(), ids=REASONS)
def test_what_cannot_be_judged_is_reported_with_the_reason(tmp_path, change, reason):
    found = judge(written(tmp_path, changed(change)))
    assert found.metrics == dict.fromkeys(METRICS)
    assert found.to_json()['not_judged'] == reason
    assert list(found.lines())[-1] == f'AP        not judged: {reason}'


def test_a_size_that_no_person_has_is_reported_as_such(tmp_path):
    content = annotations()
    for entry in content['annotations']:
        entry['area'] = 200.0**2
    found = judge(written(tmp_path, content))
    assert found.metrics['AP(M)'] is None
    assert f'AP        {found.metrics["AP"]:.4f}' in found.lines()
    assert 'AP(M)     not judged: no person of this size' in found.lines()


def with_others() -> dict[str, Any]:
    """Annotations, and among them those that upstream's dataset skips."""
    content = annotations()
    content['categories'].append({'id': 2, 'name': 'dog'})
    template = content['annotations'][0]
    boxes = ('id', 'image_id', 'category_id', 'bbox')
    for number, more in enumerate(
        [
            {'category_id': 2},
            {'category_id': 2, 'keypoints': [1, 2, 2] * 17, 'area': 9.0},
            {'keypoints': [], 'num_keypoints': 0},
        ]
    ):
        box = {key: template[key] for key in boxes}
        content['annotations'].append({**box, 'id': 100 + number, **more})
    return content


def test_annotations_of_no_use_are_skipped_and_counted(tmp_path, sound):
    found = judge(written(tmp_path, with_others()))
    assert found.metrics == sound.metrics
    assert found.category == 1
    assert found.skipped == {'without keypoints': 2, 'of another category': 1}
    line = 'skipped   annotations: 2 without keypoints, 1 of another category'
    assert line in found.lines()


def test_persons_without_labelled_keypoints_hide_detections_as_in_stock(tmp_path):
    content = annotations()
    for entry in content['annotations'][::3]:
        entry.update(keypoints=[0] * 51, num_keypoints=0)
    for entry in content['annotations'][1::6]:
        entry['iscrowd'] = 1
    path = written(tmp_path, content)
    records = predictions(annotations(), copies=2, jitter=0.05)
    ours = our_metrics(path, records, ScoringOptions())
    assert ours == pytest.approx(stock_metrics(path, records, ScoringOptions()), abs=1e-9)
    assert 0.2 < ours['AP'] < 0.9
    assert read_truth(path, 17).skipped == {'without keypoints': 4}


def renamed(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {**content, 'categories': [{**c, 'name': name} for c in content['categories']]}


def other_counts() -> dict[str, Any]:
    content = annotations()
    content['annotations'][5]['keypoints'] = [1, 2, 2] * 21
    return content


UNFIT = {
    'keypoints': (annotations(), 133, r'expected 133 keypoints .*, found \[17\]'),
    'of one person': (
        other_counts(),
        17,
        r'x\.json: annotations\[5\]: keypoints: expected 17 .* found 21',
    ),
    'categories': (renamed(with_others(), 'animal'), 17, r'one category .*, found \[1, 2\]'),
}


@pytest.mark.parametrize(('content', 'keypoints', 'message'), UNFIT.values(), ids=UNFIT)
def test_annotations_that_cannot_judge_a_model_are_an_error(content, keypoints, message):
    with pytest.raises(AnnotationError, match=message):
        check_annotations(content, keypoints, 'x.json')


UNFIT_IMAGES = {
    'others': (['other.jpg'], 'none of the images is in them'),
    'one twice': (
        ['a/000000000001.jpg', 'b/000000000001.jpg'],
        'one input for image 1 of the file, found a/000000000001.jpg and b/000000000001.jpg',
    ),
}


@pytest.mark.parametrize(('paths', 'message'), UNFIT_IMAGES.values(), ids=UNFIT_IMAGES)
def test_images_that_cannot_be_judged_are_an_error(paths, message):
    with pytest.raises(AnnotationError, match=message):
        check_images(paths, ImageIds(annotations()['images']))


def test_a_model_without_sigmas_cannot_be_judged():
    check_sigmas(SIGMAS, 17)
    with pytest.raises(AnnotationError, match=r'AP needs 17 sigmas .* found 0'):
        check_sigmas([], 17)


def test_annotations_that_fit_are_none():
    content = annotations()
    check_images(
        ['000000000001.jpg', 'x/000000000002.jpg', 'other.jpg'], ImageIds(content['images'])
    )
    truth = check_annotations(content, 17)
    assert (truth.category, len(truth.annotations), truth.skipped) == (1, 12, {})


# -------------------------------------------------------------------------- images and entries

COVERAGE = {
    'all': ([1, 2], Coverage(2, 2, 2), None),
    'more entries': ([1], Coverage(1, 1, 2, None, 'y/2.jpg'), None),
    'another image': (
        [1, None],
        Coverage(2, 1, 2, 'in/1.jpg', 'y/2.jpg'),
        '1 of 2 images have no entry in the annotation file and are not judged, such as '
        "'in/1.jpg'; an entry without an input: 'y/2.jpg'",
    ),
}


@pytest.mark.parametrize(('ids', 'expected', 'warning'), COVERAGE.values(), ids=COVERAGE)
def test_images_that_are_not_judged_are_reported(ids, expected, warning):
    paths = [f'in/{number}.jpg' for number in range(len(ids))]
    coverage = Coverage.of(paths, ids, {1: 'x/1.jpg', 2: 'y/2.jpg'})
    assert coverage == expected
    assert coverage.warning() == warning


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
