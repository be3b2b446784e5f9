"""The registry of output formats, and the formats that a run selects."""

import subprocess
import sys
from dataclasses import replace

import pytest

from mmpose_batch.outputs import INFO_FILE
from mmpose_batch.runs.locking import LOCK_NAME
from mmpose_batch.writers import registry
from mmpose_batch.writers.base import WriterSpec
from mmpose_batch.writers.options import RunOptions

OTHER = WriterSpec(name='other', help='nothing', build=lambda context: None, files=('other.txt',))


@pytest.fixture(autouse=True)
def writers(monkeypatch: pytest.MonkeyPatch) -> dict[str, WriterSpec]:
    """A registry that is restored after the test."""
    monkeypatch.setattr(registry, 'WRITERS', dict(registry.specs()))
    return registry.WRITERS


def test_formats_are_listed_in_the_order_of_their_use():
    assert list(registry.specs()) == ['jsonl', 'json', 'vis', 'parquet', 'coco']
    registry.register(OTHER)
    registry.register(replace(OTHER, name='a', files=(), per_image=True))
    assert list(registry.specs()) == ['jsonl', 'a', 'json', 'vis', 'other', 'parquet', 'coco']


def test_formats_without_their_own_option_are_choices():
    assert registry.names() == ('jsonl', 'json', 'parquet', 'coco')
    registry.register(OTHER)
    assert registry.names() == ('jsonl', 'json', 'other', 'parquet', 'coco')


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, ['jsonl']),
        ({'formats': ()}, ['jsonl']),
        ({'formats': ('coco', 'json')}, ['jsonl', 'json', 'coco']),
        ({'formats': ('jsonl',), 'save_vis': True}, ['jsonl', 'vis']),
    ],
)
def test_a_run_writes_the_requested_formats_and_the_journal(options, expected):
    assert [spec.name for spec in RunOptions(out_dir='out', **options).writers] == expected


def test_an_unknown_format_is_an_error_that_names_the_choices():
    with pytest.raises(ValueError) as raised:
        RunOptions(out_dir='out', formats=('json', 'made-up'))
    expected = 'formats: expected some of jsonl, json, parquet, coco, found made-up'
    assert str(raised.value) == expected


IN_USE = 'is in the identity of every run; choose another'
NOT_BELOW = 'expected a relative path below the output folder, such as tables/persons.csv, found'
OF_THE_RUN = 'is a file of the run itself'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'name': 'json'}, "'json' is registered already"),
        ({'journal': True}, "'jsonl' is registered already"),
        ({'key': 'drawings'}, "other: vis has the key 'drawings' already"),
        ({'name': 'drawings'}, "drawings: vis has the key 'drawings' already"),
        ({'name': 'model'}, f"model: 'model' {IN_USE} name or key"),
        ({'key': 'inputs'}, f"other: 'inputs' {IN_USE} key"),
        ({'files': ('failures.jsonl',)}, 'other: jsonl writes failures.jsonl already'),
        ({'files': ('vis/list.txt',)}, 'other: vis writes vis already'),
        ({'files': ('Vis',)}, 'other: vis writes vis already'),
        ({'folder': 'vis'}, 'other: vis writes vis already'),
        ({'folder': 'vis/mine'}, 'other: vis writes vis already'),
        ({'folder': 'failures.jsonl/mine'}, 'other: jsonl writes failures.jsonl already'),
        ({'files': ('run.json',)}, f'other: run.json {OF_THE_RUN}'),
        ({'files': ('.lock',)}, f'other: .lock {OF_THE_RUN}'),
        ({'files': ('error.log',)}, f'other: error.log {OF_THE_RUN}'),
        ({'files': ('mine/.partial-1',)}, f'other: mine/.partial-1 {OF_THE_RUN}'),
        ({'folder': 'RUN.json'}, f'other: RUN.json {OF_THE_RUN}'),
        ({'files': ('../a.txt',)}, f"other: {NOT_BELOW} '../a.txt'"),
        ({'files': ('/a.txt',)}, f"other: {NOT_BELOW} '/a.txt'"),
        ({'files': ('',)}, f"other: {NOT_BELOW} ''"),
        ({'files': ('a\\b',)}, rf"other: {NOT_BELOW} 'a\\b'"),
        ({'folder': 'mine/'}, f"other: {NOT_BELOW} 'mine/'"),
        ({'folder': '.'}, f"other: {NOT_BELOW} '.'"),
        ({'folder': 'a/../vis'}, f"other: {NOT_BELOW} 'a/../vis'"),
    ],
)
def test_a_format_that_collides_with_another_or_with_the_run_is_rejected(changes, message):
    before = list(registry.specs())
    with pytest.raises(ValueError) as raised:
        registry.register(replace(OTHER, **changes))
    assert str(raised.value) == f'format: {message}'
    assert list(registry.specs()) == before


