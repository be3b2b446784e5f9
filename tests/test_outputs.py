"""Output folders: files that a run wrote, and files that a run must not replace."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmpose_batch import outputs
from mmpose_batch.errors import OutputError
from mmpose_batch.outputs import (
    EarlierRuns,
    check_folder,
    check_places,
    check_targets,
    paths_of,
    read_info,
    remove_run,
    written,
)
from mmpose_batch.writers.base import WriterSpec
from mmpose_batch.writers.drawing import drawing_name
from mmpose_batch.writers.registry import specs

JOURNAL, PREDICTIONS, DRAWINGS, COCO = (specs()[name] for name in ('jsonl', 'json', 'vis', 'coco'))
BOTH = (PREDICTIONS, DRAWINGS)
VERSIONS = {'mmpose_batch': '0.1.0', 'python': '3.11'}


def write_run(
    folder: Path,
    images: Sequence[str] = (),
    writers: Sequence[WriterSpec] = (DRAWINGS,),
    **info: Any,
) -> Path:
    """Write the files of a run, except those of its images."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = {
        'versions': VERSIONS,
        'drawings': {'radius': 3} if DRAWINGS in writers else None,
        'json': PREDICTIONS in writers,
    }
    (folder / 'run.json').write_text(json.dumps({'identity': identity, **info}))
    records = [json.dumps({'image': name, 'instances': []}) + '\n' for name in images]
    (folder / 'predictions.jsonl').write_text(''.join(r.replace('": ', '":') for r in records))
    return folder


# --------------------------------------------------------------------- recognition of runs

OURS = {'identity': {'versions': VERSIONS}}
DEEP = '[' * 100_000 + ']' * 100_000


@pytest.mark.parametrize(
    ('content', 'ours'),
    [
        pytest.param(json.dumps(OURS), True, id='by its versions'),
        pytest.param('{"written_by": "mmpose_batch 0.2.0"}', True, id='by its program'),
        pytest.param('{"written_by": "mmpose_batcher 1"}', False, id='a program of like name'),
        pytest.param('{"written_by": ["mmpose_batch"]}', False, id='a program that is not text'),
        pytest.param('{"identity": {"versions": {"python": "3"}}}', False, id='other versions'),
        pytest.param('{"identity": {"versions": "mmpose_batch"}}', False, id='versions of text'),
        pytest.param('{"identity": ["versions"]}', False, id='an identity of another kind'),
        pytest.param('{}', False, id='nothing'),
        pytest.param('["mmpose_batch"]', False, id='a list'),
        pytest.param(json.dumps(OURS)[:-5], False, id='cut off'),
        pytest.param('', False, id='empty'),
        pytest.param(b'\xff\xfe\x00', False, id='no text'),
        pytest.param(DEEP, False, id='too deep'),
    ],
)
def test_a_run_is_recognised_by_its_run_json(tmp_path, content, ours):
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / 'run.json').write_bytes(data)
    assert (read_info(str(tmp_path)) is not None) == ours


def test_a_run_json_that_is_too_large_or_special_is_ignored(tmp_path, monkeypatch):
    assert read_info(str(tmp_path)) is None
    (tmp_path / 'run.json').write_text(json.dumps(OURS))
    assert read_info(str(tmp_path)) == OURS
    monkeypatch.setattr(outputs, '_MAX_INFO', 10)
    assert read_info(str(tmp_path)) is None
    (tmp_path / 'run.json').unlink()
    (tmp_path / 'run.json').mkdir()
    assert read_info(str(tmp_path)) is None
    os.mkfifo(tmp_path / 'pipe')  # reading it would block
    (tmp_path / 'run.json').rmdir()
    (tmp_path / 'run.json').symlink_to('pipe')
    assert read_info(str(tmp_path)) is None


# ------------------------------------------------------------------------ files of a run


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('a.jpg', 'a.jpg'),
        ('a/b.JPG', 'a/b.JPG'),
        ('a.gif', 'a.gif.png'),
        ('a', 'a.png'),
        ('a.heic', 'a.heic.png'),
    ],
)
def test_a_drawing_has_a_format_that_can_be_written(name, expected):
    assert drawing_name(name) == expected
    assert list(paths_of(BOTH, [name])) == [f'predictions/{name}.json', f'vis/{expected}']


