"""Non-maximum suppression in NumPy: identical to upstream's in PyTorch."""

import numpy as np
import pytest
import torch
from mmpose.evaluation.functional import nms_torch

from mmpose_batch.speedups import suppression

NAN, INF = float('nan'), float('inf')


def random_boxes(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (count, 2))
    sizes = rng.uniform(0, 40, (count, 2))
    return np.hstack((corners, corners + sizes)).astype(np.float32)


def with_values(value: float) -> np.ndarray:
    boxes = random_boxes(30)
    boxes[3:20:4, 2] = value
    return boxes


BOXES = {
    'none': random_boxes(0),
    'one': random_boxes(1),
    'some': random_boxes(20),
    'many': random_boxes(300),
    'equal': random_boxes(1).repeat(5, axis=0),
    'without extent': np.zeros((4, 4), np.float32),
    'negative extent': random_boxes(20)[:, ::-1].copy(),
    'NaN': with_values(NAN),
    'infinite': with_values(INF),
    'very large': with_values(3e38),
    'float64': random_boxes(50).astype(np.float64),
}


@pytest.mark.parametrize('boxes', BOXES.values(), ids=BOXES)
@pytest.mark.parametrize('threshold', [0.0, 0.3, np.float64(0.65), 0.99])
@pytest.mark.parametrize('boxes_at_once', [3, 64])
def test_the_same_boxes_remain_as_in_upstream(boxes, threshold, boxes_at_once, monkeypatch):
    monkeypatch.setattr(suppression, 'BOXES_AT_ONCE', boxes_at_once)
    found = suppression.suppress(boxes, threshold)
    assert found.dtype == np.int64
    expected = []
    if len(boxes):  # upstream fails without boxes
        scores = torch.linspace(1, 0.5, len(boxes))
        expected = nms_torch(torch.from_numpy(boxes), scores, threshold).tolist()
    assert found.tolist() == expected


def test_rows_of_each_image_are_selected_best_first():
    boxes = np.concatenate([random_boxes(4), random_boxes(1), random_boxes(4)])
    scores = np.float32([0.1, 0.9, 0.5, 0.7, 0.4, 0.2, 0.3, 0.8, 0.6])
    counts = [4, 0, 1, 4]

    def selected(nms_pre: int, nms_thr: float) -> list[list[int]]:
        return [
            rows.tolist() for rows in suppression.select(scores, boxes, counts, nms_pre, nms_thr)
        ]

    assert selected(100, 1) == [[1, 3, 2, 0], [], [4], [7, 8, 6, 5]]
    assert selected(2, 1) == [[1, 3], [], [4], [7, 8]]
    assert selected(0, 0.5) == [[], [], [], []]
    (first, _, _, last) = selected(100, 0.1)
    assert first[0] == 1 and last[0] == 7
    assert len(first) < 4
