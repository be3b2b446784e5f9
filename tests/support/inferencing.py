"""Pictures for the tests of the inferencer, and comparison of its results."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from torch import nn

from mmpose_batch import BatchPose2DInferencer

from .tiny import picture

# The tiny one-stage model finds none to five persons in these.
SIZES = ((60, 90), (70, 83), (80, 76), (90, 69), (100, 62), (110, 55), (120, 48))
PERSONS = (1, 0, 5, 2, 0, 12, 3)
PICTURES = [
    picture(width, height, seed, persons)
    for seed, ((width, height), persons) in enumerate(zip(SIZES, PERSONS, strict=True))
]
KINDS = ('one_stage', 'top_down')


def names_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


def assert_close(found: Any, expected: Any) -> None:
    """Check that structures and types are equal, and numbers equal within 0.01."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float | np.floating):
        assert found == pytest.approx(expected, abs=0.01)
    else:
        assert found == expected


def assert_close_instances(one: Any, other: Any) -> None:
    mine, theirs = one.pred_instances, other.pred_instances
    assert set(mine.keys()) == set(theirs.keys())
    for key, expected in theirs.items():
        found = mine[key]
        assert (type(found), found.shape, found.dtype) == (
            type(expected),
            expected.shape,
            expected.dtype,
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.01, err_msg=key)
    assert set(one.metainfo_keys()) == set(other.metainfo_keys())
    assert one.ori_shape == other.ori_shape


def persons_of(results: Sequence[dict]) -> list[int]:
    return [len(result['predictions'][0]) for result in results]


def write_video(path: Path, frames: Sequence[np.ndarray]) -> str:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 12, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return str(path)


def wrap_test_step(
    inferencer: BatchPose2DInferencer,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[dict], object],
) -> None:
    """Call a function with every batch before the pose network runs on it."""
    kind = type(inferencer.model)  # the inferencer runs copies of its model
    test_step = kind.test_step

    def wrapped(model: nn.Module, data: dict) -> Any:
        before(data)
        return test_step(model, data)

    monkeypatch.setattr(kind, 'test_step', wrapped)
