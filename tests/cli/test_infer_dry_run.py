"""A dry run reports the run, or the reason why it is rejected, and builds nothing."""

import io
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pytest
from support.command import NAMES, annotated, person
from support.factories import (
    Models,
    files_below,
    load_tool,
    run_tool,
)
from support.tiny import picture

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')


@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
def test_a_dry_run_reports_the_run_and_builds_nothing(kind, photos, models, tmp_path, monkeypatch):
    def build(*_: Any, **__: Any) -> None:
        raise AssertionError('something is built')

    monkeypatch.setattr('mmpose_batch.factory.INFERENCERS.build', build)
    formats = ['--format', 'json', 'coco', '--save-vis', '--limit', '4', '--dry-run']
    arguments = getattr(models, kind)
    outcome = run_tool(photos, '--out-dir', tmp_path / 'out', *arguments, *formats)
    assert outcome.status == 0
    lines = dict(line.split(maxsplit=1) for line in outcome.out.splitlines())
    assert lines['inputs'].startswith('4 images, ')
    assert lines['inputs'].endswith(f'from {photos}/{NAMES[0]} to {photos}/{NAMES[3]}')
    assert models.file({'one_stage': 'rtmo', 'top_down': 'rtmpose'}[kind] + '.py') in lines['pose']
    assert ('detector' in lines) == (kind == 'top_down')
    assert lines['runs'].startswith('on   cpu, engine torch, fp32')
    assert lines['limit:'] == 'the first 4 of 5 inputs'
    for name in ('predictions.coco.json', 'predictions/ (4 files)', 'vis/ (4 drawings)'):
        assert name in lines['writes']
    assert not (tmp_path / 'out').exists()


def test_a_dry_run_reports_an_earlier_run_and_missing_weights(photos, models, tmp_path):
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
class Rejected:
    """Arguments of a run that is rejected before its model is built, and the end of the line."""

    arguments: list[str]
    message: str
    kind: str = 'one_stage'


PIPELINE = 'test_dataloader.dataset.pipeline'
REJECTED = {
    'a threshold': Rejected(['--bbox-thr', 'nan'], 'bbox_thr: expected a number, found nan'),
    'a device': Rejected(['--device', 'abacus'], 'device: abacus cannot be used'),
    'a device that is not there': Rejected(['--device', 'cuda:99'], 'device: cuda:99 cannot be'),
    'an engine file': Rejected(
        ['--engine', 'onnxruntime', '--engine-file', '{in}/no.onnx'], 'engine_file: {in}/no.onnx: '
    ),
    'a label': Rejected(['--det-cat-ids', '99'], 'det_cat_ids: expected integers', 'top_down'),
    'a pose config for a detector': Rejected(
        ['--det-model', '{rtmpose}'], 'det_model: expected the config of an MMDetection', 'top_down'
    ),
    'a type of model': Rejected(
        ['--cfg-options', 'model.head.type=NoHead'], 'no NoHead in the mmpose::model registry'
    ),
    'a type of transform': Rejected(
        ['--cfg-options', f'{PIPELINE}.1.type=NoStep'],
        'no NoStep in the mmpose::transform',
    ),
    'a pipeline that loads nothing': Rejected(
        ['--pose2d', '{in}/no_loader.py'], 'expected LoadImage as the first step'
    ),
    'a pipeline that packs nothing': Rejected(
        ['--pose2d', '{in}/no_packing.py'], 'expected a last step in'
    ),
    'flip test': Rejected(['--flip-test'], 'flip_test: this model has no flip test'),
    'rect': Rejected(['--rect'], 'rect: has no effect, neither the model nor its', 'whole_image'),
    'a folder that cannot be made': Rejected(
        ['--out-dir', '/proc/nowhere'], 'cannot write below /proc/nowhere: '
    ),
}


@pytest.mark.parametrize('dry', [True, False], ids=['dry', 'real'])
@pytest.mark.parametrize('rejected', REJECTED.values(), ids=REJECTED)
def test_a_run_and_its_dry_run_are_rejected_before_anything_is_built(
    photos, models, tmp_path, monkeypatch, rejected, dry
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
    given, message = rejected.arguments, rejected.message
    for place, path in places.items():
        given = [argument.replace(place, path) for argument in given]
        message = message.replace(place, path)
    arguments = [photos, '--out-dir', tmp_path / 'out', *getattr(models, rejected.kind)]
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
def test_a_dry_run_reports_that_a_run_cannot_be_resumed(
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
    """Output folder of a run, to be copied."""
    out_dir = tmp_path_factory.mktemp('done') / 'out'
    assert run_tool(photos, '--out-dir', out_dir, *models.one_stage).status == 0
    return out_dir


def test_a_dry_run_reports_what_it_does_not_compare(photos, models, done, tmp_path):
    shutil.copytree(done, tmp_path / 'out')
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.one_stage, '--resume', '--dry-run']
    outcome = run_tool(*arguments)
    assert outcome.status == 0, outcome.err
    assert 'the same; configs, weights' in outcome.out
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
def test_a_dry_run_reports_that_a_run_can_be_resumed(photos, models, tmp_path, kind, more):
    arguments = [photos, '--out-dir', tmp_path / 'out', *getattr(models, kind), *more]
    assert run_tool(*arguments, '--limit', '1').status == 0
    outcome = run_tool(*arguments, '--limit', '1', '--resume', '--dry-run')
    assert outcome.status == 0, outcome.err
    assert re.search(r'^resumes   the run in .*, which has 1 image; ', outcome.out, re.MULTILINE)


@pytest.mark.parametrize('content', [b'hello\n', b''], ids=['text', 'nothing'])
def test_a_dry_run_reads_local_weights(photos, models, tmp_path, content):
    (tmp_path / 'text.pth').write_bytes(content)
    for kind, option in (('one_stage', '--pose2d-weights'), ('top_down', '--det-weights')):
        arguments = [photos, '--out-dir', tmp_path / 'out', *getattr(models, kind), '--dry-run']
        outcome = run_tool(*arguments, option, tmp_path / 'text.pth')
        assert (outcome.status, outcome.out) == (1, '')
        assert 'text.pth is not a readable PyTorch checkpoint' in outcome.err


def test_a_dry_run_reports_the_evaluation_as_the_run_does(photos, models, tmp_path):
    images = [{'id': number, 'file_name': name} for number, name in enumerate(NAMES[:3])]
    crowd = {**person(0, 0), 'iscrowd': 1}
    ann_file = annotated(tmp_path, images=images, annotations=[crowd])
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.whole_image, '--ann-file', ann_file]
    dry, real = run_tool(*arguments, '--dry-run'), run_tool(*arguments)
    notes = dry.out.splitlines()[-3:]
    assert real.err.splitlines()[1:4] == notes
    assert notes[0] == 'annotations: 3 of 5 images are evaluated'
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


def test_a_dry_run_prints_one_line_per_fact_for_any_file_name(models, tmp_path, monkeypatch):
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
