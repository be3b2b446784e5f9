"""Decoded values must be finite."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from mmpose_batch.stages.finite import check_finite

NAN, INF = float('nan'), float('inf')
BROKEN = np.array([NAN])
FIELDS = {
    'finite': ({'keypoints': np.ones((2, 3, 2)), 'scores': torch.ones(2)}, None),
    'none': ({}, None),
    'no detections': ({'keypoints': np.empty((0, 17, 2))}, None),
    'no floats': ({'labels': np.array([1]), 'ids': torch.tensor([1]), 'name': 'a'}, None),
    'NaN': ({'labels': np.array([1]), 'scores': np.array([0.5, NAN])}, 'scores, found NaN'),
    'infinite': ({'bboxes': np.array([[0, 0, INF, 1]])}, 'bboxes, found infinite ones'),
    'minus infinite': ({'bboxes': np.array([-INF])}, 'bboxes, found infinite ones'),
    'a tensor': ({'scores': torch.tensor([NAN])}, 'scores, found NaN'),
    'a shared array': (dict.fromkeys(('scores', 'bbox_scores'), BROKEN), 'bbox_scores, found NaN'),
    'bfloat16': ({'scores': torch.tensor([NAN], dtype=torch.bfloat16)}, 'scores, found NaN'),
}


@pytest.mark.parametrize(('fields', 'message'), FIELDS.values(), ids=FIELDS)
def test_decoded_values_are_finite_or_an_error(fields, message):
    error = pytest.raises(ValueError, match=f'expected finite {message}: broken or random')
    with nullcontext() if message is None else error:
        check_finite(fields)
