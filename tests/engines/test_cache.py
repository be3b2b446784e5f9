"""The engine cache: entries are atomic, also with several processes, crashes and full disks."""

import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpose.models import PoseDataPreprocessor
from torch import nn

from mmpose_batch.engines.cache import EngineCache, NoCache, entry_key, network_key, open_cache
from mmpose_batch.errors import EngineError


def build_of(text: str, calls: list[str]) -> object:
    def build(folder: Path) -> None:
        calls.append(text)
        (folder / 'engine.bin').write_text(text)

    return build


def test_an_entry_is_built_once(tmp_path):
    calls: list[str] = []
    for _ in range(2):
        entry = EngineCache(tmp_path).entry('key', build_of('a', calls))
        assert (entry / 'engine.bin').read_text() == 'a'
    EngineCache(tmp_path).entry('other', build_of('b', calls))
    assert calls == ['a', 'b']


@pytest.mark.parametrize(
    'broken',
    [
        pytest.param(lambda file: file.write_text('x'), id='changed'),
        pytest.param(lambda file: file.write_text(''), id='empty'),
        pytest.param(Path.unlink, id='missing'),
        pytest.param(
            lambda file: (file.parent / 'sha256.json').write_text('{'), id='truncated checksums'
        ),
        pytest.param(lambda file: (file.parent / 'sha256.json').unlink(), id='no checksums'),
    ],
)
def test_a_broken_entry_is_built_again(tmp_path, broken):
    calls: list[str] = []
    cache = EngineCache(tmp_path)
    broken(cache.entry('key', build_of('a', calls)) / 'engine.bin')
    entry = cache.entry('key', build_of('b', calls))
    assert (entry / 'engine.bin').read_text() == 'b'
    assert cache.entry('key', build_of('c', calls)) == entry
    assert calls == ['a', 'b']


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail(folder: Path) -> None:
        (folder / 'half').write_text('half')
        raise RuntimeError('no')

    with pytest.raises(RuntimeError, match='no'):
        EngineCache(tmp_path).entry('key', fail)
    assert list(tmp_path.iterdir()) == []


def _die(folder: Path) -> None:
    (folder / 'half').write_text('half')
    os._exit(9)


