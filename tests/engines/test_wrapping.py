"""Wrappers of a head's outputs: decoding may need them on the CPU.

Precision and memory format are tested by ``test_torch_eager.py``.
"""

import torch
from torch import nn

from mmpose_batch.engines.wrapping import decode_on_cpu


def test_outputs_of_a_head_are_moved_to_the_cpu():
    class Levels(nn.Module):
        def forward(self, feats):
            return [feats, feats], [feats]

    head = Levels()
    decode_on_cpu(head)
    given = torch.ones(2)
    scores, boxes = head(given)
    assert [len(scores), len(boxes)] == [2, 1]
    assert all(tensor.device.type == 'cpu' for tensor in (*scores, *boxes))
    torch.testing.assert_close(scores[0], given)
