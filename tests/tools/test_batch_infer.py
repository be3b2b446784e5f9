"""The tool: what it writes, what it prints, and how it ends."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmpose.apis.inferencers import Pose2DInferencer
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.factories import (
    TOOLS,
    Models,
    Outcome,
    files_below,
    load_tool,
    read_lines,
    run_tool,
    write_photos,
)
from support.tiny import picture, save

import mmpose_batch
from mmpose_batch.models.checkpoint import load_checkpoint
from mmpose_batch.models.names import default_filters
from mmpose_batch.runs.run import Run

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, and two more in folders below."""
    folder = tmp_path_factory.mktemp('photos')
    write_photos(folder, 3)
    save(folder / 'a' / 'same.jpg', picture(100, 80, 7))
    save(folder / 'b' / 'same.png', picture(80, 100, 8))
    return folder


ALL = [*(f'{number:012}.jpg' for number in range(3)), 'a/same.jpg', 'b/same.png']


@pytest.fixture(scope='module', params=['one_stage', 'whole_image', 'top_down'])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope='module')
def run(
    kind: str,
    photos: Path,
    models: Models,
    one_thread: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Outcome, Path]:
    """A run that writes all there is to write."""
    out_dir = tmp_path_factory.mktemp('run') / 'made' / 'by the tool'
    outcome = run_tool(
        *(photos, '--out-dir', out_dir, *getattr(models, kind)),
        *('--format', 'json', 'coco', '--save-vis', '--draw-bbox', '--batch-size', '3'),
    )
    return outcome, out_dir


# --------------------------------------------------------------------------- what it writes


def test_all_files_are_there(run):
    outcome, out_dir = run
    assert outcome.status == 0
    assert set(files_below(out_dir)) == {
        *('predictions.jsonl', 'predictions.coco.json', 'failures.jsonl'),
        *(f'predictions/{name}.json' for name in ALL),
        *(f'vis/{name}' for name in ALL),
    }
    assert (out_dir / 'failures.jsonl').read_bytes() == b''


def test_a_record_tells_all_of_an_image_in_input_order(run, photos):
    _, out_dir = run
    records = read_lines(out_dir / 'predictions.jsonl')
    assert [record['image'] for record in records] == ALL
    for record in records:
        assert list(record) == ['image', 'width', 'height', 'instances']
        height, width = cv2.imread(str(photos / record['image'])).shape[:2]
        assert (record['width'], record['height']) == (width, height)
        assert record['instances']
        for instance in record['instances']:
            assert list(instance) == ['keypoints', 'keypoint_scores', 'bbox', 'bbox_score']
            assert np.shape(instance['keypoints']) == (17, 2)
            assert np.shape(instance['keypoint_scores']) == (17,)
            x1, y1, x2, y2 = instance['bbox']
            assert x1 < x2
            assert y1 < y2


def test_json_is_what_stock_writes(run, kind, photos, models, tmp_path):
    _, out_dir = run
    stock = stock_inferencer(kind, models)
    filters = default_filters(stock.cfg)
    if kind == 'top_down':
        filters['bbox_thr'] = 0.0
    for name in ALL:
        list(stock(str(photos / name), pred_out_dir=str(tmp_path), **filters))
        theirs = json.loads((tmp_path / f'{Path(name).stem}.json').read_text())
        ours = json.loads((out_dir / 'predictions' / f'{name}.json').read_text())
        assert_close(ours, theirs)


def stock_inferencer(kind: str, models: Models) -> Pose2DInferencer:
    """The untouched class with the same configs and weights."""
    name = 'rtmo' if kind == 'one_stage' else 'rtmpose'
    detector = models.file('rtmdet.py') if kind == 'top_down' else 'whole_image'
    stock = Pose2DInferencer(
        models.file(f'{name}.py'), device='cpu', det_model=detector, det_cat_ids=[0]
    )
    stock.model.load_state_dict(load_checkpoint(models.file(f'{name}.pth'))['state_dict'])
    if kind == 'top_down':
        state = load_checkpoint(models.file('rtmdet.pth'))['state_dict']
        stock.detector.model.load_state_dict(state)
    return stock


