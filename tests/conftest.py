"""What the tests share."""

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Two workers share the cores: a network on one thread each is faster than threads that take turns.
# Before PyTorch is imported, and for the processes that tests start.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch
from mmengine.registry import DefaultScope
from support.factories import Models, build_models, busy_threads, our_threads, write_photos
from support.tiny import TinyModel, build_tiny, one_stage_config, top_down_config

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.factory import Plan

HERE = Path(__file__).parent
# More memory than before by this, in bytes, is looked through for what nothing uses any more.
GROWTH = 300 * 2**20

# It comes before $XDG_CACHE_HOME, by which tests have caches of their own.
os.environ.pop('MMPOSE_BATCH_CACHE', None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--record-upstream',
        action='store_true',
        help='run upstream MMPose and record its outputs again (tests/support/recorded.py)',
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder, and keep those of a module on one worker.

    A module builds its models once. Tests that share something else, or nothing, have a group of
    their own: see ``xdist_group`` in the modules.
    """
    for item in items:
        folder, *below = item.path.relative_to(HERE).parts
        if below:
            item.add_marker(folder)
        if item.get_closest_marker('xdist_group') is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def resident() -> int:
    """Memory that this process holds, in bytes; 0 where Linux does not say."""
    path = Path('/proc/self/statm')
    return int(path.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') if path.exists() else 0


@pytest.fixture(autouse=True, scope='session')
def memory() -> dict[str, int]:
    return {'before': resident()}


@pytest.fixture(autouse=True)
def memory_is_given_back(memory: dict[str, int]) -> Iterator[None]:
    """Free what tests left, once it is much.

    TorchScript's exporter keeps two copies of every network's weights until its classes are
    forgotten, models lie in cycles of references, and glibc holds on to what is free.
    """
    yield
    if resident() - memory['before'] < GROWTH:
        return
    gc.collect()
    torch._C._jit_clear_class_registry()  # nothing here uses a class of it
    if hasattr(ctypes.CDLL(None), 'malloc_trim'):
        ctypes.CDLL(None).malloc_trim(0)
    memory['before'] = resident()


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder of real checkpoints and photos beside the repository, or a skip."""
    folder = HERE.parents[1] / 'shared'
    if not (folder / 'models').is_dir():
        pytest.skip('needs the checkpoints and photos of ../shared')
    return folder


@pytest.fixture(scope='session')
def two_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two photos, to be read only."""
    folder = tmp_path_factory.mktemp('photos')
    write_photos(folder, 2)
    return folder


@pytest.fixture(scope='module')
def one_thread() -> Iterator[None]:
    """One torch thread: for networks this small the threads cost more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Whatever a test does to it, the package ends its threads."""
    yield
    assert our_threads() == []


@pytest.fixture
def no_thread_is_busy() -> Iterator[None]:
    """Whatever a test does, no thread is busy; an inferencer's pools wait for the next call."""
    yield
    assert busy_threads() == []


@pytest.fixture(scope='session')
def one_stage(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A tiny RTMO."""
    return build_tiny(one_stage_config(), tmp_path_factory.mktemp('tiny') / 'one_stage.pth')


@pytest.fixture(scope='session')
def top_down(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A tiny RTMPose."""
    return build_tiny(top_down_config(), tmp_path_factory.mktemp('tiny') / 'top_down.pth')


@pytest.fixture(scope='session')
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Configs and weights of tiny models as files, for the tool."""
    return build_models(tmp_path_factory.mktemp('models'))


@pytest.fixture(scope='session')
def built_inferencers() -> dict[str, BatchPose2DInferencer]:
    """Those that :func:`shared_inferencers` has built, by their arguments."""
    return {}


@pytest.fixture(scope='module')
def shared_inferencers(built_inferencers: dict[str, BatchPose2DInferencer]) -> Iterator[None]:
    """Commands build one inferencer for the same plan: no run leaves a trace in it."""
    build = Plan.build

    def build_once(plan: Plan) -> BatchPose2DInferencer:
        if plan.settings.get('engine') not in (None, 'torch'):  # whose first run is another
            return build(plan)
        key = repr((plan.cfg.to_dict(), plan.weights, plan.kind, sorted(plan.settings.items())))
        if key not in built_inferencers:
            built_inferencers[key] = build(plan)
        return built_inferencers[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, 'build', build_once)
        yield


@pytest.fixture
def mmpose_scope() -> Iterator[None]:
    """Names in registries are MMPose's, whatever was built in this process before."""
    with DefaultScope.overwrite_default_scope('mmpose'):
        yield