@pytest.mark.parametrize('name', ['../a.jpg', 'a/../../b.jpg', '../a.gif'])
def test_nothing_of_a_run_lies_outside_its_folder(name):
    assert list(paths_of([DRAWINGS], [name, 'a.jpg'])) == ['vis/a.jpg']


def written_for_images(folder: Path) -> list[str]:
    """Files that a run wrote, except those derived from all images."""
    return [path for path in written(str(folder)) if path not in COCO.files]


@pytest.mark.parametrize(
    ('writers', 'expected'),
    [
        ([DRAWINGS], ['vis/a.gif.png']),
        ([PREDICTIONS], ['predictions/a.gif.json']),
        ([PREDICTIONS, DRAWINGS], ['predictions/a.gif.json', 'vis/a.gif.png']),
        ([], []),
    ],
)
def test_a_run_wrote_only_files_of_its_formats(tmp_path, writers, expected):
    write_run(tmp_path, ['a.gif'], writers)
    # An early version may have written COCO results without listing them.
    assert list(written(str(tmp_path))) == ['predictions.coco.json', *expected]
    for derived in ([], ['coco']):
        write_run(tmp_path, ['a.gif'], writers, derived=derived)
        assert list(written(str(tmp_path))) == [*COCO.files[: len(derived)], *expected]


def test_files_of_images_without_a_record_yet_are_known(tmp_path):
    run = write_run(tmp_path, ['a.jpg', 'b.jpg'], pending=['b.jpg', 'c.jpg', 3])
    assert written_for_images(run) == ['vis/a.jpg', 'vis/b.jpg', 'vis/c.jpg']


@pytest.mark.parametrize(
    'name', ['a "quoted" name.jpg', 'back\\slash.jpg', 'two\nlines.jpg', 'ü.jpg']
)
def test_names_are_escaped_as_in_records(tmp_path, name):
    assert written_for_images(write_run(tmp_path, [name])) == [f'vis/{name}']


def test_an_incomplete_line_of_a_killed_run_names_its_image(tmp_path):
    write_run(tmp_path)
    (tmp_path / 'predictions.jsonl').write_bytes(
        b'{"image":"a.jpg","instances":[]}\n{"other":1}\n\xff\n{"image":"b.jpg","inst'
    )
    assert written_for_images(tmp_path) == ['vis/a.jpg', 'vis/b.jpg']


def test_without_records_nothing_is_known_to_be_written(tmp_path):
    write_run(tmp_path).joinpath('predictions.jsonl').unlink()
    assert written_for_images(tmp_path) == []


def test_records_of_another_program_are_ignored(tmp_path):
    write_run(tmp_path, ['a.jpg']).joinpath('run.json').write_text('{}')
    assert list(written(str(tmp_path))) == []


@pytest.mark.parametrize(
    ('path', 'below'),
    [
        pytest.param('out/vis', ['vis'], id='itself'),
        pytest.param('out/vis/sub', ['vis/sub'], id='below'),
        pytest.param('out/../out/vis/', ['vis'], id='in a roundabout way'),
        pytest.param('link', ['vis/sub'], id='by a link'),
        pytest.param('link/..', ['vis'], id='above a link'),
        pytest.param('out', [], id='above'),
        pytest.param('vis', [], id='of no run'),
    ],
)
def test_a_folder_is_known_to_be_of_a_run_by_its_real_path(tmp_path, monkeypatch, path, below):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / 'out', ['sub/a.jpg'])
    (tmp_path / 'out' / 'vis' / 'sub').mkdir(parents=True)
    (tmp_path / 'vis').mkdir()
    (tmp_path / 'link').symlink_to('out/vis/sub')
    assert list(EarlierRuns().around(path)) == [(str(tmp_path / 'out'), name) for name in below]


def test_the_records_of_a_run_are_read_once(tmp_path):
    runs = EarlierRuns()
    write_run(tmp_path, ['a.jpg'])
    assert runs.drawn(str(tmp_path)) == {'vis/a.jpg'}
    (tmp_path / 'predictions.jsonl').unlink()
    assert runs.drawn(str(tmp_path)) == {'vis/a.jpg'}


# ---------------------------------------------------------- files that are not replaced


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b'x')