def assert_close(ours: Any, theirs: Any) -> None:
    """The same form, and numbers within the project's promise."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_close(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)
    else:
        assert ours == pytest.approx(theirs, abs=0.01)


def test_records_and_json_and_coco_say_the_same(run):
    _, out_dir = run
    coco = iter(json.loads((out_dir / 'predictions.coco.json').read_text()))
    for number, record in enumerate(read_lines(out_dir / 'predictions.jsonl')):
        stock = json.loads((out_dir / 'predictions' / f'{record["image"]}.json').read_text())
        for instance, person in zip(record['instances'], stock, strict=True):
            for key in ('keypoints', 'keypoint_scores', 'bbox_score'):
                np.testing.assert_allclose(instance[key], person[key], atol=0.001)
            np.testing.assert_allclose(instance['bbox'], person['bbox'][0], atol=0.001)
            result = next(coco)
            points = np.reshape(result['keypoints'], (17, 3))
            np.testing.assert_allclose(points[:, :2], instance['keypoints'])
            np.testing.assert_allclose(points[:, 2], instance['keypoint_scores'])
            x, y, width, height = result['bbox']
            np.testing.assert_allclose([x, y, x + width, y + height], instance['bbox'], atol=0.002)
            assert result['file_name'] == record['image']
            assert result['image_id'] == number  # names that are no numbers: its place
    assert next(coco, None) is None


def test_drawings_are_the_photos_with_something_drawn(run, photos):
    _, out_dir = run
    for name in ALL:
        photo = mmcv.imread(photos / name).astype(float)
        drawing = mmcv.imread(out_dir / 'vis' / name).astype(float)
        assert drawing.shape == photo.shape
        changed = np.abs(drawing - photo).max(axis=2) > 60
        assert 0 < changed.mean() < 0.7


def test_run_json_tells_what_ran_and_where_the_time_went(run, kind):
    _, out_dir = run
    info = json.loads((out_dir / 'run.json').read_text())
    records = read_lines(out_dir / 'predictions.jsonl')
    assert info['status'] == 'finished'
    assert info['counts'] == {
        'images': 5,
        'resumed': 0,
        'persons': sum(len(record['instances']) for record in records),
        'failures': 0,
    }
    assert info['device'] == 'cpu'
    assert info['options']['batch_size'] == 3
    assert info['options']['precision'] == 'fp32'
    assert info['options']['num_threads'] == 1
    seconds = info['seconds']
    stages = {'waiting', 'detection', 'network', 'writing', 'other'}
    assert set(seconds) == {'total', *stages}
    assert sum(seconds[stage] for stage in stages) == pytest.approx(seconds['total'], abs=0.01)
    assert seconds['network'] > 0
    assert (seconds['detection'] > 0) == (kind == 'top_down')
    assert info['images_per_second'] == pytest.approx(5 / seconds['total'])
    assert 100 * 2**20 < info['peak_resident_bytes'] < 64 * 2**30
    versions = info['identity']['versions']
    assert versions['mmpose_batch'] == mmpose_batch.__version__
    names = ('python', 'mmpose', 'mmdet', 'mmengine', 'mmcv', 'torch', 'numpy', 'cv2')
    assert all(re.match(r'\d+\.\d+', versions[name]) for name in names)


def test_jsonl_alone_is_the_default(photos, models, tmp_path):
    run_tool(photos, '--out-dir', tmp_path, *models.one_stage)
    assert set(files_below(tmp_path)) == {'predictions.jsonl', 'failures.jsonl'}


# --------------------------------------------------------------------------------- inputs


def images(photos: Path, folder: Path, models: Models, *inputs: object) -> list[str]:
    """The images of the records, as the tool names them."""
    outcome = run_tool(*inputs, '--out-dir', folder / 'out', *models.whole_image)
    assert outcome.status == 0
    return [record['image'] for record in read_lines(folder / 'out' / 'predictions.jsonl')]


INPUTS = {
    'a file': (['b/same.png'], ['same.png']),
    'files': (['b/same.png', 'a/same.jpg'], ['b/same.png', 'a/same.jpg']),
    'a glob': (['*2.jpg', '*/same.*'], [ALL[2], 'a/same.jpg', 'b/same.png']),
    'a folder and a file of it': (['a', 'a/same.jpg'], ['same.jpg']),
    'folders': (['b', 'a'], ['b/same.png', 'a/same.jpg']),
    'not the folders below': (['.', '--no-recursive'], ALL[:3]),
}


@pytest.mark.parametrize(('inputs', 'expected'), INPUTS.values(), ids=INPUTS)
def test_inputs(photos, models, tmp_path, monkeypatch, inputs, expected):
    monkeypatch.chdir(photos)
    assert images(photos, tmp_path, models, *inputs) == expected


def test_a_list_of_inputs(photos, models, tmp_path):
    (tmp_path / 'list.txt').write_text(f'{photos}/b/same.png\n# no image\n\n{photos}/{ALL[1]}\n')
    listed = images(photos, tmp_path, models, f'@{tmp_path}/list.txt', photos / ALL[0])
    assert listed == ['b/same.png', ALL[1], ALL[0]]


def test_a_list_of_names_that_are_no_text(models, tmp_path):
    name = os.fsencode(tmp_path) + b'/caf\xe9.jpg'
    data = cv2.imencode('.jpg', picture(40, 30))[1].tobytes()
    Path(os.fsdecode(name)).write_bytes(data)
    (tmp_path / 'list.txt').write_bytes(b'\xef\xbb\xbf' + name + b'\r\n')  # as Windows writes
    assert images(tmp_path, tmp_path, models, f'@{tmp_path}/list.txt') == ['caf\\udce9.jpg']


def test_the_same_file_in_two_ways_is_one_input(photos, models, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    assert images(photos, tmp_path, models, ALL[0], photos / ALL[0], f'a/../{ALL[0]}') == [ALL[0]]


def test_drawings_of_an_earlier_run_are_no_inputs(models, tmp_path):
    write_photos(tmp_path, 2)
    arguments = [tmp_path, '--out-dir', tmp_path / 'out', *models.one_stage, '--save-vis']
    assert run_tool(*arguments).status == 0
    outcome = run_tool(*arguments, '--resume')
    assert outcome.status == 0
    assert 'images    2 (2 of them by an earlier run)' in outcome.out


def test_boxes_of_a_file_are_used(photos, models, tmp_path):
    boxes = [
        {'image_id': 0, 'category_id': 1, 'bbox': [10, 20, 50, 60], 'score': 0.9},
        {'file_name': 'b/same.png', 'category_id': 1, 'bbox': [5, 5, 30, 40], 'score': 0.8},
        {'file_name': 'b/same.png', 'category_id': 1, 'bbox': [5, 5, 30, 40], 'score': 0.2},
    ]
    (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
    outcome = run_tool(
        *(photos, '--out-dir', tmp_path / 'out', *models.crops),
        *('--bboxes', tmp_path / 'boxes.json'),
    )
    assert outcome.status == 0
    records = read_lines(tmp_path / 'out' / 'predictions.jsonl')
    found = {record['image']: record['instances'] for record in records}
    assert {name: len(persons) for name, persons in found.items()} == dict(
        zip(ALL, [1, 0, 0, 0, 1], strict=True)
    )
    assert found[ALL[0]][0]['bbox'] == [10, 20, 60, 80]
    assert found['b/same.png'][0]['bbox_score'] == 0.8


# ----------------------------------------------------------------------------- annotations


def person(image: int, number: int) -> dict[str, Any]:
    return {
        'id': number + 1,
        'image_id': image,
        'category_id': 1,
        'bbox': [0, 0, 100, 100],
        'area': 10_000,
        'iscrowd': 0,
        'num_keypoints': 17,
        'keypoints': [10 + number, 10, 2] * 17,
    }


def annotated(folder: Path, **changes: Any) -> Path:
    content = {
        'images': [{'id': number, 'file_name': name} for number, name in enumerate(ALL)],
        'annotations': [person(number, number) for number in range(5)],
        'categories': [{'id': 1, 'name': 'person'}],
    }
    path = folder / 'annotations.json'
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_annotations_that_went_away_are_one_line(photos, models, tmp_path, monkeypatch):
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


def test_annotations_of_the_keypoints_that_come_out(photos, models, tmp_path):
    # The model's dataset has 17 keypoints, of which two come out.
    options = ['--cfg-options', 'model.test_cfg.output_keypoint_indices=[0,3]']
    content = json.loads(Path(annotated(tmp_path)).read_text())
    for entry in content['annotations']:
        entry['keypoints'] = entry['keypoints'][:6]
    (tmp_path / 'annotations.json').write_text(json.dumps(content))
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.whole_image, *options]
    outcome = run_tool(*arguments, '--ann-file', tmp_path / 'annotations.json')
    assert outcome.status == 0, outcome.err
    assert 'AP' in outcome.out


def test_ap_and_ar_are_printed_and_kept(photos, models, tmp_path):
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.whole_image, '--format', 'coco']
    outcome = run_tool(*arguments, '--ann-file', annotated(tmp_path))
    assert outcome.status == 0
    metrics = json.loads((tmp_path / 'out' / 'run.json').read_text())['metrics']
    assert list(metrics)[:2] == ['AP', 'AP50']
    assert all(0 <= metrics[name] <= 1 for name in ('AP', 'AP50', 'AR'))
    assert metrics['AP(M)'] is None  # all persons are large
    for name, value in metrics.items():
        shown = 'not judged: no person of this size' if value is None else f'{value:.4f}'
        assert re.search(rf'^{re.escape(name)} +{shown}$', outcome.out, re.MULTILINE)
    # The annotations number the images, whatever they are called.
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
    """AP that pycocotools finds in the two files, for the images that have results."""
    truth = COCO(str(ann_file))
    found = truth.loadRes(str(out_dir / 'predictions.coco.json'))
    judge = COCOeval(truth, found, 'keypoints')
    judge.params.imgIds = sorted({result['image_id'] for result in found.dataset['annotations']})
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats[0]


def own_predictions(photos: Path, folder: Path, models: Models, category: int = 1) -> list[dict]:
    """Annotations that the model finds, two of five of them moved."""
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


def test_images_that_the_annotations_do_not_have_are_reported(photos, models, tmp_path):
    # As X-AnyLabeling writes them on Windows; one image is not annotated, one entry not there.
    names = [ALL[0], ALL[1], 'else\\where.jpg', 'a\\same.jpg', 'b\\same.png']
    images = [{'id': number, 'file_name': name} for number, name in enumerate(names)]
    people = own_predictions(photos, tmp_path, models)
    ann_file = annotated(tmp_path, images=images, annotations=people)
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.whole_image, '--format', 'coco']
    outcome = run_tool(*arguments, '--ann-file', ann_file)
    warning = (
        '1 of 5 images have no entry in the annotation file and are not judged, such as '
        f"'{photos}/{ALL[2]}'; an entry without an input: 'else\\\\where.jpg'"
    )
    assert outcome.err.splitlines()[1:3] == [
        'annotations: 4 of 5 images are judged',
        f'warning: {warning}',
    ]
    lines = outcome.out.splitlines()
    assert lines[5:8] == [
        'judged    4 of 5 images',
        f'warning   {warning}',
        'left out  1 persons of images without an entry: in predictions.jsonl only',
    ]
    found = evaluation(tmp_path / 'out')
    assert (found['images'], found['judged'], found['persons_without_entry']) == (5, 4, 1)
    assert found['input_without_entry'] == f'{photos}/{ALL[2]}'
    assert found['entry_without_input'] == 'else\\where.jpg'
    coco = json.loads((tmp_path / 'out' / 'predictions.coco.json').read_text())
    assert [result['image_id'] for result in coco] == [0, 1, 3, 4]
    assert f'AP        {pycocotools_ap(ann_file, tmp_path / "out"):.4f}' in lines
    quiet = run_tool(*arguments, '--ann-file', ann_file, '--quiet', '--overwrite')
    assert (quiet.out, quiet.err) == ('', '')


def test_where_nothing_can_be_judged_the_reason_is_reported(photos, models, tmp_path):
    ann_file = annotated(tmp_path, annotations=[{**person(0, 0), 'iscrowd': 1}])
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.whole_image]
    outcome = run_tool(*arguments, '--ann-file', ann_file)
    assert outcome.status == 0
    reason = 'all 1 persons with labelled keypoints are crowds'
    assert f'warning: there will be no AP: {reason}' in outcome.err.splitlines()
    assert outcome.out.splitlines()[-1] == f'AP        not judged: {reason}'
    assert evaluation(tmp_path / 'out')['not_judged'] == reason
    assert json.loads((tmp_path / 'out' / 'run.json').read_text())['metrics']['AP'] is None


def test_box_entries_that_are_left_out_are_counted(photos, models, tmp_path):
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


EARLY = {
    'unsound annotations': ('crops', ['--ann-file', '{in}/twice.json'], 'annotations[1]: id: '),
    'annotations of other images': ('crops', ['--ann-file', '{in}/others.json'], 'by file_name'),
    'boxes without a category of persons': ('crops', ['--bboxes', '{in}/yolo.json'], 'used: 1'),
    'boxes of another form': ('crops', ['--bboxes', '{in}/object.json'], 'expected a list of'),
    'boxes of other images': ('crops', ['--bboxes', '{in}/list.json'], 'names none of the images'),
    'boxes for a one-stage model': ('one_stage', ['--bboxes', '{in}/list.json'], 'only top-down'),
}


@pytest.mark.parametrize(('kind', 'arguments', 'message'), EARLY.values(), ids=EARLY)
def test_files_are_rejected_before_the_model_is_built(
    photos, models, files, tmp_path, monkeypatch, kind, arguments, message
):
    def build(*_: Any, **__: Any) -> None:
        raise AssertionError('built')

    monkeypatch.setattr(mmpose_batch, 'build_inferencer', build)
    arguments = [argument.replace('{in}', str(files)) for argument in arguments]
    outcome = run_tool(photos, '--out-dir', tmp_path / 'out', *getattr(models, kind), *arguments)
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    assert message in line


# ------------------------------------------------------------------------- what it prints


def test_the_summary(run):
    outcome, out_dir = run
    counts = json.loads((out_dir / 'run.json').read_text())['counts']
    lines = outcome.out.splitlines()
    assert lines[:3] == ['images    5', f'persons   {counts["persons"]}', 'failures  0']
    assert re.fullmatch(r'speed     \d+\.\d\d images/s in 0:\d\d', lines[3])
    stages = ('waiting', 'detection', 'network', 'writing', 'other')
    assert re.fullmatch('time      ' + ', '.join(rf'{stage} \d+ %' for stage in stages), lines[4])
    shares = [int(share) for share in re.findall(r'(\d+) %', lines[4])]
    assert 97 <= sum(shares) <= 103


def test_a_log_gets_plain_lines(photos, models, tmp_path, monkeypatch):
    monkeypatch.setattr('mmpose_batch.progress.LOG_INTERVAL', 0.0)
    outcome = run_tool(photos, '--out-dir', tmp_path, *models.one_stage)
    first, *lines = outcome.err.splitlines()
    expected = f'5 images, {models.one_stage[1]} on cpu; threads: 1 for the networks, '
    assert re.fullmatch(re.escape(expected) + r'\d to read and prepare', first)
    assert len(lines) == 5
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(rf'{number}/5 images, \d+\.\d images/s, 0:\d\d left', line)


def test_quiet_prints_nothing(photos, models, tmp_path, monkeypatch):
    monkeypatch.setattr('mmpose_batch.progress.LOG_INTERVAL', 0.0)
    outcome = run_tool(photos, '--out-dir', tmp_path, *models.one_stage, '--quiet')
    assert (outcome.status, outcome.out, outcome.err) == (0, '', '')


# ----------------------------------------------------------------------------- how it ends


def process(*arguments: object, python: Sequence[str] = ()) -> subprocess.CompletedProcess:
    """The real thing, seconds of imports included."""
    command = [sys.executable, *python, TOOLS / 'batch_infer.py', *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_a_quiet_process_prints_nothing_and_ends_with_its_status(models, tmp_path):
    write_photos(tmp_path / 'in', 2)
    (tmp_path / 'in' / 'zero.jpg').touch()
    # What has most to say: a detector, drawings, a failure.
    ended = process(
        *(tmp_path / 'in', '--out-dir', tmp_path / 'out', *models.top_down),
        *('--save-vis', '--quiet'),
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, '', '')


ANSWERS = {
    'help': (['--help'], 0, 'Exit status: 0 all images succeeded, 1 could not run, 2 wrong'),
    'a wrong option': (
        ['x', '--out-dir', 'y', '--colour', 'red'],
        2,
        'error: unrecognized arguments: --colour red',
    ),
}


@pytest.mark.parametrize(('arguments', 'status', 'text'), ANSWERS.values(), ids=ANSWERS)
def test_help_and_wrong_options_answer_before_anything_is_imported(arguments, status, text):
    shown = process(*arguments, python=['-X', 'importtime'])
    lines = shown.stderr.splitlines()
    imports = [line.split('|')[-1].strip() for line in lines if line.startswith('import time:')]
    assert 'argparse' in imports
    slow = {'cv2', 'mmcv', 'mmdet', 'mmengine', 'mmpose', 'numpy', 'torch', 'torchvision'}
    assert not slow & {name.split('.')[0] for name in imports}
    said = '\n'.join(line for line in lines if not line.startswith('import time:'))
    assert shown.returncode == status
    assert text in (said if status else shown.stdout)
    assert status or said == ''


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    """Photos of which all after the first are no images."""
    folder = tmp_path / 'failing'
    for path in write_photos(folder, 6)[1:]:
        path.write_bytes(b'no image')
    return folder


def test_a_run_that_fails_too_often_ends_early_and_can_be_resumed(failing, models, tmp_path):
    out_dir = tmp_path / 'out'
    arguments = [failing, '--out-dir', out_dir, *models.one_stage]
    outcome = run_tool(*arguments, '--max-errors', '2')
    assert outcome.status == 4
    line = outcome.err.splitlines()[-1]
    assert line.startswith(
        'batch_infer: ended after 4 of 6 images, since 3 failed and --max-errors is 2; see '
        'failures.jsonl, and resume with --resume and a larger --max-errors, or none'
    )
    assert '; the last: 000000000003.jpg: expected an image' in line
    assert len(read_lines(out_dir / 'predictions.jsonl')) == 4
    assert len(read_lines(out_dir / 'failures.jsonl')) == 3
    assert json.loads((out_dir / 'run.json').read_text())['status'] == 'stopped'
    before = files_below(out_dir)
    for more in ([], ['--dry-run']):
        again = run_tool(*arguments, '--resume', '--max-errors', '2', *more)
        assert again.status == 4  # at once: what has failed stays so
        assert 'ended after 4 of 6 images, since 3 failed' in again.err.splitlines()[-1]
        assert files_below(out_dir) == before
    assert run_tool(*arguments, '--resume', '--max-errors', '5').status == 3
    assert len(read_lines(out_dir / 'failures.jsonl')) == 5
    whole = run_tool(*arguments[:2], tmp_path / 'whole', *models.one_stage)
    assert whole.status == 3
    assert files_below(out_dir) == files_below(tmp_path / 'whole')


def test_as_many_failures_as_are_allowed_end_no_run(failing, models, tmp_path):
    out_dir = tmp_path / 'out'
    limit = ['--max-errors', '5']
    assert run_tool(failing, '--out-dir', out_dir, *models.one_stage, *limit).status == 3


def test_a_limit_that_the_last_image_exceeds_costs_nothing_of_the_run(failing, models, tmp_path):
    arguments = [failing, '--out-dir', tmp_path / 'out', *models.one_stage, '--format', 'coco']
    for more in ([], ['--resume']):
        outcome = run_tool(*arguments, '--max-errors', '4', *more)
        assert outcome.status == 4
        assert outcome.err.splitlines()[-1] == (
            'batch_infer: all 6 images done, of which 5 failed and --max-errors is 4; '
            'see failures.jsonl'
        )
        assert 'failures  5, see failures.jsonl' in outcome.out.splitlines()
        assert (tmp_path / 'out' / 'predictions.coco.json').exists()
        assert json.loads((tmp_path / 'out' / 'run.json').read_text())['status'] == 'finished'


def test_a_limit_takes_the_first_images(photos, models, tmp_path):
    arguments = [photos, '--out-dir', tmp_path, *models.one_stage]
    outcome = run_tool(*arguments, '--limit', '2')
    assert [record['image'] for record in read_lines(tmp_path / 'predictions.jsonl')] == ALL[:2]
    assert 'limit: the first 2 of 5 images' in outcome.err
    outcome = run_tool(*arguments, '--limit', '5', '--overwrite')
    assert len(read_lines(tmp_path / 'predictions.jsonl')) == 5
    assert 'limit' not in outcome.err


@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
def test_a_dry_run_reports_what_would_be_and_builds_nothing(
    kind, photos, models, tmp_path, monkeypatch
):
    def build(*_: Any, **__: Any) -> None:
        raise AssertionError('something is built')

    monkeypatch.setattr('mmpose_batch.factory.INFERENCERS.build', build)
    formats = ['--format', 'json', 'coco', '--save-vis', '--limit', '4', '--dry-run']
    arguments = getattr(models, kind)
    outcome = run_tool(photos, '--out-dir', tmp_path / 'out', *arguments, *formats)
    assert outcome.status == 0
    lines = dict(line.split(maxsplit=1) for line in outcome.out.splitlines())
    assert lines['inputs'].startswith('4 images, ')
    assert lines['inputs'].endswith(f'from {photos}/{ALL[0]} to {photos}/{ALL[3]}')
    assert models.file({'one_stage': 'rtmo', 'top_down': 'rtmpose'}[kind] + '.py') in lines['pose']
    assert ('detector' in lines) == (kind == 'top_down')
    assert lines['runs'].startswith('on   cpu, engine torch, fp32')
    assert lines['limit:'] == 'the first 4 of 5 images'
    for name in ('predictions.coco.json', 'predictions/ (4 files)', 'vis/ (4 drawings)'):
        assert name in lines['writes']
    assert not (tmp_path / 'out').exists()


def test_a_dry_run_knows_the_run_in_the_folder_and_weights_that_are_not_there(
    photos, models, tmp_path
):
    arguments = [photos, '--out-dir', tmp_path, *models.one_stage, '--limit', '3']
    assert run_tool(*arguments).status == 0
    before = files_below(tmp_path)
    for option, what in (('--overwrite', 'replaces'), ('--resume', 'resumes')):
        outcome = run_tool(*arguments, option, '--dry-run')
        assert f'\n{what}  ' in outcome.out
        assert f'the run in {tmp_path}, which has 3 images' in outcome.out
    outcome = run_tool(*arguments, '--overwrite', '--dry-run', '--pose2d-weights', 'none.pth')
    assert (outcome.status, outcome.out) == (1, '')
    assert 'weights: no such file: none.pth' in outcome.err
    assert files_below(tmp_path) == before


@dataclass(frozen=True)
class Refused:
    """Arguments of a run that is refused before its model is built, and the end of the line."""

    arguments: list[str]
    message: str
    kind: str = 'one_stage'


PIPELINE = 'test_dataloader.dataset.pipeline'
REFUSED = {
    'a threshold': Refused(['--bbox-thr', 'nan'], 'bbox_thr: expected a number, found nan'),
    'a device': Refused(['--device', 'abacus'], 'device: abacus cannot be used'),
    'a device that is not there': Refused(['--device', 'cuda:99'], 'device: cuda:99 cannot be'),
    'an engine file': Refused(
        ['--engine', 'onnxruntime', '--engine-file', '{in}/no.onnx'], 'engine_file: {in}/no.onnx: '
    ),
    'a label': Refused(['--det-cat-ids', '99'], 'det_cat_ids: expected labels', 'top_down'),
    'a pose config for a detector': Refused(
        ['--det-model', '{rtmpose}'], 'det_model: expected the config of an MMDetection', 'top_down'
    ),
    'a type of model': Refused(
        ['--cfg-options', 'model.head.type=NoHead'], 'no NoHead in the mmpose::model registry'
    ),
    'a type of transform': Refused(
        ['--cfg-options', f'{PIPELINE}.1.type=NoStep'],
        'no NoStep in the mmpose::transform',
    ),
    'a pipeline that loads nothing': Refused(
        ['--pose2d', '{in}/no_loader.py'], 'expected LoadImage as the first step'
    ),
    'a pipeline that packs nothing': Refused(
        ['--pose2d', '{in}/no_packing.py'], 'expected a last step in'
    ),
    'flip test': Refused(['--flip-test'], 'flip_test: this model never tests mirrored images'),
    'rect': Refused(['--rect'], 'rect: neither the model nor its detector pads', 'whole_image'),
    'a folder that cannot be made': Refused(
        ['--out-dir', '/proc/nowhere'], 'cannot write below /proc/nowhere: '
    ),
}


@pytest.mark.parametrize('dry', [True, False], ids=['dry', 'real'])
@pytest.mark.parametrize('refused', REFUSED.values(), ids=REFUSED)
def test_a_run_is_refused_before_anything_is_built_and_so_is_its_dry_run(
    photos, models, tmp_path, monkeypatch, refused, dry
):
    def build(*_: Any, **__: Any) -> None:
        raise AssertionError('something is built')

    monkeypatch.setattr('mmpose_batch.factory.INFERENCERS.build', build)
    for name, steps in {'no_loader': 'steps[1:]', 'no_packing': 'steps[:-1]'}.items():
        text = Path(models.file('rtmo.py')).read_text()
        text += 'steps = test_dataloader["dataset"]["pipeline"]\n'
        text += f'test_dataloader["dataset"]["pipeline"] = {steps}\n'
        (tmp_path / f'{name}.py').write_text(text)
    places = {'{in}': str(tmp_path), '{rtmpose}': models.file('rtmpose.py')}
    given, message = refused.arguments, refused.message
    for place, path in places.items():
        given = [argument.replace(place, path) for argument in given]
        message = message.replace(place, path)
    arguments = [photos, '--out-dir', tmp_path / 'out', *getattr(models, refused.kind)]
    outcome = run_tool(*arguments, *given, *(['--dry-run'] * dry))
    assert outcome.status in (1, 2)
    assert outcome.out == ''
    (line,) = outcome.err.splitlines()
    assert message in line
    assert not (tmp_path / 'out').exists()


NOT_RESUMED = {
    'fewer inputs': (['--limit', '2'], 'changed since the earlier run: inputs ('),
    'thresholds': (
        ['--bbox-thr', '0.5', '--nms-thr', '0.3'],
        'changed since the earlier run: bbox_thr, nms_thr, select_thr (',
    ),
    'another batch size': (['--batch-size', '3'], 'changed since the earlier run: batch_size ('),
    'another precision': (['--precision', 'bf16'], 'changed since the earlier run: precision ('),
    'drawings': (['--save-vis'], 'changed since the earlier run: drawings ('),
    'JSON': (['--format', 'json'], 'changed since the earlier run: json ('),
}


@pytest.mark.parametrize(('more', 'message'), NOT_RESUMED.values(), ids=NOT_RESUMED)
def test_a_dry_run_tells_that_a_run_cannot_be_resumed(
    photos, models, done, tmp_path, more, message
):
    shutil.copytree(done, tmp_path / 'out')
    before = files_below(tmp_path / 'out')
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.one_stage, '--resume', '--dry-run']
    outcome = run_tool(*arguments, *more)
    assert (outcome.status, outcome.out) == (1, '')
    assert f'batch_infer: cannot resume: {message}' in outcome.err
    assert files_below(tmp_path / 'out') == before


@pytest.fixture(scope='module')
def done(
    photos: Path, models: Models, one_thread: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of a run, to be copied."""
    out_dir = tmp_path_factory.mktemp('done') / 'out'
    assert run_tool(photos, '--out-dir', out_dir, *models.one_stage).status == 0
    return out_dir


