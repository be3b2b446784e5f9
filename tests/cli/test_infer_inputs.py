"""The files that `infer` reads: folders, patterns, lists, links, and output folders."""

import json
import os
import shutil
from pathlib import Path

import cv2
import pytest
from support.command import NAMES
from support.factories import Models, files_below, read_lines, run_tool, write_photos
from support.tiny import picture, save

from mmpose_batch.writers.jsonl import JsonLinesFile

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')


def images(out_dir: Path) -> list[str]:
    """Names of the images with records in a run."""
    return [record['image'] for record in read_lines(out_dir / 'predictions.jsonl')]


PHOTOS = ['000000000000.jpg', '000000000001.jpg']


@pytest.fixture(scope='module')
def drawn_once(models: Models, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two photos with the output folder of a run, ``one``, in it."""
    folder = tmp_path_factory.mktemp('drawn')
    write_photos(folder, 2)
    outcome = run_tool(folder, '--out-dir', folder / 'one', *models.one_stage, '--save-vis')
    assert outcome.status == 0
    assert 'drawing' not in outcome.err
    return folder


@pytest.fixture
def drawn(drawn_once: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(drawn_once, tmp_path / 'in')


@pytest.mark.parametrize('text', ['{}', '{}/**/*.jpg', '../in', 'link', '.'])
def test_drawings_of_another_run_are_not_inputs(drawn, models, tmp_path, monkeypatch, text):
    monkeypatch.chdir(drawn)
    link = tmp_path / 'link'
    link.symlink_to('in')
    text = str(link) if text == 'link' else text.format(drawn)
    outcome = run_tool(text, '--out-dir', 'two', *models.one_stage, '--save-vis')
    assert outcome.status == 0
    assert images(drawn / 'two') == PHOTOS
    assert '2 drawings of earlier runs' in outcome.err


def test_photos_in_an_output_folder_are_inputs(drawn, models):
    save(drawn / 'one' / 'new.jpg', picture(60, 40, 1))
    save(drawn / 'one' / 'vis' / 'new.jpg', picture(60, 40, 2))
    assert run_tool(drawn, '--out-dir', drawn / 'two', *models.one_stage).status == 0
    assert images(drawn / 'two') == [*PHOTOS, 'one/new.jpg', 'one/vis/new.jpg']


def test_a_run_into_its_input_folder_reads_the_photos_in_vis_and_resumes(models, tmp_path):
    photos = [path.name for path in write_photos(tmp_path, 2)]
    save(tmp_path / 'vis' / 'mine.jpg', picture(60, 40, 1))
    arguments = [tmp_path, '--out-dir', tmp_path, *models.one_stage, '--save-vis']
    assert run_tool(*arguments).status == 0
    assert images(tmp_path) == [*photos, 'vis/mine.jpg']
    assert (tmp_path / 'vis' / 'vis' / 'mine.jpg').exists()
    outcome = run_tool(*arguments, '--resume')
    assert outcome.status == 0
    assert 'images    3 (3 of them by an earlier run)' in outcome.out
    assert '3 drawings of earlier runs' in outcome.err


def test_a_folder_with_only_drawings_is_reported_as_such(drawn, models, tmp_path):
    outcome = run_tool(drawn / 'one', '--out-dir', tmp_path / 'out', *models.one_stage)
    assert outcome.status == 1
    assert f'no images or videos in {drawn / "one"} (skipped: ' in outcome.err
    assert '2 drawings of earlier runs)' in outcome.err


def test_linked_folders_are_read_if_the_option_is_set(models, tmp_path):
    write_photos(tmp_path / 'in', 1)
    write_photos(tmp_path / 'elsewhere', 2)
    os.symlink('../elsewhere', tmp_path / 'in' / 'more')
    os.symlink('..', tmp_path / 'elsewhere' / 'up')
    arguments = [tmp_path / 'in', '--out-dir', tmp_path / 'out', *models.one_stage]
    outcome = run_tool(*arguments)
    assert images(tmp_path / 'out') == PHOTOS[:1]
    assert '1 linked folder' in outcome.err
    outcome = run_tool(*arguments, '--follow-links', '--overwrite')
    assert images(tmp_path / 'out') == [PHOTOS[0], *(f'more/{name}' for name in PHOTOS)]
    assert 'linked folder' not in outcome.err


def test_files_named_by_options_are_not_reported_as_skipped(models, tmp_path):
    write_photos(tmp_path, 2)
    names = ['config.py', 'weights.pth', 'boxes.json']
    shutil.copy(models.file('rtmpose.py'), tmp_path / names[0])
    shutil.copy(models.file('rtmpose.pth'), tmp_path / names[1])
    box = {'image_id': 0, 'category_id': 1, 'bbox': [10, 20, 50, 60], 'score': 0.9}
    (tmp_path / names[2]).write_text(json.dumps([box]))
    (tmp_path / 'list.txt').write_text(f'{tmp_path}\n')
    (tmp_path / 'notes.md').touch()
    config, weights, boxes = (tmp_path / name for name in names)
    outcome = run_tool(
        *(f'@{tmp_path}/list.txt', '--out-dir', tmp_path / 'out', '--pose2d', config),
        *('--pose2d-weights', weights, '--bboxes', boxes),
    )
    assert outcome.status == 0
    assert 'skipped: 1 .md\n' in outcome.err


# ------------------------------------------------------------ what a run does not replace


@pytest.mark.parametrize(
    ('there', 'options', 'message'),
    [
        ('vis/000000000001.jpg', ['--save-vis'], 'vis/000000000001.jpg would be replaced'),
        ('predictions/vis/a.jpg.json', ['--format', 'json'], 'predictions/vis/a.jpg.json would'),
        ('run.json', [], 'run.json would be replaced'),
        ('predictions.jsonl', ['--overwrite'], 'predictions.jsonl would be replaced'),
    ],
)
def test_a_file_that_no_run_wrote_is_never_replaced(models, tmp_path, there, options, message):
    write_photos(tmp_path, 2)
    save(tmp_path / 'vis' / 'a.jpg', picture(60, 40, 1))
    path = tmp_path / there
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((tmp_path / PHOTOS[0]).read_bytes())
    before = files_below(tmp_path)
    outcome = run_tool(tmp_path, '--out-dir', tmp_path, *models.one_stage, *options)
    assert outcome.status == 1
    assert f'batch_infer: {tmp_path}/{message}' in outcome.err
    assert files_below(tmp_path) == before


def test_replacing_a_run_keeps_photos_that_it_did_not_write(models, tmp_path):
    write_photos(tmp_path, 1)
    save(tmp_path / 'vis' / PHOTOS[0], picture(60, 40, 1))
    before = files_below(tmp_path)
    arguments = [tmp_path, '--out-dir', tmp_path, *models.one_stage]
    assert run_tool(*arguments).status == 0
    assert run_tool(*arguments, '--overwrite').status == 0
    after = files_below(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert images(tmp_path) == [PHOTOS[0], f'vis/{PHOTOS[0]}']


@pytest.mark.parametrize('end', ['resume', 'overwrite', 'first'])
def test_a_drawing_of_a_killed_run_without_a_record_is_replaced(models, tmp_path, monkeypatch, end):
    write_photos(tmp_path, 3)
    arguments = [tmp_path, '--out-dir', tmp_path, *models.one_stage, '--save-vis']
    append, taken = JsonLinesFile.append, []

    def killed(self: JsonLinesFile, record: dict) -> None:
        taken.append(record)
        if len(taken) > (0 if end == 'first' else 1):
            raise KeyboardInterrupt
        append(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(JsonLinesFile, 'append', killed)
        assert run_tool(*arguments).status == 130
    drawn = len(list((tmp_path / 'vis').iterdir()))
    assert drawn == len(read_lines(tmp_path / 'predictions.jsonl')) + 1
    assert run_tool(*arguments, *([] if end == 'first' else [f'--{end}'])).status == 0
    assert images(tmp_path) == [*PHOTOS, '000000000002.jpg']


def names_of(models: Models, folder: Path, *inputs: object) -> list[str]:
    """Names of the images in the records of a run."""
    outcome = run_tool(*inputs, '--out-dir', folder / 'out', *models.whole_image)
    assert outcome.status == 0
    return [record['image'] for record in read_lines(folder / 'out' / 'predictions.jsonl')]


INPUTS = {
    'a file': (['b/same.png'], ['same.png']),
    'files': (['b/same.png', 'a/same.jpg'], ['b/same.png', 'a/same.jpg']),
    'a glob': (['*2.jpg', '*/same.*'], [NAMES[2], 'a/same.jpg', 'b/same.png']),
    'a folder and a file of it': (['a', 'a/same.jpg'], ['same.jpg']),
    'folders': (['b', 'a'], ['b/same.png', 'a/same.jpg']),
    'not the folders below': (['.', '--no-recursive'], NAMES[:3]),
}


@pytest.mark.parametrize(('inputs', 'expected'), INPUTS.values(), ids=INPUTS)
def test_inputs(photos, models, tmp_path, monkeypatch, inputs, expected):
    monkeypatch.chdir(photos)
    assert names_of(models, tmp_path, *inputs) == expected


def test_a_list_of_inputs(photos, models, tmp_path):
    (tmp_path / 'list.txt').write_text(f'{photos}/b/same.png\n# no image\n\n{photos}/{NAMES[1]}\n')
    listed = names_of(models, tmp_path, f'@{tmp_path}/list.txt', photos / NAMES[0])
    assert listed == ['b/same.png', NAMES[1], NAMES[0]]


def test_a_list_of_names_that_are_not_utf8(models, tmp_path):
    name = os.fsencode(tmp_path) + b'/caf\xe9.jpg'
    data = cv2.imencode('.jpg', picture(40, 30))[1].tobytes()
    Path(os.fsdecode(name)).write_bytes(data)
    (tmp_path / 'list.txt').write_bytes(b'\xef\xbb\xbf' + name + b'\r\n')  # as Windows writes
    assert names_of(models, tmp_path, f'@{tmp_path}/list.txt') == ['caf\\udce9.jpg']


def test_a_file_given_by_two_paths_is_one_input(photos, models, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    assert names_of(models, tmp_path, NAMES[0], photos / NAMES[0], f'a/../{NAMES[0]}') == [NAMES[0]]


def test_drawings_of_an_earlier_run_are_not_inputs(models, tmp_path):
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
        zip(NAMES, [1, 0, 0, 0, 1], strict=True)
    )
    assert found[NAMES[0]][0]['bbox'] == [10, 20, 60, 80]
    assert found['b/same.png'][0]['bbox_score'] == 0.8