def rejection(out_dir: Path, names: Sequence[str], writers: Sequence[WriterSpec] = BOTH) -> str:
    """Why a run over images with these names is rejected; empty if it is not."""
    try:
        check_targets(str(out_dir), names, [JOURNAL, *writers])
    except OutputError as error:
        return str(error).removeprefix(f'{out_dir}/')
    return ''


@pytest.mark.parametrize(
    ('there', 'writers', 'named'),
    [
        pytest.param(['vis/a.jpg'], BOTH, 'vis/a.jpg would be replaced', id='a photo in vis'),
        pytest.param(['vis/b.gif.png'], BOTH, 'vis/b.gif.png would be', id='a converted drawing'),
        pytest.param(['vis/a.jpg'], [PREDICTIONS], '', id='no drawings'),
        pytest.param(['vis/c.jpg', 'vis/b.gif'], BOTH, '', id='other photos in vis'),
        pytest.param(['predictions/a.jpg.json'], BOTH, 'predictions/a.jpg.json would', id='JSON'),
        pytest.param(['predictions/a.jpg.json'], [DRAWINGS], '', id='no JSON'),
        pytest.param(['run.json'], BOTH, 'run.json would be replaced', id='another run.json'),
        pytest.param(['predictions.jsonl'], BOTH, 'predictions.jsonl would be', id='other records'),
        pytest.param(['failures.jsonl'], BOTH, 'failures.jsonl would be', id='other failures'),
        pytest.param(['predictions.coco.json'], BOTH, 'predictions.coco.json would', id='COCO'),
        pytest.param(['a.jpg', 'sub/vis/a.jpg'], BOTH, '', id='photos'),
    ],
)
def test_a_file_that_no_run_wrote_is_not_replaced(tmp_path, there, writers, named):
    touch(tmp_path, *there)
    reason = rejection(tmp_path, ['a.jpg', 'b.gif'], writers)
    assert reason.startswith(named)
    assert bool(reason) == bool(named)


def test_files_of_the_run_in_the_folder_are_replaced(tmp_path):
    write_run(tmp_path, ['a.jpg'], BOTH, pending=['b.jpg'])
    touch(tmp_path, *paths_of(BOTH, ['a.jpg', 'b.jpg']), 'vis/c.jpg')
    touch(tmp_path, 'failures.jsonl', 'predictions.coco.json')
    assert rejection(tmp_path, ['a.jpg', 'b.jpg']) == ''
    reason = rejection(tmp_path, ['a.jpg', 'b.jpg', 'c.jpg'])
    assert reason.startswith('vis/c.jpg would be replaced')


def test_a_photo_in_the_folder_of_a_run_without_drawings_is_not_replaced(tmp_path):
    write_run(tmp_path, ['a.jpg'], [])
    touch(tmp_path, 'vis/a.jpg')
    assert rejection(tmp_path, ['a.jpg']).startswith('vis/a.jpg would be replaced')


def test_links_to_photos_are_not_replaced(tmp_path):
    touch(tmp_path, 'photos/a.jpg')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'vis').symlink_to('../photos')
    assert rejection(tmp_path / 'out', ['a.jpg']).startswith('vis/a.jpg would be replaced')
    (tmp_path / 'out' / 'vis').unlink()
    (tmp_path / 'out' / 'vis').mkdir()
    (tmp_path / 'out' / 'vis' / 'a.jpg').symlink_to('gone.jpg')
    assert rejection(tmp_path / 'out', ['a.jpg']).startswith('vis/a.jpg would be replaced')


def test_a_run_is_removed_with_all_its_files_and_no_other(tmp_path):
    write_run(tmp_path, ['a.jpg'], BOTH, pending=['b.jpg'])
    touch(tmp_path, *paths_of(BOTH, ['a.jpg', 'b.jpg']), 'predictions.coco.json', 'vis/c.jpg')
    remove_run(str(tmp_path))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*') if path.is_file()}
    assert left == {'run.json', 'predictions.jsonl', 'vis/c.jpg'}
    assert (tmp_path / 'predictions.jsonl').read_bytes() == b''