def test_a_dry_run_says_what_it_does_not_compare(photos, models, done, tmp_path):
    shutil.copytree(done, tmp_path / 'out')
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.one_stage, '--resume', '--dry-run']
    outcome = run_tool(*arguments)
    assert outcome.status == 0, outcome.err
    assert 'not compared before the models are built: configs, weights' in outcome.out
    (tmp_path / 'out' / 'run.json').unlink()
    outcome = run_tool(*arguments)
    assert (outcome.status, outcome.out) == (1, '')
    assert 'cannot resume: run.json, which identifies the earlier run, is' in outcome.err


SAME = {
    'one stage': ('one_stage', ['--rect', '--bbox-thr', '0.2', '--format', 'json']),
    'top down': ('top_down', ['--save-vis', '--radius', '5', '--no-person', 'whole_image']),
    'batch sizes': ('top_down', ['--batch-size', '2', '--det-batch-size', '3']),
    'precision': ('whole_image', ['--precision', 'auto', '--num-threads', '1']),
}


@pytest.mark.parametrize(('kind', 'more'), SAME.values(), ids=SAME)
def test_a_run_with_the_same_arguments_can_be_resumed_and_so_says_its_dry_run(
    photos, models, tmp_path, kind, more
):
    arguments = [photos, '--out-dir', tmp_path / 'out', *getattr(models, kind), *more]
    assert run_tool(*arguments, '--limit', '1').status == 0
    outcome = run_tool(*arguments, '--limit', '1', '--resume', '--dry-run')
    assert outcome.status == 0, outcome.err
    assert re.search(r'^resumes   the run in .*, which has 1 image; ', outcome.out, re.MULTILINE)


