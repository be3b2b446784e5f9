"""Top-down heads that decode a batch at once, with identical outputs.

MMPose decodes the outputs of most heads person by person. The codec of SimCC heads can decode a
batch. On a GPU the largest bins are found there, so that only these are copied. For other codecs
all outputs are copied to the CPU at once, instead of those of each person.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from mmpose.codecs import SimCCLabel
from mmpose.models.heads.base_head import BaseHead
from mmpose.utils.tensor_utils import to_numpy
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .base import InPlaceChange, register
from .transfer import to_cpu


def _decodes_as_base(head: nn.Module) -> bool:
    return getattr(type(head), 'decode', None) is BaseHead.decode and 'decode' not in vars(head)


def _is_plain(codec: object) -> bool:
    return type(codec) is SimCCLabel and not codec.use_dark and not codec.decode_visibility


def _applies(head: nn.Module) -> bool:
    # Heads that wrap other heads have no codec.
    return _decodes_as_base(head) and _is_plain(getattr(head, 'decoder', None))


def _apply(head: BaseHead) -> None:
    # MMPose calls the codec of SimCC heads person by person, although it can decode a batch.
    head.decode = partial(_decode, head)


def _decodes_arrays(head: nn.Module) -> bool:
    codec = getattr(head, 'decoder', None)
    return _decodes_as_base(head) and not getattr(codec, 'support_batch_decoding', True)


def _copy_first(head: BaseHead) -> None:
    head.decode = partial(_decode_on_cpu, head)


ALL_PERSONS = register(
    InPlaceChange(name='SimCC decodes all persons', applies=_applies, apply=_apply),
)
#: For the heads to which the first change does not apply.
COPIED_AT_ONCE = register(
    InPlaceChange(
        name='outputs are copied before decoding', applies=_decodes_arrays, apply=_copy_first
    ),
)


def _decode(head: BaseHead, batch_outputs: tuple[Tensor, Tensor]) -> list[InstanceData]:
    """Decode as ``BaseHead.decode`` does.

    Args:
        head: The head whose codec decodes.
        batch_outputs: Logits of the x and y coordinates, float32 (N, K, bins) each.

    Returns:
        For each person ``keypoints`` (1, K, 2) in pixels of the input and
        ``keypoint_scores`` (1, K), float32.
    """
    if not _is_plain(head.decoder):  # the codec was changed later
        return _decode_on_cpu(head, batch_outputs)
    if batch_outputs[0].device.type == 'cpu':
        keypoints, scores = head.decoder.decode(*to_numpy(batch_outputs))
    else:
        keypoints, scores = _decode_on_device(head.decoder, *batch_outputs)
    return [
        InstanceData(keypoints=keypoints[i : i + 1], keypoint_scores=scores[i : i + 1])
        for i in range(len(keypoints))
    ]


def _decode_on_device(codec: SimCCLabel, x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, K, 2) and scores (N, K), found as by the codec's ``decode``."""
    values, bins = zip(x.max(2), y.max(2), strict=True)
    found = to_cpu([torch.stack(bins, dim=2), torch.minimum(*values)])
    keypoints, scores = found[0].float().numpy(), found[1].numpy()
    keypoints[scores <= 0] = -1
    keypoints /= codec.simcc_split_ratio
    return keypoints, scores


def _decode_on_cpu(head: BaseHead, batch_outputs: Any) -> list[InstanceData]:
    # `BaseHead.decode` copies each output of each person, and waits for each copy.
    return BaseHead.decode(head, tree_map_only(Tensor, Tensor.cpu, batch_outputs))
