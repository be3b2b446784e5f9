"""Selection of the annotations that a model is evaluated against."""

from typing import Any

import numpy as np
import pytest
from support.annotated import annotations

from mmpose_batch.errors import AnnotationError
from mmpose_batch.evaluation.annotations import ImageIds
from mmpose_batch.evaluation.metric import ScoringOptions
from mmpose_batch.evaluation.truth import (
    check_annotations,
    check_images,
    check_metric,
    check_model,
    keypoint_categories,
)


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
}


@pytest.mark.parametrize(('content', 'keypoints', 'message'), UNFIT.values(), ids=UNFIT)
def test_annotations_that_do_not_fit_the_model_are_an_error(content, keypoints, message):
    with pytest.raises(AnnotationError, match=message):
        check_annotations(content, keypoints, 'x.json')


UNFIT_IMAGES = {
    'others': (
        ['other.jpg'],
        'x.json: no annotation entry matches an input, by file_name; an entry: file_name '
        "'000000000000.jpg'; an input: 'other.jpg'",
    ),
    'one twice': (
        ['a/000000000001.jpg', 'b/000000000001.jpg'],
        "x.json: expected one input for image 1, found 'a/000000000001.jpg' and "
        "'b/000000000001.jpg'",
    ),
}


@pytest.mark.parametrize(('paths', 'message'), UNFIT_IMAGES.values(), ids=UNFIT_IMAGES)
def test_inputs_without_annotations_are_an_error(paths, message):
    with pytest.raises(AnnotationError) as raised:
        check_images(paths, ImageIds(annotations()['images']), 'x.json')
    assert str(raised.value) == message


def test_annotations_without_images_are_an_error():
    with pytest.raises(AnnotationError, match=r'; it has no entries; an input: .a\.jpg'):
        check_images(['a.jpg'], ImageIds([]))


WHOLE = ScoringOptions(whole_body=True)
UNFIT_MODELS = {
    'no sigmas': (ScoringOptions(), 17, [], r'AP needs 17 sigmas .* found 0'),
    'no whole body': (WHOLE, 17, np.ones(17), 'CocoWholeBodyMetric evaluates 133 .* has 17'),
}


@pytest.mark.parametrize(
    ('scoring', 'keypoints', 'sigmas', 'message'), UNFIT_MODELS.values(), ids=UNFIT_MODELS
)
def test_a_model_that_a_metric_cannot_evaluate_is_an_error(scoring, keypoints, sigmas, message):
    check_model(ScoringOptions(), np.ones(17), 17)
    with pytest.raises(AnnotationError, match=message):
        check_model(scoring, sigmas, keypoints)


def test_a_metric_that_rearranges_keypoints_is_an_error():
    check_metric(ScoringOptions())
    with pytest.raises(AnnotationError, match='without gt_converter and pred_converter: key'):
        check_metric(ScoringOptions(converters=('gt_converter', 'pred_converter')))


def test_without_matching_annotations_nothing_is_evaluated():
    content = annotations()
    check_images(
        ['000000000001.jpg', 'x/000000000002.jpg', 'other.jpg'], ImageIds(content['images'])
    )
    truth = check_annotations(content, 17)
    assert (truth.categories, len(truth.annotations), truth.skipped) == ({1: 'person'}, 12, {})


CATEGORIES = {
    'animals': (['cat', 'dog', 'horse'], {4: 'cat', 5: 'dog', 6: 'horse'}, {}),
    'a person among them': (['cat', 'Person', 'dog'], {5: 'Person'}, {'of another category': 8}),
    'persons twice': (['person', 'person'], {4: 'person', 5: 'person'}, {}),
}


@pytest.mark.parametrize(('names', 'evaluated', 'skipped'), CATEGORIES.values(), ids=CATEGORIES)
def test_all_categories_are_evaluated_unless_one_is_person(names, evaluated, skipped):
    content = annotations(category=4, categories=names)
    truth = check_annotations(content, 17)
    assert (truth.categories, truth.skipped) == (evaluated, skipped)
    assert {entry['category_id'] for entry in truth.annotations} == set(evaluated)
    assert keypoint_categories(content) == set(range(4, 4 + len(names)))


def test_a_category_of_other_keypoints_is_not_evaluated():
    content = annotations(categories=['body', 'hand'])
    for entry in content['annotations'][1::2]:
        entry['keypoints'] = [1, 2, 2] * 21
    truth = check_annotations(content, 17)
    assert (truth.categories, truth.skipped) == ({1: 'body'}, {'of another category': 6})


def test_fields_that_the_metric_does_not_read_are_omitted():
    content = annotations(whole_body=True, crowding=True)
    truth = check_annotations(content, 17)
    assert truth.images[0] == {'id': 0}
    assert not {'num_keypoints', 'foot_kpts'} & truth.annotations[0].keys()
    crowd = ScoringOptions(use_area=False, iou_type='keypoints_crowd')
    truth = check_annotations(content, 17, scoring=crowd)
    assert truth.images[-1] == {'id': 3, 'crowdIndex': 1}
    assert 'area' not in truth.annotations[0] and truth.annotations[0]['num_keypoints'] == 17


def test_every_part_of_a_whole_body_has_its_number_of_keypoints():
    content = annotations(whole_body=True)
    assert len(check_annotations(content, 133, scoring=WHOLE).annotations) == 12
    del content['annotations'][3]['face_kpts'][-3:]
    with pytest.raises(AnnotationError, match=r'annotations\[3\]: face_kpts: expected 68 .* 67'):
        check_annotations(content, 133, scoring=WHOLE)


def test_a_whole_body_is_labelled_if_one_of_its_parts_is():
    content = annotations(whole_body=True)
    for entry in content['annotations'][:2]:
        entry['keypoints'] = [0] * 51
    for name in ('foot_kpts', 'face_kpts', 'lefthand_kpts', 'righthand_kpts'):
        content['annotations'][0][name] = [0] * len(content['annotations'][0][name])
    assert check_annotations(content, 133, scoring=WHOLE).skipped == {'without keypoints': 1}