@pytest.mark.parametrize('content', [b'hello\n', b''], ids=['text', 'nothing'])
def test_a_dry_run_reads_the_weights_that_are_there(photos, models, tmp_path, content):
    (tmp_path / 'text.pth').write_bytes(content)
    for kind, option in (('one_stage', '--pose2d-weights'), ('top_down', '--det-weights')):
        arguments = [photos, '--out-dir', tmp_path / 'out', *getattr(models, kind), '--dry-run']
        outcome = run_tool(*arguments, option, tmp_path / 'text.pth')
        assert (outcome.status, outcome.out) == (1, '')
        assert 'text.pth is no readable PyTorch checkpoint' in outcome.err


def test_a_dry_run_tells_how_annotations_judge_as_the_run_does(photos, models, tmp_path):
    images = [{'id': number, 'file_name': name} for number, name in enumerate(ALL[:3])]
    crowd = {**person(0, 0), 'iscrowd': 1}
    ann_file = annotated(tmp_path, images=images, annotations=[crowd])
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.whole_image, '--ann-file', ann_file]
    dry, real = run_tool(*arguments, '--dry-run'), run_tool(*arguments)
    notes = dry.out.splitlines()[-3:]
    assert real.err.splitlines()[1:4] == notes
    assert notes[0] == 'annotations: 3 of 5 images are judged'
    assert notes[1].startswith('warning: 2 of 5 images have no entry in the annotation file')
    assert notes[2].startswith('warning: there will be no AP: all 1 persons')


