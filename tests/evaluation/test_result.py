"""Results of an evaluation: unusual annotation files, reasons for no AP, coverage of images."""

import re
from typing import Any

import pytest
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from support.annotated import annotations, predictions, written

from mmpose_batch.errors import AnnotationError
from mmpose_batch.evaluation.annotations import ImageIds, read_annotations, schema
from mmpose_batch.evaluation.ap import BY_SIZE, evaluate
from mmpose_batch.evaluation.coco_results import to_coco
from mmpose_batch.evaluation.metric import ScoringOptions
from mmpose_batch.evaluation.result import Coverage, Evaluation
from mmpose_batch.evaluation.truth import check_images, read_truth, why_no_ap

COCO = parse_pose_metainfo({'from_file': 'configs/_base_/datasets/coco.py'})
SIGMAS = COCO['sigmas']


# ---------------------------------------------------------------- unusual annotation files

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
FIELDS = [(kind, field.name) for kind, fields in schema(('area',)).items() for field in fields]
IMAGES = [f'{number:012}.jpg' for number in range(4)]


def mutated(kind: str, field: str, mutation: str) -> dict[str, Any]:
    """Annotations with one field of the last entry replaced."""
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


def evaluated(path: str) -> Evaluation:
    """Evaluate fixed predictions as a run does."""
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
    coverage = Coverage.of(IMAGES, list(map(ids.all_of, IMAGES)), ids.names)
    return Evaluation(
        coverage,
        categories=tuple(truth.categories),
        skipped=truth.skipped,
        not_judged=why_no_ap(truth, known),
        metrics=metrics,
    )


@pytest.fixture(scope='module')
def sound(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return evaluated(written(tmp_path_factory.mktemp('sound'), annotations()))


@pytest.mark.parametrize('mutation', MUTATIONS)
@pytest.mark.parametrize(('kind', 'field'), FIELDS, ids=map('.'.join, FIELDS))
def test_a_mutated_field_is_one_line_or_does_not_change_ap(tmp_path, sound, kind, field, mutation):
    path = written(tmp_path, mutated(kind, field, mutation))
    try:
        found = evaluated(path)
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
        assert mutation in ('text', 'number as text')  # a valid name
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
    assert evaluated(written(tmp_path, content)) == sound


# -------------------------------------------------------------------------- reasons for no AP


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
    'others': 'no person with keypoints is annotated in the 4 evaluated images',
}


@pytest.mark.parametrize(('change', 'reason'), REASONS.items(), ids=REASONS)
def test_the_reason_for_no_ap_is_reported(tmp_path, change, reason):
    found = evaluated(written(tmp_path, changed(change)))
    assert found.metrics == dict.fromkeys(BY_SIZE)
    assert found.to_json()['not_judged'] == reason
    assert list(found.lines())[-1] == f'no AP:    {reason}'


def test_a_size_that_no_person_has_is_reported(tmp_path):
    content = annotations()
    for entry in content['annotations']:
        entry['area'] = 200.0**2
    found = evaluated(written(tmp_path, content))
    assert found.metrics['AP(M)'] is None
    assert f'AP        {found.metrics["AP"]:.4f}' in found.lines()
    assert 'AP(M)     none: no person of this size' in found.lines()


def with_others() -> dict[str, Any]:
    """Annotations that include some which upstream's dataset skips."""
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


def test_unusable_annotations_are_skipped_and_counted(tmp_path, sound):
    found = evaluated(written(tmp_path, with_others()))
    assert found.metrics == sound.metrics
    assert found.categories == (1,)
    assert found.skipped == {'without keypoints': 2, 'of another category': 1}
    line = 'skipped   annotations: 2 without keypoints, 1 of another category'
    assert line in found.lines()


# -------------------------------------------------------------------------- images and entries

COVERAGE = {
    'all': ([1, 2], Coverage(2, 2, 2), None),
    'more entries': ([1], Coverage(1, 1, 2, None, 'y/2.jpg'), None),
    'another image': (
        [1, None],
        Coverage(2, 1, 2, 'in/1.jpg', 'y/2.jpg'),
        '1 of 2 images have no entry in the annotation file and are not evaluated, such as '
        "'in/1.jpg'; an entry without an input: 'y/2.jpg'",
    ),
}


@pytest.mark.parametrize(('ids', 'expected', 'warning'), COVERAGE.values(), ids=COVERAGE)
def test_images_that_are_not_evaluated_are_reported(ids, expected, warning):
    paths = [f'in/{number}.jpg' for number in range(len(ids))]
    found = [[] if image_id is None else [image_id] for image_id in ids]
    coverage = Coverage.of(paths, found, {1: 'x/1.jpg', 2: 'y/2.jpg'})
    assert coverage == expected
    assert coverage.warning() == warning
