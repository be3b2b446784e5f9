"""Fixtures and settings that all tests share."""

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Two test workers share the cores: one thread per network is faster than threads that compete.
# This must be set before PyTorch is imported, and is inherited by processes that tests start.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# Processes that tests start would not always get the same token, and Ray writes one into the home
# folder.
os.environ.setdefault('RAY_AUTH_MODE', 'disabled')

import pytest
import torch
from mmengine.registry import DefaultScope
from support.factories import Models, build_models, busy_threads, our_threads, write_photos
from support.pretended_cuda import PretendedCuda, pretended_cuda
from support.tiny import TinyModel, build_tiny, one_stage_config, top_down_config

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.factory import Plan

HERE = Path(__file__).parent
# Growth of the process, in bytes, after which unused memory is freed.
GROWTH = 300 * 2**20

# It would override $XDG_CACHE_HOME, which tests set to have separate caches.
os.environ.pop('MMPOSE_BATCH_CACHE', None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--record-upstream',
        action='store_true',
        help='run upstream MMPose and record its outputs again (tests/support/recorded.py)',
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder, and run the tests of a module on one worker.

    Then a module builds its models once. Tests that share something else, or nothing, have a
    separate group: see ``xdist_group`` in the modules.
    """
    for item in items:
        folder, *below = item.path.relative_to(HERE).parts
        if below:
            item.add_marker(folder)
        if item.get_closest_marker('xdist_group') is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def resident() -> int:
    """Resident memory of this process in bytes; 0 if the system is not Linux."""
    path = Path('/proc/self/statm')
    return int(path.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') if path.exists() else 0


@pytest.fixture(autouse=True, scope='module')
def small_chunks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use chunks of the size ``CHUNK`` of the test module, if it has one, instead of 256."""
    size = getattr(request.module, 'CHUNK', None)
    with pytest.MonkeyPatch.context() as patch:
        if size is not None:
            patch.setattr('mmpose_batch.sources.items.CHUNK', size)
        yield


@pytest.fixture(autouse=True, scope='session')
def memory() -> dict[str, int]:
    return {'before': resident()}


@pytest.fixture(autouse=True)
def free_memory(memory: dict[str, int]) -> Iterator[None]:
    """Free unused memory once the process has grown by ``GROWTH``.

    TorchScript's exporter keeps two copies of every network's weights until its class registry is
    cleared, models are part of reference cycles, and glibc does not return freed memory.
    """
    yield
    if resident() - memory['before'] < GROWTH:
        return
    gc.collect()
    torch._C._jit_clear_class_registry()  # no test uses its classes
    if hasattr(ctypes.CDLL(None), 'malloc_trim'):
        ctypes.CDLL(None).malloc_trim(0)
    memory['before'] = resident()


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder of real checkpoints and photos next to the repository; without it, skip."""
    folder = HERE.parents[1] / 'shared'
    if not (folder / 'models').is_dir():
        pytest.skip('needs the checkpoints and photos of ../shared')
    return folder


@pytest.fixture(scope='session')
def two_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two photos, which tests must not change."""
    folder = tmp_path_factory.mktemp('photos')
    write_photos(folder, 2)
    return folder


@pytest.fixture(scope='module')
def one_thread() -> Iterator[None]:
    """Run torch on one thread: networks this small get slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Check after a test that no thread of the package is left."""
    yield
    assert our_threads() == []


@pytest.fixture
def no_thread_is_busy() -> Iterator[None]:
    """Check after a test that no thread is busy; the idle pools of inferencers may stay."""
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
    """Files with configs and weights of tiny models, for the tools."""
    return build_models(tmp_path_factory.mktemp('models'))


@pytest.fixture(scope='session')
def built_inferencers() -> dict[str, BatchPose2DInferencer]:
    """Inferencers that :func:`shared_inferencers` has built, by their arguments."""
    return {}


@pytest.fixture(scope='module')
def shared_inferencers(built_inferencers: dict[str, BatchPose2DInferencer]) -> Iterator[None]:
    """Commands with equal plans share one inferencer, which no run changes."""
    build = Plan.build

    def build_once(plan: Plan) -> BatchPose2DInferencer:
        if plan.settings.get('engine') not in (
            None,
            'torch',
        ):  # their first run differs from later ones
            return build(plan)
        key = repr((plan.cfg.to_dict(), plan.weights, plan.kind, sorted(plan.settings.items())))
        if key not in built_inferencers:
            built_inferencers[key] = build(plan)
        return built_inferencers[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, 'build', build_once)
        yield


@pytest.fixture(scope='module')
def cuda() -> Iterator[PretendedCuda]:
    """The pretended CUDA device, for all tests of a module."""
    with pretended_cuda() as device:
        yield device


@pytest.fixture
def mmpose_scope() -> Iterator[None]:
    """Look up names in the registries of MMPose, even if other packages set another scope."""
    with DefaultScope.overwrite_default_scope('mmpose'):
        yield