def test_a_dry_run_assigns_boxes_of_several_categories(photos, models, tmp_path):
    categories = [{'id': number, 'name': name} for number, name in ((3, 'cat'), (8, 'dog'))]
    people = [{**person(n, n), 'category_id': 3 if n % 2 else 8} for n in range(5)]
    ann_file = annotated(tmp_path, annotations=people, categories=categories)
    box = {'image_id': 0, 'bbox': [10, 20, 50, 60], 'score': 0.9}
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.crops, '--ann-file', ann_file]
    for category, status in ((3, 0), (1, 2)):
        (tmp_path / 'boxes.json').write_text(json.dumps([{**box, 'category_id': category}]))
        dry = run_tool(*arguments, '--bboxes', tmp_path / 'boxes.json', '--dry-run')
        assert dry.status == status
        assert ('boxes: 1 of 1' in dry.out) == (status == 0)
    (tmp_path / 'boxes.json').write_text(json.dumps([{**box, 'category_id': 3}]))
    arguments += ['--bboxes', tmp_path / 'boxes.json']
    assert run_tool(*arguments).status == 0
    assert run_tool(*arguments, '--resume', '--dry-run').status == 0


def test_a_dry_run_is_lines_whatever_images_are_called(models, tmp_path, monkeypatch):
    folder = os.fsencode(tmp_path) + b'/caf\xe9\nbar'
    os.mkdir(folder)
    data = cv2.imencode('.jpg', picture(40, 30))[1].tobytes()
    Path(os.fsdecode(folder + b'/a.jpg')).write_bytes(data)
    shown = io.TextIOWrapper(io.BytesIO(), 'ascii', errors='strict')
    monkeypatch.setattr(sys, 'stdout', shown)
    arguments = [os.fsdecode(folder), '--out-dir', tmp_path / 'out', *models.one_stage]
    tool = load_tool('batch_infer')
    assert tool.main([str(argument) for argument in (*arguments, '--dry-run')]) == 0
    lines = shown.buffer.getvalue().decode().splitlines()
    assert [line.split()[0] for line in lines] == ['inputs', 'pose', 'runs', 'writes']
    assert lines[0].startswith('inputs    1 image, ')
    assert lines[0].endswith('/caf??bar/a.jpg')