def test_coco_results_of_a_user_are_not_removed_with_a_run_that_wrote_none(tmp_path):
    write_run(tmp_path, ['a.jpg'], derived=[])
    touch(tmp_path, *COCO.files)
    assert rejection(tmp_path, ['a.jpg']).startswith('predictions.coco.json would be replaced')
    remove_run(str(tmp_path))
    assert (tmp_path / 'predictions.coco.json').exists()


def test_the_incomplete_files_of_a_killed_run_are_removed_with_it(tmp_path):
    write_run(tmp_path, ['old/a.jpg'], BOTH, pending=['new/a.jpg'])
    left = [f'{folder}.partial-0123456789abcdef' for folder in ('', 'vis/new/', 'predictions/new/')]
    touch(tmp_path, *left, 'vis/new/.partial', 'other/.partial-0123456789abcdef')
    remove_run(str(tmp_path))
    assert not any((tmp_path / name).exists() for name in left)
    assert (tmp_path / 'vis/new/.partial').exists()
    assert (tmp_path / 'other/.partial-0123456789abcdef').exists()


def test_inputs_with_the_same_output_name_are_rejected(tmp_path):
    # Name of a file with invalid bytes, which equals that of a file with these bytes escaped.
    assert rejection(tmp_path / 'new', ['a\\udce9.jpg', 'a\\udce9.jpg']).startswith('two inputs')
    assert rejection(tmp_path / 'new', ['a.jpg', 'b.jpg']) == ''


# ------------------------------------------------ wrong files or folders at output paths


@pytest.mark.parametrize(
    ('place', 'writers', 'message'),
    [
        ('predictions.jsonl/', [], 'predictions.jsonl: expected a file, found a folder'),
        ('failures.jsonl/', [], 'failures.jsonl: expected a file, found a folder'),
        ('predictions.coco.json/', [], 'predictions.coco.json: expected a file, found a folder'),
        ('run.json/', [], 'run.json: expected a file, found a folder'),
        ('vis', [DRAWINGS], 'vis: expected a folder, found a file'),
        ('vis/a', [DRAWINGS], 'vis/a: expected a folder, found a file'),
        ('predictions', [PREDICTIONS], 'predictions: expected a folder, found a file'),
        ('predictions/v.mp4.json/', [PREDICTIONS], 'predictions/v.mp4.json: expected a file, '),
        ('vis/c.jpg/', [DRAWINGS], 'vis/c.jpg: expected a file, found a folder'),
        ('vis/c.jpg/', [PREDICTIONS], None),
        ('vis', [PREDICTIONS], None),
        ('predictions', [DRAWINGS], None),
        ('vis/a/', [DRAWINGS], None),
    ],
)
def test_the_error_names_a_wrong_file_or_folder_at_an_output_path(
    tmp_path, place, writers, message
):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if place.endswith('/') else path.touch()
    names = ['a/b.jpg', 'c.jpg', 'v.mp4']
    if message is None:
        check_places(str(tmp_path), names, [JOURNAL, *writers])
        return
    with pytest.raises(OutputError) as raised:
        check_places(str(tmp_path), names, [JOURNAL, *writers])
    assert str(raised.value).startswith(f'{tmp_path}/{message}')


def test_two_drawings_in_one_file_are_rejected():
    names = ['a.gif', 'b.gif', 'a.gif.png']
    check_places('nowhere', names, [JOURNAL, PREDICTIONS])
    with pytest.raises(OutputError, match=r'a.gif.png and a.gif would be drawn into one file'):
        check_places('nowhere', names, [JOURNAL, DRAWINGS])


@pytest.mark.parametrize('below', ['', 'new', 'new/newer'])
def test_checking_a_folder_leaves_no_trace(tmp_path, below):
    (tmp_path / 'mine').touch()
    check_folder(str(tmp_path / below))
    assert [path.name for path in tmp_path.iterdir()] == ['mine']


@pytest.mark.parametrize('below', ['new', 'new/newer', 'file/new', 'n' * 256, 'new/' + 'n' * 256])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, below):
    (tmp_path / 'file').touch()
    folder = f'/proc/{below}' if below.startswith('new') and 'nn' not in below else tmp_path / below
    with pytest.raises(OutputError, match=f'^cannot write below {folder}: '):
        check_folder(str(folder))
    assert [path.name for path in tmp_path.iterdir()] == ['file']
