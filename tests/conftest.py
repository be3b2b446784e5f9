"""What the tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Before anything of mmpose: it provides torchvision's one name where that is missing.
import mmpose_batch  # noqa: F401

# isort: split
from factories import Models, build_models, our_threads, write_photos
from tiny import TinyModel, build_tiny, one_stage_config, top_down_config

# It comes before $XDG_CACHE_HOME, by which tests have caches of their own.
os.environ.pop('MMPOSE_BATCH_CACHE', None)


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder of real checkpoints and photos beside the repository, or a skip."""
    folder = Path(__file__).resolve().parents[2] / 'shared'
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