def test_a_full_disk_for_what_is_printed_is_one_line(photos, models, tmp_path, monkeypatch):
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.one_stage]
    for more in (['--dry-run'], []):
        with open('/dev/full', 'w') as full:
            monkeypatch.setattr(sys, 'stdout', full)
            errors = io.StringIO()
            monkeypatch.setattr(sys, 'stderr', errors)
            tool = load_tool('batch_infer')
            assert tool.main([str(argument) for argument in (*arguments, *more)]) == 1
        line = 'batch_infer: standard output cannot be written: No space left on device'
        assert errors.getvalue().splitlines()[-1] == line
    assert json.loads((tmp_path / 'out' / 'run.json').read_text())['status'] == 'finished'
    assert not (tmp_path / 'out' / 'error.log').exists()


def test_an_error_that_nothing_foresaw_is_a_line_and_a_log(photos, models, tmp_path, monkeypatch):
    def broken(*_: Any) -> None:
        raise LookupError('what\nis this')

    monkeypatch.setattr('mmpose_batch.writers.coco.write_coco', broken)
    arguments = [photos, '--out-dir', tmp_path, *models.one_stage, '--format', 'coco']
    outcome = run_tool(*arguments)
    log = tmp_path / 'error.log'
    line = f'batch_infer: unexpected LookupError: what (traceback in {log})'
    assert (outcome.status, outcome.err.splitlines()[-1]) == (1, line)
    assert 'in broken' in log.read_text()
    assert len(read_lines(tmp_path / 'predictions.jsonl')) == 5
    assert json.loads((tmp_path / 'run.json').read_text())['status'] == 'stopped'
    monkeypatch.undo()
    assert run_tool(*arguments, '--resume').status == 0
    assert not log.exists()  # it is of no use any more


