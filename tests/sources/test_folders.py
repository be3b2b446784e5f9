"""Folders and globs: drawings of earlier runs, linked folders, and skipped files."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmpose_batch.outputs import paths_of
from mmpose_batch.sources import heif
from mmpose_batch.sources.files import list_inputs
from mmpose_batch.sources.folders import Skipped, is_image_name, list_images
from mmpose_batch.sources.inputs import open_source
from mmpose_batch.workers import Marker
from mmpose_batch.writers.registry import specs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def link(path: str, target: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).symlink_to(target)


def write_run(folder: str, images: Sequence[str], **info: Any) -> None:
    """Write an output folder with drawings of images."""
    identity = {'versions': {'mmpose_batch': '0.1.0'}, 'drawings': {'radius': 3}, 'json': True}
    paths = paths_of(specs().values(), images)
    touch(f'{folder}/run.json', *(f'{folder}/{path}' for path in paths))
    Path(folder, 'run.json').write_text(json.dumps({'identity': identity, **info}))
    records = (json.dumps({'image': name}, separators=(',', ':')) + '\n' for name in images)
    Path(folder, 'predictions.jsonl').write_text(''.join(records))


def skipped(inputs: Sequence[str], **options: Any) -> str:
    collector = Skipped()
    assert list_inputs(inputs, skipped=collector, **options) == list_inputs(inputs, **options)
    return str(collector).removeprefix('skipped: ')


# -------------------------------------------------------------- drawings of earlier runs


PHOTOS = ['in/a.jpg', 'in/b.gif', 'in/sub/a.jpg']


@pytest.fixture
def drawn(here: Path) -> Path:
    """A folder of photos that contains the output folder of a run over them."""
    touch(*PHOTOS)
    write_run('in/out', ['a.jpg', 'b.gif', 'sub/a.jpg'])
    link('linked', 'in')
    link('outside', 'in/out')
    return here


@pytest.mark.parametrize(
    'text',
    [
        *('in', 'in/', './in/../in', 'in//', 'linked', 'in/**', 'in/**/*', 'in/**/*.[jg]*'),
        *('i*/**', '**', '{}/in', '{}/in/**/*.*g*', '.'),
    ],
)
def test_drawings_of_earlier_runs_are_not_inputs(drawn, text):
    found = list_inputs([text.format(drawn)])
    assert sorted(map(os.path.realpath, found)) == [str(drawn / path) for path in PHOTOS]


def test_the_python_interface_lists_the_same(drawn):
    assert [frame.data for frame in open_source('in') if not isinstance(frame, Marker)] == PHOTOS
    assert list(list_images('in')) == PHOTOS


def test_drawings_are_counted(drawn):
    # A glob does not match hidden files.
    assert skipped(['in']) == '4 .json, 2 .parquet, 1 .jsonl, 3 drawings of earlier runs'
    assert skipped(['in/**/*.jpg']) == '2 drawings of earlier runs'
    assert skipped(['in', 'in/**', f'{drawn}/in']) == skipped(['in'])
    assert skipped(['in', 'in/out/vis']) == '4 .json, 2 .parquet, 1 .jsonl'


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        pytest.param('in/out/vis/a.jpg', ['a.jpg'], id='file'),
        pytest.param('in/out/vis', ['a.jpg', 'b.gif.png', 'sub/a.jpg'], id='folder'),
        pytest.param('in/out/vis/sub', ['sub/a.jpg'], id='folder below'),
        pytest.param('in/out/vis/*', ['a.jpg', 'b.gif.png'], id='glob'),
        pytest.param('in/*/vis/*.jpg', ['a.jpg'], id='glob that names vis'),
        pytest.param('outside/vis/*.jpg', ['a.jpg'], id='glob through a link'),
    ],
)
def test_named_drawings_are_inputs(drawn, text, expected):
    found = [os.path.realpath(path) for path in list_inputs([text])]
    assert found == [str(drawn / 'in/out/vis' / name) for name in expected]
    Path('list.txt').write_text(text)
    if '*' not in text:
        assert [os.path.realpath(path) for path in list_inputs(['@list.txt'])] == found


def test_a_glob_in_a_folder_of_drawings_matches_them(drawn, monkeypatch):
    monkeypatch.chdir('in/out/vis')
    assert list_inputs(['**/*.jpg']) == ['a.jpg', 'sub/a.jpg']
    assert list_inputs(['.']) == ['a.jpg', 'b.gif.png', 'sub/a.jpg']


def test_photos_next_to_drawings_are_inputs(drawn):
    more = ['in/out/new.jpg', 'in/out/predictions/x.jpg', 'in/out/vis/new.jpg', 'in/out/vis/b.gif']
    touch(*more)
    assert sorted(list_inputs(['in'])) == sorted([*PHOTOS, *more])
    assert sorted(list_inputs(['in/**'])) == sorted([*PHOTOS, *more])


def test_a_run_in_the_input_folder_itself_hides_its_own_drawings_only(here):
    touch('in/a.jpg', 'in/vis/mine.jpg')
    write_run('in', ['a.jpg', 'vis/mine.jpg'])
    # The drawing of vis/mine.jpg is vis/vis/mine.jpg.
    assert list_inputs(['in']) == ['in/a.jpg', 'in/vis/mine.jpg']
    assert list_inputs(['in/**']) == ['in/a.jpg', 'in/vis/mine.jpg']


def test_drawings_without_a_record_are_not_inputs(here):
    touch('in/a.jpg', 'in/b.jpg', 'in/out/vis/b.jpg')
    write_run('in/out', ['a.jpg'], pending=['a.jpg', 'b.jpg'])
    assert list_inputs(['in']) == ['in/a.jpg', 'in/b.jpg']


@pytest.mark.parametrize(
    'change',
    [
        pytest.param(lambda run: (run / 'run.json').write_text('{}'), id='another program'),
        pytest.param(lambda run: (run / 'run.json').unlink(), id='no run.json'),
        pytest.param(lambda run: (run / 'predictions.jsonl').unlink(), id='no records'),
        pytest.param(lambda run: (run / 'vis').rename(run / 'seen'), id='another folder'),
    ],
)
@pytest.mark.parametrize('text', ['in', 'in/**'])
def test_a_folder_without_the_records_of_a_run_is_read(drawn, change, text):
    change(drawn / 'in' / 'out')
    assert len(list_inputs([text])) == 2 * len(PHOTOS)


def test_records_are_read_only_where_a_run_may_be(drawn, monkeypatch):
    opened = []
    isfile = os.path.isfile
    monkeypatch.setattr(os.path, 'isfile', lambda path: opened.append(path) or isfile(path))
    touch('in/more/run.json')
    list_inputs(['in'])
    assert opened == ['in/out/run.json', 'in/out/predictions.jsonl']


# -------------------------------------------------------------------------- linked folders


def test_follow_links_reads_linked_folders(here):
    touch('in/a.jpg', 'in/z/b.jpg', 'other/c.jpg', 'other/sub/d.jpg', 'third/e.jpg')
    link('in/l', '../other')
    link('other/m', '../third')
    expected = ['in/a.jpg', 'in/z/b.jpg', 'in/l/c.jpg', 'in/l/sub/d.jpg', 'in/l/m/e.jpg']
    assert list_inputs(['in'], follow_links=True) == expected
    assert list_inputs(['in']) == expected[:2]
    assert skipped(['in']) == '1 linked folder'
    assert skipped(['in'], follow_links=True) == 'nothing'
    assert list_inputs(['in'], recursive=False, follow_links=True) == ['in/a.jpg']
    assert skipped(['in'], recursive=False, follow_links=True) == '1 linked folder'


@pytest.mark.parametrize(
    'links',
    [
        pytest.param({'in/self': '.'}, id='to itself'),
        pytest.param({'in/sub/up': '..'}, id='to its parent'),
        pytest.param({'in/x': 'sub', 'in/y': 'sub', 'in/.z': 'sub/..'}, id='three'),
        pytest.param({'in/sub/x': '../y', 'in/y': 'sub'}, id='in a circle'),
        pytest.param({f'in/{n}/{m}': f'../{m}' for n in 'pqrst' for m in 'pqrst'}, id='all to all'),
        pytest.param({'in/loop': 'loop'}, id='to a link that is itself'),
    ],
)
@pytest.mark.parametrize('text', ['in', 'in/**/*.jpg', 'in/**/**'])
def test_a_folder_is_read_once_by_its_own_path(here, links, text):
    touch('in/a.jpg', 'in/sub/b.jpg')
    for path, target in links.items():
        link(path, target)
    assert list_inputs([text], follow_links=True) == ['in/a.jpg', 'in/sub/b.jpg']


def test_a_linked_parent_folder_is_read_without_files_read_before(here):
    touch('all/in/a.jpg', 'all/b.jpg')
    link('all/in/up', '..')
    assert list_inputs(['all/in'], follow_links=True) == ['all/in/a.jpg', 'all/in/up/b.jpg']


def test_a_glob_may_match_in_a_linked_folder(here):
    touch('in/sub/b.jpg')
    link('in/l', 'sub')
    assert list_inputs(['in/l/*']) == ['in/l/b.jpg']
    assert list_inputs(['in/**/l/*.jpg']) == ['in/l/b.jpg']
    # The same file, by several paths of its folder.
    assert list_inputs(['in/*/*.jpg']) == ['in/l/b.jpg']
    assert list_inputs(['in/sub/b.jpg', 'in/l/b.jpg', 'in/l']) == ['in/sub/b.jpg']


def test_linked_drawings_of_earlier_runs_are_not_inputs(drawn):
    touch('photos/a.jpg', 'in/out/vis/sub/mine.jpg')
    link('photos/run', '../in/out')
    link('photos/sub', '../in/out/vis/sub')
    expected = ['photos/a.jpg', 'photos/run/vis/sub/mine.jpg']
    assert list_inputs(['photos'], follow_links=True) == expected
    assert list_inputs(['photos/**/*.jpg']) == expected
    Path('photos/run').unlink()
    expected = ['photos/a.jpg', 'photos/sub/mine.jpg']
    assert list_inputs(['photos'], follow_links=True) == expected
    assert list_inputs(['photos/*', 'photos/*/*']) == expected


def test_a_linked_folder_of_sidecars_is_skipped(here):
    touch('in/a.jpg', 'thumbs/a.jpg')
    link('in/@eaDir', '../thumbs')
    assert list_inputs(['in'], follow_links=True) == ['in/a.jpg']
    assert skipped(['in'], follow_links=True) == '1 hidden'


# ---------------------------------------------------------------------------- skipped files


@pytest.mark.parametrize('follow', [False, True])
def test_broken_links_are_counted(here, follow):
    touch('in/a.jpg')
    link('in/part2', '/nowhere/part2')
    link('in/loop', 'loop')
    link('in/b.jpg', 'nowhere.jpg')  # an input that will fail
    assert list_inputs(['in'], follow_links=follow) == ['in/a.jpg', 'in/b.jpg']
    assert skipped(['in'], follow_links=follow) == '2 broken links'
    assert skipped(['in/*']) == '2 broken links'


@pytest.mark.parametrize(
    ('inputs', 'expected'),
    [
        (['in', 'in'], '1 .nef, 1 .txt, 1 .yml, 1 hidden'),
        (['in', './in/', 'in/../in', '{}/in', 'linked'], '1 .nef, 1 .txt, 1 .yml, 1 hidden'),
        (['in', 'in/*'], '1 .nef, 1 .txt, 1 .yml, 1 hidden'),
        (['in/*', 'in/a*'], '1 .nef, 1 .txt, 1 .yml'),
        (['in', 'in/b.nef'], '1 .txt, 1 .yml, 1 hidden'),
        (['in/.c', 'in'], '1 .nef, 1 .txt, 1 .yml'),
        (['@in/list.txt'], '1 .nef, 1 .yml, 1 hidden'),
        (['in', '@in/list.txt'], '1 .nef, 1 .yml, 1 hidden'),
    ],
)
def test_a_file_is_counted_once_and_not_if_it_is_used(here, inputs, expected):
    touch('in/a.jpg', 'in/b.nef', 'in/c.yml', 'in/.c')
    Path('in/list.txt').write_text('in\n')
    link('linked', 'in')
    assert skipped([text.format(here) for text in inputs]) == expected


def test_files_with_another_use_are_not_counted(here):
    touch('in/a.jpg', 'in/ann.json', 'in/config.py', 'in/other.json')
    named = ['./in/ann.json', str(here / 'in/config.py'), 'cpu']
    assert skipped(['in'], named=named) == '1 .json'


@pytest.mark.parametrize('name', ['a\nb.jpg', 'back\\slash.jpg', 'a?.jpg', ' .jpg'])
def test_names_with_odd_characters_are_listed(here, name):
    touch(f'in/{name}')
    assert list_inputs(['in']) == list_inputs(['in/*']) == [f'in/{name}']


@pytest.mark.parametrize('installed', [True, False])
def test_heif_counts_as_an_image_where_it_can_be_decoded(monkeypatch, installed):
    monkeypatch.setattr(
        heif.importlib.util, 'find_spec', lambda name: object() if installed else None
    )
    heif.extra_suffixes.cache_clear()
    try:
        assert is_image_name('a.HEIC') == is_image_name('a.heif') == installed
        assert is_image_name('a.jpg')
    finally:
        monkeypatch.undo()
        heif.extra_suffixes.cache_clear()
