"""Wrong arguments, and messages about inputs and weights."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from support.factories import (
    run_tool,
    write_photos,
)

from mmpose_batch.models.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')


EARLY = {
    'unsound annotations': ('crops', ['--ann-file', '{in}/twice.json'], 'annotations[1]: id: '),
    'annotations of other images': ('crops', ['--ann-file', '{in}/others.json'], 'by file_name'),
    'boxes without a category of persons': ('crops', ['--bboxes', '{in}/yolo.json'], 'used: 1'),
    'boxes of another form': ('crops', ['--bboxes', '{in}/object.json'], 'expected a list of'),
    'boxes of other images': ('crops', ['--bboxes', '{in}/list.json'], 'no entry matches an input'),
    'boxes for a one-stage model': (
        'one_stage',
        ['--bboxes', '{in}/list.json'],
        '--bboxes: only valid for top-down',
    ),
}


@pytest.mark.parametrize(('kind', 'arguments', 'message'), EARLY.values(), ids=EARLY)
def test_files_are_rejected_before_the_model_is_built(
    photos, models, files, tmp_path, monkeypatch, kind, arguments, message
):
    def build(*_: Any, **__: Any) -> None:
        raise AssertionError('built')

    monkeypatch.setattr('mmpose_batch.factory.Plan.build', build)
    arguments = [argument.replace('{in}', str(files)) for argument in arguments]
    outcome = run_tool(photos, '--out-dir', tmp_path / 'out', *getattr(models, kind), *arguments)
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    assert message in line


PARSER = {
    'a limit of 0 images': (['--limit', '0'], 'expected an integer >= 1, found 0'),
    'a limit of errors below 0': (['--max-errors', '-1'], 'expected an integer >= 0, found -1'),
    'no input': (['--out-dir', 'out'], 'the following arguments are required: INPUT'),
    'no folder': (['in'], 'the following arguments are required: --out-dir'),
    'an unknown precision': (['--precision', 'int4'], "invalid choice: 'int4'"),
    'a word for a number': (['--batch-size', 'x'], 'expected an integer or auto, found x'),
    'a digit that is not a number': (['--limit', '²'], 'expected an integer >= 1, found ²'),
    'links without subfolders': (
        ['--no-recursive', '--follow-links'],
        '--follow-links cannot be combined with --no-recursive',
    ),
    'resume and overwrite': (['--resume', '--overwrite'], 'not allowed with argument'),
}


@pytest.mark.parametrize(('arguments', 'message'), PARSER.values(), ids=PARSER)
def test_arguments_that_cannot_be_parsed_end_with_status_2(tmp_path, arguments, message):
    if not {'in', '--out-dir'} & set(arguments):
        arguments = ['in', '--out-dir', tmp_path / 'out', *arguments]
    outcome = run_tool(*arguments)
    assert outcome.status == 2
    assert message in outcome.err.splitlines()[-1]


@dataclass(frozen=True)
class Wrong:
    """Arguments that replace those of a valid run, and the expected error."""

    arguments: list[str]
    message: str
    status: int = 2
    kind: str = 'one_stage'


WRONG = {
    'an unknown format': Wrong(
        ['--format', 'xml'], 'formats: expected some of jsonl, json, parquet, coco, found xml'
    ),
    'no such input': Wrong(['{in}/nowhere'], 'inputs: no such file or folder: {in}/nowhere'),
    'a pattern without matches': Wrong(
        ['{in}/*.gif'], 'inputs: no such file or folder: {in}/*.gif'
    ),
    'no such list': Wrong(['@{in}/list'], 'inputs: the list {in}/list cannot be read: No such'),
    'no images': Wrong(['{in}/empty'], 'no images or videos in {in}/empty', 1),
    'an empty list': Wrong(['@{in}/empty.txt'], 'no images or videos in @{in}/empty.txt', 1),
    'batch size below 1': Wrong(
        ['--batch-size', '-1'], 'batch_size: expected an integer >= 1, found -1'
    ),
    'no detector batch': Wrong(
        ['--det-batch-size', '0'],
        'det_batch_size: expected an integer >= 1, found 0',
        kind='top_down',
    ),
    'workers below 0': Wrong(
        ['--num-workers', '-1'], 'num_workers: expected an integer >= 0, found -1'
    ),
    'fp16 on a CPU': Wrong(['--device', 'cpu', '--precision', 'fp16'], 'use bf16'),
    'no such config': Wrong(['--pose2d', 'no.py'], 'model: no such config file: no.py'),
    'no such name': Wrong(['--pose2d', 'nobody'], "name of mmpose, found 'nobody' (this package"),
    'a config that is not Python': Wrong(
        ['--pose2d', '{in}/syntax.py'], 'syntax.py cannot be read as a config: SyntaxError'
    ),
    'a config without a model': Wrong(
        ['--pose2d', '{in}/other.py'], 'model: expected a config with a model, found one without'
    ),
    'no weights': Wrong(['--pose2d-weights', ''], 'weights: the config has none; pass a file'),
    'a detector without weights': Wrong(
        ['--det-weights', ''], 'det_weights: pass the checkpoint of the detector', kind='top_down'
    ),
    'a detector for a one-stage model': Wrong(
        ['--det-model', 'rtmdet-m', '--det-batch-size', '2'],
        'det_model, det_batch_size: only valid for top-down models',
    ),
    'no person in a one-stage model': Wrong(
        ['--no-person', 'whole_image'], 'no_person: only valid for top-down models'
    ),
    'options of a detector that is not used': Wrong(
        ['--det-model', 'whole_image', '--det-cat-ids', '3', '--det-batch-size', '9'],
        'det_cat_ids, det_batch_size: only valid with a detector',
        kind='crops',
    ),
    'boxes and categories': Wrong(
        ['--bboxes', '{in}/list.json', '--det-cat-ids', '3'],
        '--bboxes replaces the detector: remove --det-...',
        kind='crops',
    ),
    'boxes and a detector': Wrong(
        ['--bboxes', '{in}/list.json'],
        '--bboxes replaces the detector: remove --det-...',
        kind='top_down',
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
    'an unknown decoder': Wrong(
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
        ['--bboxes', '{in}/list.json'], '--bboxes: only valid for top-down models'
    ),
    'boxes of other images': Wrong(
        ['--bboxes', '{in}/list.json'], 'no entry matches an input', kind='crops'
    ),
    'boxes of categories from 0': Wrong(
        ['--bboxes', '{in}/yolo.json'],
        '{in}/yolo.json: no entry of 1 is used: 1 not of category_id 1 (category ids '
        'found: 0; persons have 1, as in COCO; YOLO converters count from 0)',
        kind='crops',
    ),
    'boxes and a config that is not Python': Wrong(
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
    'annotations that are not JSON': Wrong(
        ['--ann-file', '{in}/empty.txt'], '{in}/empty.txt: expected JSON, found'
    ),
    'annotations of another form': Wrong(
        ['--ann-file', '{in}/list.json'], '{in}/list.json: expected COCO annotations'
    ),
    'annotations of other keypoints': Wrong(
        ['--ann-file', '{in}/hands.json'], 'expected 17 keypoints as the model has, found [21]'
    ),
}


def test_the_source_of_the_keypoints_is_reported(photos, models, tmp_path):
    content = load_checkpoint(models.file('rtmo.pth'))
    meta = content['meta'].pop('dataset_meta')
    torch.save({**content, 'dataset_meta': meta}, tmp_path / 'top.pth')
    arguments = [photos, '--out-dir', tmp_path / 'out', *models.one_stage, '--limit', '1']
    outcome = run_tool(*arguments, '--pose2d-weights', tmp_path / 'top.pth')
    assert 'top.pth: using dataset_meta from the top level of the file' in outcome.err


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


def test_skipped_files_are_reported(models, tmp_path):
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
    assert f'no images or videos in {tmp_path / "only"} (skipped: 1 .nef)' in outcome.err