def test_a_log_of_somebody_else_stays_as_it_is(photos, models, tmp_path, monkeypatch):
    def broken(*_: Any) -> None:
        raise LookupError('what')

    monkeypatch.setattr('mmpose_batch.writers.coco.write_coco', broken)
    (tmp_path / 'error.log').write_text('mine')
    arguments = [photos, '--out-dir', tmp_path, *models.one_stage, '--format', 'coco']
    for more in ([], ['--resume']):  # the second is appended
        outcome = run_tool(*arguments, *more)
        assert f'(traceback in {tmp_path}/error-2.log)' in outcome.err
    assert (tmp_path / 'error-2.log').read_text().count('in broken') == 2
    monkeypatch.undo()
    assert run_tool(*arguments, '--resume').status == 0
    assert (tmp_path / 'error.log').read_text() == 'mine'
    assert not (tmp_path / 'error-2.log').exists()


PARSER = {
    'no images to be taken': (['--limit', '0'], 'expected a number from 1, found 0'),
    'a limit of errors below 0': (['--max-errors', '-1'], 'expected a number from 0, found -1'),
    'no input': (['--out-dir', 'out'], 'the following arguments are required: INPUT'),
    'no folder': (['in'], 'the following arguments are required: --out-dir'),
    'an unknown format': (['--format', 'xml'], "invalid choice: 'xml'"),
    'an unknown precision': (['--precision', 'int4'], "invalid choice: 'int4'"),
    'a word for a number': (['--batch-size', 'x'], 'expected a whole number or auto, found x'),
    'a digit that is no number': (['--limit', '²'], 'expected a number from 1, found ²'),
    'links below folders that are left out': (
        ['--no-recursive', '--follow-links'],
        '--follow-links: leads to folders below, which --no-recursive leaves out',
    ),
    'resume and overwrite': (['--resume', '--overwrite'], 'not allowed with argument'),
}


@pytest.mark.parametrize(('arguments', 'message'), PARSER.values(), ids=PARSER)
def test_arguments_that_cannot_be_read_end_with_status_2(tmp_path, arguments, message):
    if not {'in', '--out-dir'} & set(arguments):
        arguments = ['in', '--out-dir', tmp_path / 'out', *arguments]
    outcome = run_tool(*arguments)
    assert outcome.status == 2
    assert message in outcome.err.splitlines()[-1]


@dataclass(frozen=True)
class Wrong:
    """Arguments after those of a good run, which they replace, and how the tool answers."""

    arguments: list[str]
    message: str
    status: int = 2
    kind: str = 'one_stage'


