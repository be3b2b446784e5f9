"""The registry of output formats, and the formats that a run selects."""

import subprocess
import sys
from dataclasses import replace

import pytest

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
    assert list(registry.specs()) == ['jsonl', 'json', 'vis', 'coco']
    registry.register(OTHER)
    registry.register(replace(OTHER, name='a', files=(), per_image=True))
    assert list(registry.specs()) == ['jsonl', 'a', 'json', 'vis', 'other', 'coco']


def test_formats_without_their_own_option_are_choices():
    assert registry.names() == ('jsonl', 'json', 'coco')
    registry.register(OTHER)
    assert registry.names() == ('jsonl', 'json', 'other', 'coco')


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
    assert str(raised.value) == "formats: expected some of jsonl, json, coco, found {'made-up'}"


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'name': 'json'}, "format: 'json' is registered already"),
        ({'files': ('failures.jsonl',)}, 'format: other: jsonl writes failures.jsonl already'),
        ({'folder': 'vis'}, 'format: other: vis writes vis already'),
        ({'journal': True}, "format: 'jsonl' is registered already"),
    ],
)
def test_a_format_that_another_is_in_the_way_of_is_rejected(changes, message):
    with pytest.raises(ValueError) as raised:
        registry.register(replace(OTHER, **changes))
    assert str(raised.value) == message
    assert 'other' not in registry.specs()


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, {'json': False, 'drawings': None, 'other': None}),
        ({'formats': ('json', 'coco')}, {'json': True, 'drawings': None, 'other': None}),
        ({'formats': ('other',)}, {'json': False, 'drawings': None, 'other': True}),
    ],
)
def test_formats_written_image_by_image_are_part_of_the_identity(options, expected):
    registry.register(OTHER)
    chosen = RunOptions(out_dir='out', **options)
    found = [spec.identity(chosen) for spec in registry.specs().values()]
    assert {key: value for entries in found for key, value in entries.items()} == expected
    written = [spec.name for spec in registry.specs().values() if spec.was_written(expected)]
    # Derived formats may be written by any run.
    assert written == ['jsonl', *(set(options.get('formats', ())) - {'coco'}), 'coco']


def test_listing_the_formats_imports_no_large_library():
    code = (
        'import sys\nfrom mmpose_batch.writers import registry\nregistry.names()\n'
        'print([name for name in ("cv2", "mmcv", "mmengine", "numpy", "torch") '
        'if name in sys.modules])'
    )
    assert subprocess.check_output([sys.executable, '-c', code], text=True) == '[]\n'
