"""Assignment of the entries of a box file or an annotation file to the inputs."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.annotated import annotations, written
from support.factories import Models, Outcome, read_lines, run_tool
from support.tiny import picture, save

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')

NAMES = ['1.jpg', '2.jpg', '3.jpg', 'sub/1.jpg']


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos, two of them with the same name."""
    folder = tmp_path_factory.mktemp('photos')
    for number, name in enumerate(NAMES):
        save(folder / name, picture(120, 100, number))
    return folder


@pytest.fixture
def ann_file(tmp_path: Path) -> str:
    """Annotations whose images are the photos, with ids from 0."""
    content = annotations(images=4)
    for image, name in zip(content['images'], NAMES, strict=True):
        image['file_name'] = name
    return written(tmp_path, content)


def box(number: int, **image: Any) -> dict[str, Any]:
    return {'bbox': [0, 0, 60 + number, 60], 'score': 0.9, 'category_id': 1, **image}


def with_boxes(
    photos: Path, folder: Path, models: Models, boxes: list[dict[str, Any]], *more: Any
) -> tuple[Outcome, Path]:
    """Run the tool with a box file."""
    path = folder / 'boxes.json'
    path.write_text(json.dumps(boxes))
    arguments = [photos, '--out-dir', folder / 'out', *models.crops, '--bboxes', path, *more]
    return run_tool(*arguments), path


def widths(folder: Path) -> dict[str, list[float]]:
    """Right edges of the boxes of each image."""
    return {
        record['image']: [instance['bbox'][2] for instance in record['instances']]
        for record in read_lines(folder / 'out' / 'predictions.jsonl')
    }


def test_boxes_go_by_name_if_ids_are_counted(photos, models, tmp_path):
    boxes = [box(number, image_id=number, file_name=name) for number, name in enumerate(NAMES)]
    outcome, _ = with_boxes(photos, tmp_path, models, boxes)
    assert outcome.status == 0, outcome.err
    assert widths(tmp_path) == {name: [60 + number] for number, name in enumerate(NAMES)}


def test_a_box_of_two_images_is_one_line(photos, models, tmp_path, ann_file):
    boxes = [box(0, image_id=2, file_name='3.jpg'), box(1, image_id=2, file_name='2.jpg')]
    outcome, path = with_boxes(photos, tmp_path, models, boxes, '--ann-file', ann_file, '--quiet')
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith(
        f'batch_infer: {path}: entry 1: expected file_name and image_id of one image, found '
        "'2.jpg' and 2, which the annotation file calls '3.jpg'"
    )
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('more', [[], ['--dry-run']], ids=['run', 'dry run'])
def test_boxes_of_no_input_are_reported(photos, models, tmp_path, more):
    names = ['1.jpg', 'zz2.jpg', 'zz/3.jpg', 'sub/1.jpg']
    boxes = [box(number, file_name=name) for number, name in enumerate(names)]
    outcome, _ = with_boxes(photos, tmp_path, models, boxes, *more)
    assert outcome.status == 0
    assert (
        'boxes: 2 of 4 entries used; left out: 2 for images that are not inputs, such as '
        f"file_name 'zz2.jpg'; 2 of 4 images have boxes; no entry names '{photos}/2.jpg'"
    ) in (outcome.err + outcome.out).splitlines()


def test_images_of_one_name_in_two_folders_are_both_evaluated(photos, models, tmp_path, ann_file):
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.whole_image, '--format', 'coco']
    outcome = run_tool(*arguments, '--ann-file', ann_file)
    assert outcome.status == 0
    assert 'evaluated 4 of 4 images' in outcome.out.splitlines()
    assert 'warning' not in outcome.out + outcome.err
    coco = json.loads((tmp_path / 'out' / 'predictions.coco.json').read_text())
    assert [result['image_id'] for result in coco] == [0, 1, 2, 3]


def test_annotations_of_other_images_are_one_line(photos, models, tmp_path):
    path = written(tmp_path, annotations())
    outcome = run_tool(
        *(photos, '--out-dir', tmp_path / 'out', *models.whole_image, '--ann-file', path, '--quiet')
    )
    assert outcome.status == 2
    assert outcome.err.splitlines() == [
        f'batch_infer: {path}: no annotation entry matches an input, by file_name; an entry: '
        f"file_name '000000000000.jpg'; an input: '{photos}/1.jpg'"
    ]