WRONG = {
    'no such input': Wrong(['{in}/nowhere'], 'inputs: no such file or folder: {in}/nowhere'),
    'a glob of nothing': Wrong(['{in}/*.gif'], 'inputs: no such file or folder: {in}/*.gif'),
    'no such list': Wrong(['@{in}/list'], 'inputs: the list {in}/list cannot be read: No such'),
    'no images': Wrong(['{in}/empty'], 'no images in {in}/empty', 1),
    'an empty list': Wrong(['@{in}/empty.txt'], 'no images in @{in}/empty.txt', 1),
    'batch size below 1': Wrong(
        ['--batch-size', '-1'], 'batch_size: expected a whole number from 1, found -1'
    ),
    'no detector batch': Wrong(
        ['--det-batch-size', '0'],
        'det_batch_size: expected a whole number from 1, found 0',
        kind='top_down',
    ),
    'workers below 0': Wrong(
        ['--num-workers', '-1'], 'num_workers: expected a whole number from 0, found -1'
    ),
    'fp16 on a CPU': Wrong(['--device', 'cpu', '--precision', 'fp16'], 'use bf16 there'),
    'no such config': Wrong(['--pose2d', 'no.py'], 'model: no such config file: no.py'),
    'no such name': Wrong(['--pose2d', 'nobody'], "name of mmpose, found 'nobody' (this package"),
    'a config that is no Python': Wrong(
        ['--pose2d', '{in}/syntax.py'], 'syntax.py cannot be read as a config: SyntaxError'
    ),
    'a config without a model': Wrong(
        ['--pose2d', '{in}/other.py'], 'model: expected a config with a model, found one without'
    ),
    'no weights': Wrong(['--pose2d-weights', ''], 'weights: the config names none; name a file'),
    'a detector without weights': Wrong(
        ['--det-weights', ''], "det_weights: name the detector's checkpoint", kind='top_down'
    ),
    'a detector for a one-stage model': Wrong(
        ['--det-model', 'rtmdet-m', '--det-batch-size', '2'],
        'det_model, det_batch_size: of use to top-down models only',
    ),
    'nobody in a one-stage model': Wrong(
        ['--no-person', 'whole_image'], 'no_person: of use to top-down models only'
    ),
    'a detector of no use': Wrong(
        ['--det-model', 'whole_image', '--det-cat-ids', '3', '--det-batch-size', '9'],
        'det_cat_ids, det_batch_size: of use with a detector only',
        kind='crops',
    ),
    'boxes and categories': Wrong(
        ['--bboxes', '{in}/list.json', '--det-cat-ids', '3'],
        '--bboxes takes the place of a detector',
        kind='crops',
    ),
    'boxes and a detector': Wrong(
        ['--bboxes', '{in}/list.json'], '--bboxes takes the place of a detector', kind='top_down'
    ),
    'a config without its base': Wrong(
        ['--pose2d', '{in}/base.py'], 'base.py cannot be read as a config: FileNotFound'
    ),
    'no key and value': Wrong(
        ['--cfg-options', 'model'], "--cfg-options: expected KEY=VALUE, found 'model'"
    ),
    'a key that the model does not have': Wrong(
        ['--cfg-options', 'model.colour=1'],
        'model: cannot be built from this config: TypeError',
    ),
    'a key below a number': Wrong(
        ['--cfg-options', 'model.test_cfg.nms_thr.x=1'],
        'cfg_options: cannot be merged into the config',
    ),
    'a decoder that nobody knows': Wrong(
        ['--cfg-options', 'test_dataloader.dataset.pipeline.0.imdecode_backend=nope'],
        "the loader cannot decode images with imdecode_backend 'nope'",
    ),
    'no such detector': Wrong(
        ['--det-model', 'no.py'], 'model: no such config file: no.py', kind='crops'
    ),
    'no such detector weights': Wrong(
        ['--det-weights', 'no.pth'], 'weights: no such file: no.pth', 1, 'top_down'
    ),
    'no such device': Wrong(['--device', 'abacus'], 'device: abacus cannot be used: RuntimeError'),
    'no such box file': Wrong(
        ['--bboxes', '{in}/no.json'], '{in}/no.json: cannot be read: No such', kind='crops'
    ),
    'a box file of another form': Wrong(
        ['--bboxes', '{in}/object.json'], '{in}/object.json: expected a list of', kind='crops'
    ),
    'boxes for a one-stage model': Wrong(
        ['--bboxes', '{in}/list.json'], '--bboxes: only top-down models take boxes'
    ),
    'boxes of other images': Wrong(
        ['--bboxes', '{in}/list.json'], 'the box file names none of the images', kind='crops'
    ),
    'boxes of categories from 0': Wrong(
        ['--bboxes', '{in}/yolo.json'],
        '{in}/yolo.json: no entry of 1 is used: 1 not of category_id 1 (category ids '
        'found: 0; persons have 1, as in COCO; YOLO converters count from 0)',
        kind='crops',
    ),
    'boxes and a config that is no Python': Wrong(
        ['--bboxes', '{in}/list.json', '--pose2d', '{in}/syntax.py'],
        'syntax.py cannot be read as a config: SyntaxError',
    ),
    'boxes and no such config': Wrong(
        ['--bboxes', '{in}/list.json', '--pose2d', 'no.py'], 'model: no such config file: no.py'
    ),
    'boxes and no key and value': Wrong(
        ['--bboxes', '{in}/list.json', '--cfg-options', 'model'], "found 'model'", kind='crops'
    ),
    'annotations with equal ids': Wrong(
        ['--ann-file', '{in}/twice.json'],
        '{in}/twice.json: annotations[1]: id: expected a unique value, found 1 as in '
        'annotations[0]',
    ),
    'no such annotations': Wrong(
        ['--ann-file', '{in}/no.json'], '{in}/no.json: cannot be read: No such file'
    ),
    'annotations that are no JSON': Wrong(
        ['--ann-file', '{in}/empty.txt'], '{in}/empty.txt: expected JSON, found'
    ),
    'annotations of another form': Wrong(
        ['--ann-file', '{in}/list.json'], '{in}/list.json: expected COCO annotations'
    ),
    'annotations of other keypoints': Wrong(
        ['--ann-file', '{in}/hands.json'], 'expected 17 keypoints as the model has, found [21]'
    ),
}


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are wrong in some way."""
    folder = tmp_path_factory.mktemp('files')
    (folder / 'empty').mkdir()
    hand = {**person(0, 0), 'keypoints': [1, 2, 2] * 21}
    for name, text in {
        'empty.txt': '',
        'other.py': 'answer = 42',
        'syntax.py': 'model = (',
        'base.py': "_base_ = 'nowhere.py'",
        'object.json': '{}',
        'list.json': '[]',
        'yolo.json': '[{"image_id": 0, "category_id": 0, "bbox": [1, 2, 3, 4], "score": 0.9}]',
    }.items():
        (folder / name).write_text(text)
    annotated(folder, annotations=[hand]).rename(folder / 'hands.json')
    annotated(folder, annotations=[person(0, 0)] * 2).rename(folder / 'twice.json')
    others = [{'id': 0, 'file_name': 'other.jpg'}]
    annotated(folder, images=others, annotations=[]).rename(folder / 'others.json')
    return folder


def test_where_keypoints_are_read_from_is_reported(photos, models, tmp_path):
    content = load_checkpoint(models.file('rtmo.pth'))
    meta = content['meta'].pop('dataset_meta')
    torch.save({**content, 'dataset_meta': meta}, tmp_path / 'top.pth')
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.one_stage, '--limit', '1']
    outcome = run_tool(*arguments, '--pose2d-weights', tmp_path / 'top.pth')
    assert 'top.pth: dataset_meta is read from the top of the file' in outcome.err


@pytest.mark.parametrize('wrong', WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_one_line_and_nothing_is_written(
    photos, models, tmp_path, files, wrong
):
    given = [argument.replace('{in}', str(files)) for argument in wrong.arguments]
    inputs = [photos] if given[0].startswith('--') else []
    outcome = run_tool(
        *inputs, '--out-dir', tmp_path / 'out', *getattr(models, wrong.kind), '--quiet', *given
    )
    assert outcome.status == wrong.status
    assert outcome.out == ''
    (line,) = outcome.err.splitlines()
    assert line.startswith('batch_infer: ')
    assert wrong.message.replace('{in}', str(files)) in line
    assert not (tmp_path / 'out').exists()


def test_what_a_folder_holds_beside_images_is_reported(models, tmp_path):
    write_photos(tmp_path / 'in', 1)
    for name in ('a.nef', 'b.nef', 'notes.txt', '._0.jpg'):
        (tmp_path / 'in' / name).touch()
    outcome = run_tool(tmp_path / 'in', '--out-dir', tmp_path / 'out', *models.one_stage)
    assert outcome.status == 0
    assert 'skipped: 2 .nef' in outcome.err and '1 .txt' in outcome.err
    (tmp_path / 'only').mkdir()
    (tmp_path / 'only' / 'a.nef').touch()
    outcome = run_tool(tmp_path / 'only', '--out-dir', tmp_path / 'none', *models.one_stage)
    assert outcome.status == 1
    assert f'no images in {tmp_path / "only"} (skipped: 1 .nef)' in outcome.err
