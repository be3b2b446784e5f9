"""The category that an instance gets if several are evaluated."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.structures import InstanceData
from mmpose.structures import PoseDataSample

from mmpose_batch.evaluation.categories import Categories
from mmpose_batch.speedups.samples import add_labels

CAT_AND_DOG = {3: 'Cat', 8: ' dog '}
FOUND = {
    'by name, whatever its case': (
        {15: 'cat', 16: 'DOG'},
        CAT_AND_DOG,
        {15: 3, 16: 8},
        '2, of which the detector distinguishes 2 by name',
    ),
    'some of both': (
        {14: 'bird', 16: 'dog'},
        CAT_AND_DOG,
        {16: 8},
        '2, of which the detector distinguishes 1 by name; '
        'not evaluated: its bird; never found: Cat',
    ),
    'two classes of one name': (
        {1: 'dog', 2: 'dog'},
        CAT_AND_DOG,
        {1: 8, 2: 8},
        '2, of which the detector distinguishes 1 by name; never found: Cat',
    ),
    'categories of one name, which no class distinguishes': (
        {1: 'dog', 2: 'cat'},
        {**CAT_AND_DOG, 9: 'Dog'},
        {2: 3},
        '3, of which the detector distinguishes 1 by name; '
        'not evaluated: its dog; never found: dog, Dog',
    ),
}


@pytest.mark.parametrize(('classes', 'evaluated', 'of_label', 'note'), FOUND.values(), ids=FOUND)
def test_a_class_of_the_detector_is_the_category_of_its_name(classes, evaluated, of_label, note):
    detector = SimpleNamespace(class_names=lambda: classes)
    found = Categories.of(evaluated, detector, boxes=False)
    assert found == Categories(of_label, note)


MANY = {number: f'c{number}' for number in range(9)}
UNKNOWN = {
    'no detector': (
        None,
        'and neither a detector nor a box file gives the category of an instance',
    ),
    'other classes': ({0: 'person'}, 'and none has the name of a class that the detector keeps'),
    'many other classes': (MANY, r'the detector keeps \(c0, c1, c2, c3, c4, \.\.\. \(9\)\)'),
    'no names': ({}, r'the detector keeps \(no name\)'),
}


@pytest.mark.parametrize(('classes', 'reason'), UNKNOWN.values(), ids=UNKNOWN)
def test_the_reason_for_missing_categories_is_given(classes, reason):
    detector = None if classes is None else SimpleNamespace(class_names=lambda: classes)
    found = Categories.of(CAT_AND_DOG, detector, boxes=False)
    assert found.of_label == {}
    assert found.reason.startswith('2 categories are annotated, ')
    assert re.search(reason, found.reason)


def test_boxes_of_a_file_are_labelled_by_the_place_of_their_category():
    assert Categories.of(CAT_AND_DOG, None, boxes=True).of_label == {0: 3, 1: 8}


@pytest.mark.parametrize('evaluated', [{}, {7: 'person'}])
def test_with_one_category_all_instances_are_of_it(evaluated):
    assert Categories.of(evaluated, None, boxes=False) is None


LABELS = {
    'one for each person': ([1, 1], [4.0, 7.0], [4, 7]),
    'one for each of more instances': ([2, 0], [4.0, 7.0], [4, 4]),
    'the complete image is one person': ([1], [], [-1]),
    'no detections': ([0], [], []),
}


@pytest.mark.parametrize(('sizes', 'labels', 'expected'), LABELS.values(), ids=LABELS)
def test_instances_have_the_labels_of_their_boxes(sizes, labels, expected):
    samples = [PoseDataSample() for _ in sizes]
    for sample, size in zip(samples, sizes, strict=True):
        sample.pred_instances = InstanceData(keypoints=np.zeros((size, 17, 2)))
    add_labels(samples, labels)
    found = [label for sample in samples for label in sample.pred_instances.labels.tolist()]
    assert found == expected