def test_a_format_may_have_its_own_key_and_folders_like_those_of_others():
    changes = {'key': 'other_model', 'files': ('vis.txt', 'other/list.txt'), 'folder': 'vis2/a'}
    registry.register(replace(OTHER, **changes))
    assert 'other' in registry.specs()


def test_the_files_of_the_run_belong_to_no_format():
    for name in (INFO_FILE, LOCK_NAME):
        with pytest.raises(ValueError, match=OF_THE_RUN):
            registry.register(replace(OTHER, files=(name,)))


def test_a_name_of_this_package_is_rejected_before_its_formats_are_imported():
    code = (
        'from mmpose_batch.writers import registry\n'
        'from mmpose_batch.writers.base import WriterSpec\n'
        'try:\n'
        '    registry.register(WriterSpec(name="json", help="", build=print))\n'
        'except ValueError as error:\n'
        '    print(error)\n'
        'print(list(registry.specs()))'
    )
    names = "['jsonl', 'json', 'vis', 'parquet', 'coco']"
    expected = f"format: 'json' is registered already\n{names}\n"
    assert subprocess.check_output([sys.executable, '-c', code], text=True) == expected


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, {'json': False}),
        ({'formats': ('json', 'coco')}, {'json': True}),
        ({'formats': ('other',)}, {'json': False, 'other': True}),
    ],
)
def test_formats_written_image_by_image_are_part_of_the_identity(options, expected):
    registry.register(OTHER)
    expected = {'drawings': None, 'parquet': None, 'other': None, **expected}
    chosen = RunOptions(out_dir='out', **options)
    found = [spec.identity(chosen) for spec in registry.specs().values()]
    assert {key: value for entries in found for key, value in entries.items()} == expected
    written = [s.name for s in registry.specs().values() if s.was_written({'identity': expected})]
    # Early versions did not store whether they wrote COCO results.
    assert written == ['jsonl', *(set(options.get('formats', ())) - {'coco'}), 'coco']


@pytest.mark.parametrize(
    ('info', 'expected'),
    [
        ({}, ['coco']),
        ({'derived': 3}, ['coco']),
        ({'derived': []}, []),
        ({'derived': ['other', 'gone', 3]}, ['other']),
    ],
)
def test_derived_formats_that_a_run_wrote_are_listed_in_its_info(info, expected):
    registry.register(replace(OTHER, derived=True))
    derived = [spec for spec in registry.specs().values() if spec.derived]
    assert [spec.name for spec in derived if spec.was_written(info)] == expected


def test_listing_the_formats_imports_no_large_library():
    code = (
        'import sys\nfrom mmpose_batch.writers import registry\nregistry.names()\n'
        'print([name for name in ("cv2", "mmcv", "mmengine", "numpy", "pyarrow", "torch") '
        'if name in sys.modules])'
    )
    assert subprocess.check_output([sys.executable, '-c', code], text=True) == '[]\n'
