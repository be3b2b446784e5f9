"""NaN in the outputs of a network is an error."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from mmdet.models.dense_heads import RTMDetHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmengine.registry import DefaultScope
from torch import nn

from mmpose_batch.nan_check import fail_if_nan, reject_nan

NAN, INF = float('nan'), float('inf')


class Head(nn.Module):
    """Returns its input."""

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
    'integers': ([torch.ones(2, dtype=torch.long), None, 'text'], True),
    'NaN': (BROKEN, False),
    'NaN of a level': (((ONES, ONES), [ONES, BROKEN]), False),
    'NaN by name': ({'boxes': ONES, 'scores': BROKEN}, False),
    'NaN of half precision': ([BROKEN.half(), ONES], False),
}


@pytest.mark.parametrize('name', ['head', 'bbox_head'])
@pytest.mark.parametrize(('outputs', 'passes'), OUTPUTS.values(), ids=OUTPUTS)
def test_a_head_that_returns_nan_fails(name, outputs, passes):
    model = with_parts(**{name: Head()})
    reject_nan(model)
    error = pytest.raises(ValueError, match='outputs of the network, found NaN: broken or random')
    with nullcontext() if passes else error:
        assert getattr(model, name)(outputs) is outputs


@pytest.mark.parametrize(('outputs', 'passes'), OUTPUTS.values(), ids=OUTPUTS)
def test_the_check_of_a_head_can_be_delayed(outputs, passes):
    model = with_parts(head=Head())
    reject_nan(model)
    found, highest = model.head.forward.unchecked(outputs)
    assert found is outputs
    if highest is None:
        assert passes
        return
    assert highest.dtype == torch.float32
    with nullcontext() if passes else pytest.raises(ValueError, match='found NaN'):
        fail_if_nan(highest)


def test_all_heads_of_a_two_stage_detector_are_checked():
    """One head proposes boxes; the other one is nested more deeply."""
    with DefaultScope.overwrite_default_scope('mmdet'):  # independent of earlier tests
        rpn_head = RTMDetHead(1, 2, feat_channels=2, norm_cfg={'type': 'BN'}).eval()
        bbox_head = BBoxHead(in_channels=2, roi_feat_size=1, num_classes=1)
    reject_nan(with_parts(rpn_head=rpn_head, roi_head=with_parts(bbox_head=bbox_head)))
    for head, inputs in ((rpn_head, [torch.ones(1, 2, 1, 1)] * 3), (bbox_head, torch.ones(1, 2))):
        head(inputs)
        for parameter in head.parameters():
            parameter.data.fill_(NAN)
        with pytest.raises(ValueError, match='found NaN'):
            head(inputs)
