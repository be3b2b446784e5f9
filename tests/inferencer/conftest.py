"""Inferencers of one-stage and top-down models, ours and upstream's, and files of pictures."""

from pathlib import Path

import pytest
from mmpose.apis.inferencers import Pose2DInferencer
from support.inferencing import PICTURES
from support.tiny import TinyModel, save

from mmpose_batch import BatchPose2DInferencer


@pytest.fixture(scope='session')
def ours(one_stage: TinyModel, top_down: TinyModel) -> dict[str, BatchPose2DInferencer]:
    """One inferencer of each kind, which most tests share: calls do not change it."""
    return {
        'one_stage': one_stage.ours(batch_size=3),
        'top_down': top_down.ours(batch_size=4, det_batch_size=2),
    }


@pytest.fixture(scope='session')
def plain(ours: dict[str, BatchPose2DInferencer]) -> dict[str, list[dict]]:
    """Results of each kind for the pictures."""
    return {kind: list(inferencer(PICTURES)) for kind, inferencer in ours.items()}


@pytest.fixture(scope='session')
def upstream_inferencers(one_stage: TinyModel, top_down: TinyModel) -> dict[str, Pose2DInferencer]:
    """Upstream's inferencers with the same weights."""
    return {'one_stage': one_stage.upstream(), 'top_down': top_down.upstream()}


@pytest.fixture
def upstream(upstream_inferencers: dict[str, Pose2DInferencer]) -> dict[str, Pose2DInferencer]:
    """Upstream's inferencers with their skeletons reset, which openpose's skeleton changes."""
    for inferencer in upstream_inferencers.values():
        inferencer.visualizer.set_dataset_meta(inferencer.model.dataset_meta)
    return upstream_inferencers


@pytest.fixture(scope='session')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures in lossless files; two of them have the same name."""
    folder = tmp_path_factory.mktemp('pictures')
    names = ('a.png', 'b.png', 'x/c.png', 'x/d.png', 'y/c.png', 'y/e.png', 'y/f.png')
    for name, image in zip(names, PICTURES, strict=True):
        save(folder / name, image)
    return folder
