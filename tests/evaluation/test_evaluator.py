"""Evaluation of a run by the metric of its config: notes at the start, results at the end."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.evaluation.metrics import CocoMetric
from support.annotated import annotations, predictions, without_area, written
from support.factories import Models, read_lines, run_tool

from mmpose_batch.config import VideoOptions
from mmpose_batch.errors import AnnotationError
from mmpose_batch.evaluation.annotations import ImageIds
from mmpose_batch.evaluation.ap import BY_CROWDING, BY_SIZE, evaluate
from mmpose_batch.evaluation.categories import Categories
from mmpose_batch.evaluation.evaluator import Annotations, Evaluator, coco_ids, lost_frames
from mmpose_batch.evaluation.metric import ScoringOptions
from mmpose_batch.evaluation.result import Coverage, Evaluation
from mmpose_batch.models.keypoints import Keypoints

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')

META = {
    17: parse_pose_metainfo({'from_file': 'configs/_base_/datasets/coco.py'}),
    133: parse_pose_metainfo({'from_file': 'configs/_base_/datasets/coco_wholebody.py'}),
}
CROWD = {'type': 'CocoMetric', 'use_area': False, 'iou_type': 'keypoints_crowd'}
INPUTS = [f'in/{number:012}.jpg' for number in range(4)]
IDS = list(range(4))


def model(evaluator: Any = None, keypoints: int = 17) -> tuple[Config, Keypoints]:
    """What an evaluation reads of a model: its config, and its keypoints."""
    meta = {'num_keypoints': keypoints, 'sigmas': META[keypoints]['sigmas']}
    return Config({'test_evaluator': evaluator}), Keypoints(meta)


def evaluated(
    folder: Path,
    content: dict[str, Any],
    records: list[dict[str, Any]],
    evaluator: Any = None,
    keypoints: int = 17,
    categories: Categories | None = None,
) -> tuple[Evaluation, list[Any]]:
    """The evaluation of a run with these records, and its COCO results."""
    lines = folder / 'predictions.jsonl'
    lines.write_text(''.join(json.dumps(record) + '\n' for record in records))
    scorer = Evaluator(*model(evaluator, keypoints), written(folder, content), categories)
    evaluation = Evaluation(Coverage(len(records), len(records), len(records)), scorer.scoring)
    return evaluation, scorer.evaluate(str(lines), IDS[: len(records)], evaluation)


# -------------------------------------------------------------------------------- the start


def notes(
    content: dict[str, Any], folder: Path, evaluator: Any = None, **options: Any
) -> list[str]:
    found = Annotations(written(folder, content), model(evaluator)[0], INPUTS)
    truth = found.select(model(evaluator, **options)[1])
    return list(found.notes(truth, Categories.of(truth.categories, None, boxes=False)))


def test_notes_report_what_is_evaluated(tmp_path):
    assert notes(annotations(), tmp_path) == ['annotations: 4 of 4 images are evaluated']
    assert notes(annotations(images=3), tmp_path, [{'type': 'PCKAccuracy'}, {'type': 'AUC'}]) == [
        'annotations: 3 of 4 images are evaluated',
        'annotations: AP is computed by CocoMetric with its defaults, because the config uses '
        'PCKAccuracy, AUC',
        'warning: 1 of 4 images have no entry in the annotation file and are not evaluated, such '
        "as 'in/000000000003.jpg'",
    ]


def test_the_start_warns_if_instances_have_no_category(tmp_path):
    content = annotations(categories=['cat', 'dog'])
    assert notes(content, tmp_path)[-1] == (
        'warning: there will be no AP: 2 categories are annotated, and neither a detector nor a '
        'box file gives the category of an instance'
    )


UNFIT = {
    'no area': (without_area(annotations()), None, 17, r'\[0\]: area: expected square'),
    'no crowding': (annotations(), CROWD, 17, r'images\[0\]: crowdIndex: expected a finite'),
    'no hands': (annotations(), {'type': 'CocoWholeBodyMetric'}, 133, 'foot_kpts: expected 3'),
    'a converter': (
        annotations(),
        {'type': 'CocoMetric', 'pred_converter': {'num_keypoints': 2, 'mapping': []}},
        17,
        'AP needs a metric without pred_converter',
    ),
}


def test_annotated_frames_of_lost_videos_are_evaluated():
    images = [{'id': n, 'file_name': name, 'frame': n % 10} for n, name in enumerate(LOST)]
    ids = ImageIds(images)
    records = [
        {'video': 'a.mp4', 'error': 'no video'},
        *({'video': 'b.mp4', 'frame': n, 'instances': []} for n in range(4)),
        {'video': 'b.mp4', 'frame': 4, 'error': 'truncated'},
        *({'video': 'c.mp4', 'frame': n, 'instances': []} for n in range(10)),
    ]
    paths = {name: f'in/{name}' for name in LOST}
    expected = [*range(10), *range(15, 20)]
    assert lost_frames(records, paths, ids, VideoOptions()) == expected
    even = [0, 2, 4, 6, 8, 16, 18]
    assert lost_frames(records, paths, ids, VideoOptions(vid_stride=2)) == even
    assert lost_frames(records, paths, ids, VideoOptions(start=1)) == []


LOST = [name for name in ('a.mp4', 'b.mp4', 'c.mp4') for _ in range(10)]


@pytest.mark.parametrize(
    ('content', 'evaluator', 'keypoints', 'message'), UNFIT.values(), ids=UNFIT
)
def test_fields_that_the_metric_needs_are_checked_without_a_model(
    tmp_path, content, evaluator, keypoints, message
):
    cfg = model(evaluator, keypoints)[0]
    with pytest.raises(AnnotationError, match=message):
        Annotations(written(tmp_path, content), cfg, INPUTS)


def test_annotations_of_other_images_are_an_error_with_an_example(tmp_path):
    path = written(tmp_path, annotations())
    with pytest.raises(AnnotationError) as raised:
        Annotations(path, model()[0], ['in/other.jpg'])
    assert str(raised.value) == (
        f'{path}: no annotation entry matches an input, by file_name; an entry: file_name '
        "'000000000000.jpg'; an input: 'in/other.jpg'"
    )


def test_images_of_the_same_name_in_two_folders_are_evaluated(tmp_path):
    content = annotations(images=2)
    for image, name in zip(content['images'], ('a.jpg', 'sub/a.jpg'), strict=True):
        image['file_name'] = name
    inputs = ['in/a.jpg', 'in/sub/a.jpg']
    found = Annotations(written(tmp_path, content), model()[0], inputs)
    assert ids_of(inputs, found.image_ids, annotated=True) == [0, 1]
    assert found.coverage_note() == 'annotations: 2 of 2 images are evaluated'


def test_fields_that_the_metric_does_not_read_may_be_missing(tmp_path):
    content = without_area(annotations(crowding=True))
    assert notes(content, tmp_path, CROWD) == ['annotations: 4 of 4 images are evaluated']


def ids_of(paths, image_ids, annotated):
    records = [{'image': path} for path in paths]
    return coco_ids(records, dict(zip(paths, paths, strict=True)), image_ids, annotated)


COCO_IDS = {
    'numbers': (['a/7.jpg', '9.jpg'], False, [7, 9]),
    'names': (['a/x.jpg', '9.jpg'], False, [0, 1]),
    'one number twice': (['a/7.jpg', 'b/7.jpg'], False, [0, 1]),
    'annotated': (['a/x.jpg', '9.jpg'], True, [None, 9]),
}


@pytest.mark.parametrize(('paths', 'annotated', 'expected'), COCO_IDS.values(), ids=COCO_IDS)
def test_every_image_has_a_coco_id(paths, annotated, expected):
    assert ids_of(paths, ImageIds(), annotated) == expected


def test_frames_of_a_video_have_the_ids_of_their_numbers(tmp_path):
    content = annotations(images=3)
    for image, frame in zip(content['images'], (0, 2, None), strict=True):
        image |= {'file_name': 'a.mp4', 'frame': frame} if frame is not None else {}
    name = content['images'][2]['file_name']
    found = Annotations(written(tmp_path, content), model()[0], ['in/a.mp4', f'in/{name}'])
    records = [{'image': name}, *({'video': 'a.mp4', 'frame': n} for n in range(3))]
    records.append({'video': 'a.mp4', 'error': 'truncated'})
    paths = {name: f'in/{name}', 'a.mp4': 'in/a.mp4'}
    assert coco_ids(records, paths, found.image_ids, True) == [2, 0, None, 1, None]
    assert coco_ids(records, paths, ImageIds(), False) == [0, 1, 2, 3, 4]
    assert found.coverage_note() == 'annotations: 2 of 2 inputs are evaluated'


# ---------------------------------------------------------------------------------- the end


def test_ap_by_crowding_is_computed_and_stored(tmp_path):
    content = without_area(annotations(crowding=True))
    records = predictions(content, copies=2, jitter=0.03, missed=5)
    found, _ = evaluated(tmp_path, content, records, CROWD)
    assert tuple(found.metrics) == BY_CROWDING
    assert 0.2 < found.metrics['AP'] < 0.9
    assert f'AP(E)     {found.metrics["AP(E)"]:.4f}' in found.lines()
    stored = found.to_json()['metric']
    assert (stored['use_area'], stored['iou_type']) == (False, 'keypoints_crowd')
    for image in content['images']:
        image['crowdIndex'] = 0
    found, _ = evaluated(tmp_path, content, records, CROWD)
    assert 'AP(H)     none: no image is that crowded' in found.lines()


def test_whole_body_metrics_are_reported_for_each_part(tmp_path):
    content = annotations(whole_body=True)
    records = predictions(content, copies=1, jitter=0.015, missed=5)
    for entry in content['annotations']:
        entry['foot_kpts'] = [0] * 18
    found, results = evaluated(tmp_path, content, records, {'type': 'CocoWholeBodyMetric'}, 133)
    lines = list(found.lines())
    assert len(found.metrics) == 60 and tuple(found.metrics)[-10:] == BY_SIZE
    assert f'whole body AP    {found.metrics["AP"]:.4f}' in lines
    assert f'left hand AR(L)  {found.metrics["left hand AR(L)"]:.4f}' in lines
    assert 'foot AP          none: no keypoint of this part is labelled' in lines
    assert results[0].keys() == {
        *('image_id', 'category_id', 'score', 'file_name', 'keypoints'),
        *('foot_kpts', 'face_kpts', 'lefthand_kpts', 'righthand_kpts'),
    }


def test_without_annotations_results_have_the_same_fields(tmp_path):
    lines = tmp_path / 'predictions.jsonl'
    records = predictions(annotations(whole_body=True), copies=1, jitter=0)
    lines.write_text(''.join(json.dumps(record) + '\n' for record in records))
    whole = {'type': 'CocoWholeBodyMetric'}
    result, *_ = Evaluator(*model(whole, 133)).results(str(lines), IDS)
    assert len(result['face_kpts']) == 68 * 3 and 'bbox' not in result
    result, *_ = Evaluator(*model(None, 133)).results(str(lines), IDS)
    assert len(result['keypoints']) == 133 * 3 and 'bbox' in result


def test_several_categories_are_evaluated_and_the_others_counted(tmp_path):
    content = annotations(category=3, categories=['cat', 'dog'])
    records = predictions(content, copies=2, jitter=0.04, missed=4, own_category=True)
    records[1]['instances'][0]['category_id'] = None
    found, results = evaluated(tmp_path, content, records, categories=Categories({0: 3, 1: 4}))
    assert 0.2 < found.metrics['AP'] < 0.9
    assert {result['category_id'] for result in results} == {3, 4}
    assert (
        'excluded  1 persons only in predictions.jsonl: without an evaluated category'
        in found.lines()
    )
    stored = found.to_json()
    assert (stored['category_id'], stored['category_ids']) == (None, [3, 4])
    assert stored['persons_without_category'] == 1


NOTHING_TELLS = {
    'the reason is known': (Categories(reason='no detector'), 'no detector'),
    'it is not': (None, '2 categories are evaluated, and instances have none'),
}


@pytest.mark.parametrize(('categories', 'reason'), NOTHING_TELLS.values(), ids=NOTHING_TELLS)
def test_without_categories_of_instances_there_is_no_ap(tmp_path, categories, reason):
    content = annotations(categories=['cat', 'dog'])
    records = predictions(content, copies=1, jitter=0.01)
    found, results = evaluated(tmp_path, content, records, categories=categories)
    assert found.metrics == dict.fromkeys(BY_SIZE)
    assert found.to_json()['not_judged'] == reason
    assert (results, found.uncategorised) == ([], 12)


# ----------------------------------------------------------------------------- by the tool


BOXES = (([0, 0, 70, 90], 5), ([50, 20, 60, 70], 6), ([20, 10, 80, 80], 6))


def box_file(photos: Path, folder: Path, boxes: Sequence[tuple[list[float], int]]) -> Path:
    """Write a file with the same boxes (x, y, width, height) and categories for every photo."""
    path = folder / 'boxes.json'
    path.write_text(
        json.dumps(
            [
                {'file_name': photo.name, 'bbox': box, 'category_id': category, 'score': 0.9}
                for photo in sorted(photos.iterdir())
                for box, category in boxes
            ]
        )
    )
    return path


def annotated(photos: Path, models: Models, folder: Path, **of_images: Any) -> dict[str, Any]:
    """Annotations close to the poses in the boxes of the photos, without ``area``."""
    boxes = box_file(photos, folder, [(box, 1) for box, _ in BOXES])
    run_tool(photos, '--out-dir', folder / 'own', *models.crops, '--bboxes', boxes)
    rng = np.random.default_rng(0)
    content = {'images': [], 'categories': [], 'annotations': []}
    for image, record in enumerate(read_lines(folder / 'own' / 'predictions.jsonl')):
        content['images'].append({'id': image, 'file_name': record['image'], **of_images})
        for (box, category), found in zip(BOXES, record['instances'], strict=True):
            points = np.array(found['keypoints']) + rng.normal(0, 2, (17, 2))
            content['annotations'].append(
                {
                    'id': len(content['annotations']) + 1,
                    'image_id': image,
                    'category_id': category,
                    'bbox': box,
                    'keypoints': np.column_stack((points, np.full(17, 2))).ravel().tolist(),
                    'num_keypoints': 17,
                }
            )
    content['categories'] = [{'id': 5, 'name': 'cat'}, {'id': 6, 'name': 'dog'}]
    return content


def test_the_tool_evaluates_categories_of_a_box_file(models, two_photos, tmp_path):
    ann_file = written(tmp_path, annotated(two_photos, models, tmp_path))
    boxes = box_file(two_photos, tmp_path, [*BOXES[:2], ([1, 1, 9, 9], 7)])
    arguments = [two_photos, '--out-dir', tmp_path / 'out', *models.crops, '--bboxes', boxes]
    arguments += ['--ann-file', ann_file, '--format', 'coco']
    outcome = run_tool(*arguments, '--cfg-options', 'test_evaluator.use_area=False')
    assert outcome.status == 0, outcome.err
    lines = outcome.err.splitlines()
    assert 'categories: 2, labelled by the box file' in lines
    assert any('left out: 2 not of category_id 5, 6;' in line for line in lines)
    records = read_lines(tmp_path / 'out' / 'predictions.jsonl')
    assert [[i['category_id'] for i in record['instances']] for record in records] == [[5, 6]] * 2
    results = json.loads((tmp_path / 'out' / 'predictions.coco.json').read_text())
    scoring = ScoringOptions(use_area=False, nms_mode='none')
    expected = evaluate(ann_file, results, [0, 1], META[17]['sigmas'], scoring)
    stored = json.loads((tmp_path / 'out' / 'run.json').read_text())
    assert stored['metrics'] == expected
    assert 0.2 < expected['AP'] < 0.9
    assert stored['evaluation']['category_ids'] == [5, 6]


METRICS = {
    'plain, by crops': {'use_area': False, 'nms_thr': 0.8},
    'CrowdPose': {'use_area': False, 'iou_type': 'keypoints_crowd', 'nms_mode': 'none'},
}


@pytest.mark.parametrize('settings', METRICS.values(), ids=METRICS)
def test_the_tool_evaluates_like_upstreams_metric_on_data_samples(
    models, top_down, two_photos, tmp_path, settings
):
    content = annotated(two_photos, models, tmp_path, crowdIndex=0.5)
    for entry in content['annotations']:
        entry['category_id'] = 1
    content['categories'] = [{'id': 1, 'name': 'person'}]
    ann_file = written(tmp_path, content)
    boxes = [(box, 1) for box, _ in BOXES[:2]] * 2  # two of three persons, twice
    arguments = [two_photos, '--out-dir', tmp_path / 'out', *models.crops, '--ann-file', ann_file]
    arguments += ['--bboxes', box_file(two_photos, tmp_path, boxes), '--cfg-options']
    outcome = run_tool(*arguments, *(f'test_evaluator.{k}={v}' for k, v in settings.items()))
    assert outcome.status == 0, outcome.err
    ours = json.loads((tmp_path / 'out' / 'run.json').read_text())

    metric = CocoMetric(ann_file=ann_file, **settings)
    metric.dataset_meta = dict(META[17])
    persons = np.array([[x, y, x + w, y + h, 0.9] for (x, y, w, h), _ in boxes])
    inferencer = top_down.ours(det_model='whole_image')
    paths = [str(path) for path in sorted(two_photos.iterdir())]
    found = inferencer(paths, return_datasamples=True, bboxes=[persons] * 2)
    for number, result in enumerate(found):
        (sample,) = result['predictions']
        metric.process({}, [{'id': [number], 'img_id': number, **sample.to_dict()}])
    theirs = metric.compute_metrics(metric.results)
    expected = [None if value == -1 else value for value in theirs.values()]
    assert list(ours['metrics'].values()) == pytest.approx(expected, abs=1e-6)
    assert 0.2 < ours['metrics']['AP'] < 0.9
    suppressed = ours['evaluation']['persons_suppressed']
    assert suppressed == (0 if settings.get('nms_mode') == 'none' else 4)


def test_the_tool_evaluates_categories_that_the_detector_distinguishes(
    models, two_photos, tmp_path
):
    """The only class of the detector is dog."""
    weights = torch.load(models.file('rtmdet.pth'), weights_only=True)
    weights['meta'] = {'dataset_meta': {'classes': ('dog',)}}
    torch.save(weights, tmp_path / 'dog.pth')
    names = [path.name for path in sorted(two_photos.iterdir())]
    entry = {'image_id': 0, 'bbox': [0, 0, 99, 99], 'area': 9e3, 'keypoints': [9, 9, 2] * 17}
    content = {
        'images': [{'id': number, 'file_name': name} for number, name in enumerate(names)],
        'categories': [{'id': 5, 'name': 'cat'}, {'id': 6, 'name': 'Dog'}],
        'annotations': [{**entry, 'id': n, 'category_id': n} for n in (5, 6)],
    }
    out, ann_file = tmp_path / 'out', written(tmp_path, content)
    arguments = [two_photos, '--out-dir', out, *models.top_down]
    arguments[arguments.index('--det-weights') + 1] = tmp_path / 'dog.pth'
    assert run_tool(*arguments).status == 0
    plain = read_lines(out / 'predictions.jsonl')
    outcome = run_tool(*arguments, '--ann-file', ann_file, '--resume')
    assert 'cannot resume: changed since the earlier run: categories (' in outcome.err
    outcome = run_tool(*arguments, '--ann-file', ann_file, '--overwrite')
    assert outcome.status == 0, outcome.err
    line = 'categories: 2, of which the detector distinguishes 1 by name; never found: cat'
    assert line in outcome.err.splitlines()
    found = read_lines(out / 'predictions.jsonl')
    assert sum(len(record['instances']) for record in found) > 0
    for record in found:
        assert {instance.pop('category_id') for instance in record['instances']} <= {6}
    assert found == plain
    assert re.search(r'^AP +0\.\d+$', outcome.out, re.MULTILINE)


def test_with_a_detector_of_other_classes_there_is_no_ap_and_the_records_are_the_same(
    models, two_photos, tmp_path
):
    names = [path.name for path in sorted(two_photos.iterdir())]
    entry = {'image_id': 0, 'bbox': [0, 0, 99, 99], 'area': 9e3, 'keypoints': [9, 9, 2] * 17}
    content = {
        'images': [{'id': number, 'file_name': name} for number, name in enumerate(names)],
        'categories': [{'id': 5, 'name': 'cat'}, {'id': 6, 'name': 'dog'}],
        'annotations': [{**entry, 'id': n, 'category_id': n} for n in (5, 6)],
    }
    arguments = [two_photos, '--out-dir', tmp_path / 'out', *models.top_down]
    assert run_tool(*arguments).status == 0
    plain = (tmp_path / 'out' / 'predictions.jsonl').read_bytes()
    outcome = run_tool(*arguments, '--ann-file', written(tmp_path, content), '--overwrite')
    assert outcome.status == 0, outcome.err
    reason = (
        '2 categories are annotated, and none has the name of a class that the detector keeps '
        '(person)'
    )
    assert f'warning: there will be no AP: {reason}' in outcome.err.splitlines()
    assert outcome.out.splitlines()[-1] == f'no AP:    {reason}'
    assert (tmp_path / 'out' / 'predictions.jsonl').read_bytes() == plain
