"""AP and AR of a run, and the annotations and boxes that they are computed from."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.command import NAMES, annotated, person
from support.factories import (
    Models,
    read_lines,
    run_tool,
)

from mmpose_batch.runs.run import Run

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')


def test_annotations_deleted_during_the_run_are_one_line(photos, models, tmp_path, monkeypatch):
    ann_file = annotated(tmp_path)

    def stream(self: Run, *arguments: int) -> None:
        infer(self, *arguments)
        Path(ann_file).unlink()

    infer = Run._stream
    monkeypatch.setattr(Run, '_stream', stream)
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.one_stage, '--format', 'coco']
    outcome = run_tool(*arguments, '--ann-file', ann_file)
    assert outcome.status == 1
    assert (tmp_path / 'out' / 'predictions.coco.json').exists()
    assert outcome.err.splitlines()[-1].startswith(f'batch_infer: {ann_file}: cannot be read: No')


def test_annotations_of_the_output_keypoints(photos, models, tmp_path):
    # The dataset of the model has 17 keypoints; two of them are in the output.
    options = ['--cfg-options', 'model.test_cfg.output_keypoint_indices=[0,3]']
    content = json.loads(Path(annotated(tmp_path)).read_text())
    for entry in content['annotations']:
        entry['keypoints'] = entry['keypoints'][:6]
    (tmp_path / 'annotations.json').write_text(json.dumps(content))
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.whole_image, *options]
    outcome = run_tool(*arguments, '--ann-file', tmp_path / 'annotations.json')
    assert outcome.status == 0, outcome.err
    assert 'AP' in outcome.out


def test_ap_and_ar_are_printed_and_stored(photos, models, tmp_path):
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.whole_image, '--format', 'coco']
    outcome = run_tool(*arguments, '--ann-file', annotated(tmp_path))
    assert outcome.status == 0
    metrics = json.loads((tmp_path / 'out' / 'run.json').read_text())['metrics']
    assert list(metrics)[:2] == ['AP', 'AP50']
    assert all(0 <= metrics[name] <= 1 for name in ('AP', 'AP50', 'AR'))
    assert metrics['AP(M)'] is None  # all persons are large
    for name, value in metrics.items():
        shown = 'none: no person of this size' if value is None else f'{value:.4f}'
        assert re.search(rf'^{re.escape(name)} +{shown}$', outcome.out, re.MULTILINE)
    # The annotations number the images independently of their names.
    coco = json.loads((tmp_path / 'out' / 'predictions.coco.json').read_text())
    assert [result['image_id'] for result in coco] == [0, 1, 2, 3, 4]


def test_ap_of_its_own_predictions_is_1(photos, models, tmp_path):
    run_tool(photos, '--out-dir', tmp_path / 'out', *models.whole_image)
    people = []
    for number, record in enumerate(read_lines(tmp_path / 'out' / 'predictions.jsonl')):
        points = [value for x, y in record['instances'][0]['keypoints'] for value in (x, y, 2)]
        people.append({**person(number, number), 'keypoints': points})
    outcome = run_tool(
        *(photos, '--out-dir', tmp_path / 'out', *models.whole_image, '--resume'),
        *('--ann-file', annotated(tmp_path, annotations=people)),
    )
    assert re.search(r'^AP +1\.0000$', outcome.out, re.MULTILINE)
    assert re.search(r'^AR +1\.0000$', outcome.out, re.MULTILINE)


def evaluation(out_dir: Path) -> dict[str, Any]:
    return json.loads((out_dir / 'run.json').read_text())['evaluation']


def pycocotools_ap(ann_file: Path, out_dir: Path) -> float:
    """AP of pycocotools for the two files, over the images that have results."""
    truth = COCO(str(ann_file))
    found = truth.loadRes(str(out_dir / 'predictions.coco.json'))
    judge = COCOeval(truth, found, 'keypoints')
    judge.params.imgIds = sorted({result['image_id'] for result in found.dataset['annotations']})
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[0]


def own_predictions(photos: Path, folder: Path, models: Models, category: int = 1) -> list[dict]:
    """Annotations from predictions of the model, of which two of five are moved."""
    run_tool(photos, '--out-dir', folder / 'own', *models.whole_image)
    people = []
    for number, record in enumerate(read_lines(folder / 'own' / 'predictions.jsonl')):
        points = np.array(record['instances'][0]['keypoints']) + (4 if number % 2 else 0)
        keypoints = np.column_stack((points, np.full(17, 2))).ravel().tolist()
        people.append({**person(number, number), 'keypoints': keypoints, 'category_id': category})
    return people


@pytest.mark.parametrize('category', [0, 1, 7])
def test_pycocotools_finds_the_ap_that_is_printed(photos, models, tmp_path, category):
    ann_file = annotated(
        tmp_path,
        annotations=own_predictions(photos, tmp_path, models, category),
        categories=[{'id': category, 'name': 'person'}],
    )
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.whole_image, '--format', 'coco']
    outcome = run_tool(*arguments, '--ann-file', ann_file)
    coco = json.loads((tmp_path / 'out' / 'predictions.coco.json').read_text())
    assert {result['category_id'] for result in coco} == {category}
    assert evaluation(tmp_path / 'out')['category_id'] == category
    ap = pycocotools_ap(ann_file, tmp_path / 'out')
    assert 0.2 < ap < 0.95
    assert f'AP        {ap:.4f}' in outcome.out.splitlines()


def test_images_without_annotations_are_reported(photos, models, tmp_path):
    # As X-AnyLabeling writes them on Windows; one image is not annotated, one entry not there.
    names = [NAMES[0], NAMES[1], 'else\\where.jpg', 'a\\same.jpg', 'b\\same.png']
    images = [{'id': number, 'file_name': name} for number, name in enumerate(names)]
    people = own_predictions(photos, tmp_path, models)
    ann_file = annotated(tmp_path, images=images, annotations=people)
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.whole_image, '--format', 'coco']
    outcome = run_tool(*arguments, '--ann-file', ann_file)
    warning = (
        '1 of 5 images have no entry in the annotation file and are not evaluated, such as '
        f"'{photos}/{NAMES[2]}'; an entry without an input: 'else\\\\where.jpg'"
    )
    assert outcome.err.splitlines()[1:3] == [
        'annotations: 4 of 5 images are evaluated',
        f'warning: {warning}',
    ]
    lines = outcome.out.splitlines()
    assert lines[5:8] == [
        'evaluated 4 of 5 images',
        f'warning   {warning}',
        'excluded  1 persons only in predictions.jsonl: in images without an entry',
    ]
    found = evaluation(tmp_path / 'out')
    assert (found['images'], found['judged'], found['persons_without_entry']) == (5, 4, 1)
    assert found['input_without_entry'] == f'{photos}/{NAMES[2]}'
    assert found['entry_without_input'] == 'else\\where.jpg'
    coco = json.loads((tmp_path / 'out' / 'predictions.coco.json').read_text())
    assert [result['image_id'] for result in coco] == [0, 1, 3, 4]
    assert f'AP        {pycocotools_ap(ann_file, tmp_path / "out"):.4f}' in lines
    quiet = run_tool(*arguments, '--ann-file', ann_file, '--quiet', '--overwrite')
    assert (quiet.out, quiet.err) == ('', '')


def test_without_ap_the_reason_is_reported(photos, models, tmp_path):
    ann_file = annotated(tmp_path, annotations=[{**person(0, 0), 'iscrowd': 1}])
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.whole_image]
    outcome = run_tool(*arguments, '--ann-file', ann_file)
    assert outcome.status == 0
    reason = 'all 1 persons with labelled keypoints are crowds'
    assert f'warning: there will be no AP: {reason}' in outcome.err.splitlines()
    assert outcome.out.splitlines()[-1] == f'no AP:    {reason}'
    assert evaluation(tmp_path / 'out')['not_judged'] == reason
    assert json.loads((tmp_path / 'out' / 'run.json').read_text())['metrics']['AP'] is None


def test_skipped_box_entries_are_counted(photos, models, tmp_path):
    box = {'image_id': 'same', 'category_id': 1, 'bbox': [10, 20, 50, 60], 'score': 0.9}
    entries = [
        {**box, 'image_id': '000000000000'},
        {**box, 'image_id': '1'},
        {**box, 'image_id': 2, 'score': 0.1},
        {**box, 'image_id': 2, 'category_id': 0},
        {**box, 'image_id': 'b\\same'},
    ]
    (tmp_path / 'boxes.json').write_text(json.dumps(entries), encoding='utf-8-sig')
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.crops]
    outcome = run_tool(*arguments, '--bboxes', tmp_path / 'boxes.json')
    assert outcome.status == 0
    assert outcome.err.splitlines()[1] == (
        'boxes: 3 of 5 entries used; left out: '
        '1 with a score of at most 0.3, 1 not of category_id 1; 3 of 5 images have boxes'
    )
    records = read_lines(tmp_path / 'out' / 'predictions.jsonl')
    assert [len(record['instances']) for record in records] == [1, 1, 0, 0, 1]
