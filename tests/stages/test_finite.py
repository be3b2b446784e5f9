"""Values that are not finite are an error, wherever a threshold would drop them."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import RTMDetHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import nn

from mmpose_batch.stages.finite import check_finite, reject_nan

NAN, INF = float('nan'), float('inf')
FIELDS = {
    'finite': ({'keypoints': np.ones((2, 3, 2)), 'scores': torch.ones(2)}, None),
    'none': ({}, None),
    'nobody': ({'keypoints': np.empty((0, 17, 2))}, None),
    'no floats': ({'labels': np.array([1]), 'ids': torch.tensor([1]), 'name': 'a'}, None),
    'NaN': ({'labels': np.array([1]), 'scores': np.array([0.5, NAN])}, 'scores, found NaN'),
    'infinite': ({'bboxes': np.array([[0, 0, INF, 1]])}, 'bboxes, found infinite ones'),
    'minus infinite': ({'bboxes': np.array([-INF])}, 'bboxes, found infinite ones'),
    'a tensor': ({'scores': torch.tensor([NAN])}, 'scores, found NaN'),
    'bfloat16': ({'scores': torch.tensor([NAN], dtype=torch.bfloat16)}, 'scores, found NaN'),
}


@pytest.mark.parametrize(('fields', 'message'), FIELDS.values(), ids=FIELDS)
def test_what_was_decoded_is_finite_or_an_error(fields, message):
    error = pytest.raises(ValueError, match=f'expected finite {message}: broken or random')
    with nullcontext() if message is None else error:
        check_finite(fields)


class Head(nn.Module):
    """Hands out what it is given."""

    def forward(self, outputs: Any) -> Any:
        return outputs


def with_parts(**parts: nn.Module) -> nn.Module:
    model = nn.Module()
    for name, part in parts.items():
        setattr(model, name, part)
    return model


ONES = torch.ones(2, 3)
BROKEN = torch.tensor([[1.0, NAN], [INF, -INF]])
OUTPUTS = {
    'numbers': ((ONES, [ONES]), True),
    'nothing': ((torch.empty(0, 4), torch.empty(0)), True),
    'infinite': ((ONES, INF * ONES, -INF * ONES), True),
    'whole numbers': ([torch.ones(2, dtype=torch.long), None, 'text'], True),
    'NaN': (BROKEN, False),
    'NaN of a level': (((ONES, ONES), [ONES, BROKEN]), False),
    'NaN by name': ({'boxes': ONES, 'scores': BROKEN}, False),
    'NaN of half precision': ([BROKEN.half(), ONES], False),
}


@pytest.mark.parametrize('name', ['head', 'bbox_head'])
@pytest.mark.parametrize(('outputs', 'passes'), OUTPUTS.values(), ids=OUTPUTS)
def test_a_head_that_hands_out_nan_fails(name, outputs, passes):
    model = with_parts(**{name: Head()})
    reject_nan(model)
    error = pytest.raises(ValueError, match='outputs of the network, found NaN: broken or random')
    with nullcontext() if passes else error:
        assert getattr(model, name)(outputs) is outputs


def test_all_heads_of_a_detector_are_seen():
    """Those of two stages: one proposes, and the other lies deeper."""
    rpn_head = RTMDetHead(1, 2, feat_channels=2, norm_cfg={'type': 'BN'}).eval()
    bbox_head = BBoxHead(in_channels=2, roi_feat_size=1, num_classes=1)
    reject_nan(with_parts(rpn_head=rpn_head, roi_head=with_parts(bbox_head=bbox_head)))
    for head, inputs in ((rpn_head, [torch.ones(1, 2, 1, 1)] * 3), (bbox_head, torch.ones(1, 2))):
        head(inputs)
        for parameter in head.parameters():
            parameter.data.fill_(NAN)
        with pytest.raises(ValueError, match='found NaN'):
            head(inputs)
