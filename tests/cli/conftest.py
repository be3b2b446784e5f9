"""Inputs of the commands."""

from pathlib import Path

import pytest
from support.command import write_tree, write_wrong_files


@pytest.fixture(scope='session')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, and two more in subfolders, to be read only."""
    folder = tmp_path_factory.mktemp('photos')
    write_tree(folder)
    return folder


@pytest.fixture(scope='session')
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are wrong in some way, to be read only."""
    folder = tmp_path_factory.mktemp('files')
    write_wrong_files(folder)
    return folder