def test_a_process_that_dies_while_it_builds_leaves_no_entry(tmp_path):
    process = multiprocessing.get_context('fork').Process(
        target=EngineCache(tmp_path).entry, args=('key', _die)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    calls: list[str] = []
    entry = EngineCache(tmp_path).entry('key', build_of('a', calls))
    assert (entry / 'engine.bin').read_text() == 'a'


def test_folders_of_killed_builds_are_removed_after_a_day(tmp_path):
    old, new = tmp_path / '.0123456789abcdef-old', tmp_path / '.0123456789abcdef-new'
    for folder in (old, new):
        folder.mkdir()
        (folder / 'file').write_text('half')
    yesterday = time.time() - 25 * 60 * 60
    os.utime(old, (yesterday, yesterday))
    EngineCache(tmp_path).entry('key', lambda folder: (folder / 'file').write_text('content'))
    assert not old.exists()
    assert new.exists()


def test_if_two_processes_build_one_entry_the_first_wins(tmp_path):
    calls: list[str] = []

    def slower(folder: Path) -> None:
        EngineCache(tmp_path).entry('key', build_of('first', calls))
        (folder / 'engine.bin').write_text('second')

    entry = EngineCache(tmp_path).entry('key', slower)
    assert (entry / 'engine.bin').read_text() == 'first'
    assert [path.name for path in tmp_path.iterdir()] == ['key']


def full_disk(folder: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_entries_are_built_in_a_temporary_folder_if_the_disk_is_full(tmp_path, caplog):
    calls: list[str] = []
    places = []

    def build(folder: Path) -> None:
        places.append(folder.parent)
        build_of('a', calls)(folder)
        if folder.parent == tmp_path:
            full_disk(folder)

    cache = EngineCache(tmp_path)
    for key in ('key', 'key', 'other'):
        assert (cache.entry(key, build) / 'engine.bin').read_text() == 'a'
    assert list(tmp_path.iterdir()) == []
    assert len(calls) == 3  # the failed build, and one build for each key
    assert places.count(tmp_path) == 1
    cache.drop('key')
    cache.entry('key', build)
    assert len(calls) == 4
    assert caplog.text.count(f'engine cache: {tmp_path}: No space left on device; not cached') == 1
    assert cache.bytes_used > 0


def test_if_no_folder_is_writable_the_engine_fails(tmp_path):
    with pytest.raises(EngineError, match=r'cannot be written to .*: No space left on device'):
        EngineCache(tmp_path).entry('key', full_disk)


def test_nested_entries_share_one_temporary_folder(tmp_path, caplog):
    cache = EngineCache(tmp_path)
    calls: list[str] = []

    def full(folder: Path, text: str) -> None:
        build_of(text, calls)(folder)
        if folder.parent == tmp_path:
            full_disk(folder)

    def outer(folder: Path) -> None:
        inner = cache.entry('inner', lambda folder: full(folder, 'inner'))
        assert (inner / 'engine.bin').read_text() == 'inner'
        full(folder, 'outer')

    cache.entry('outer', outer)
    assert calls == ['inner', 'inner', 'outer', 'outer']
    assert caplog.text.count('not cached') == 1


def test_a_measurement_that_cannot_be_cached_is_returned(tmp_path, monkeypatch):
    cache = EngineCache(tmp_path / 'cache')
    monkeypatch.setattr(cache, '_build', lambda entry, build: full_disk(entry))
    monkeypatch.setattr('tempfile.gettempdir', lambda: full_disk(tmp_path))
    assert cache.measurement('key', lambda: ({'a': 1.5}, True)) == {'a': 1.5}
    with pytest.raises(EngineError, match=r'cannot be written to .*cache: No space left'):
        cache.entry('key', full_disk)


def test_an_intact_entry_can_be_dropped(tmp_path):
    calls: list[str] = []
    cache = EngineCache(tmp_path)
    cache.entry('key', build_of('a', calls))
    cache.drop('key')
    assert (cache.entry('key', build_of('b', calls)) / 'engine.bin').read_text() == 'b'


def test_without_a_cache_everything_is_built_and_nothing_remains():
    calls: list[str] = []
    cache = NoCache()
    folder = cache.entry('key', build_of('a', calls)).parent
    NoCache().entry('key', build_of('b', calls))
    assert calls == ['a', 'b']
    del cache
    assert not folder.exists()


def network(width: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


def test_the_key_of_a_network_depends_on_weights_and_layers():
    same = network_key(network())
    assert network_key(network()) == same
    assert network_key(network(seed=1)) != same
    assert network_key(network(width=5)) != same
    moved = network()
    moved[1].running_mean += 1e-3
    assert network_key(moved) != same
    other = nn.Sequential(network()[0], nn.BatchNorm2d(4, eps=1e-3))
    assert network_key(other) != same


def test_the_key_of_a_network_depends_on_preprocessing_and_config():
    def key(config: dict | None = None, **preprocessor: object) -> str:
        model = network()
        settings = {'mean': [1, 2, 3], 'std': [4, 5, 6], **preprocessor}
        model.data_preprocessor = PoseDataPreprocessor(**settings)
        model.cfg = Config({'model': config or {}})
        return network_key(model)

    keys = [
        key(),
        key(mean=[1, 2, 4]),
        key(std=[4, 5, 7]),
        key(bgr_to_rgb=True),
        key({'head': {'pos_enc': True}}),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_a_measurement_is_cached_if_it_is_cacheable(tmp_path):
    cache = EngineCache(tmp_path)
    assert cache.measurement('key', lambda: ({'a': 1.5}, False)) == {'a': 1.5}
    assert cache.recall('key') is None
    assert cache.measurement('key', lambda: ({'a': 2.5}, True)) == {'a': 2.5}
    assert cache.measurement('key', lambda: ({'a': 3.5}, True)) == {'a': 2.5}
    assert cache.recall('key') == {'a': 2.5}
    assert cache.bytes_used == 0


def test_the_key_of_an_entry_depends_on_settings():
    keys = {
        entry_key('a', size=(1, 2)),
        entry_key('a', size=(2, 1)),
        entry_key('b', size=(1, 2)),
        entry_key('a', size=(1, 2), precision='bf16'),
    }
    assert len(keys) == 4
    assert entry_key('a', size=(1, 2)) in keys


@pytest.mark.parametrize('variable', ['XDG_CACHE_HOME', 'MMPOSE_BATCH_CACHE'])
def test_a_cache_that_is_not_writable_is_switched_off(tmp_path, monkeypatch, caplog, variable):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv(variable, str(tmp_path / 'file'))
    assert isinstance(open_cache(wanted=True), NoCache)
    (record,) = caplog.records
    assert record.getMessage().endswith('Not a directory; caching is off')


def test_without_a_home_folder_caching_is_off(monkeypatch, caplog, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', '')
    monkeypatch.setattr(os.path, 'expanduser', str)  # as if HOME were unset and the user unknown
    assert isinstance(open_cache(wanted=True), NoCache)
    assert 'no home folder; set MMPOSE_BATCH_CACHE; caching is off' in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('environment', 'folder'),
    [
        ({'MMPOSE_BATCH_CACHE': '/own', 'XDG_CACHE_HOME': '/base'}, '/own'),
        ({'MMPOSE_BATCH_CACHE': '', 'XDG_CACHE_HOME': '/base'}, '/base/mmpose_batch'),
        (
            {'MMPOSE_BATCH_CACHE': '', 'XDG_CACHE_HOME': '', 'HOME': '/me'},
            '/me/.cache/mmpose_batch',
        ),
        ({'MMPOSE_BATCH_CACHE': '~/own', 'HOME': '/me'}, '/me/own'),
        (
            {'MMPOSE_BATCH_CACHE': '', 'XDG_CACHE_HOME': '~/base', 'HOME': '/me'},
            '/me/base/mmpose_batch',
        ),
        ({'MMPOSE_BATCH_CACHE': 'own/../here'}, '/here'),
    ],
)
def test_the_default_folder_follows_the_environment(monkeypatch, environment, folder):
    monkeypatch.chdir('/')
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert EngineCache().folder == Path(folder)
