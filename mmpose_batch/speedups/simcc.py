"""Keypoints of a whole batch at once where the codec is SimCC, to the bit."""

from functools import partial

from mmengine.structures import InstanceData
from mmpose.codecs import SimCCLabel
from mmpose.models.heads.base_head import BaseHead
from mmpose.utils.tensor_utils import to_numpy
from torch import Tensor, nn


def decode_batches(head: nn.Module) -> None:
    """Let a head decode batches as a whole, in place, if it is known to come to the same.

    MMPose calls the codec of RTMPose and its like person by person, though it takes
    all of them. Only this instance changes, no class does.
    """
    codec = getattr(head, 'decoder', None)  # heads around other heads have none
    if _is_plain(codec) and type(head).decode is BaseHead.decode:
        head.decode = partial(_decode, head)


def _is_plain(codec: object) -> bool:
    return type(codec) is SimCCLabel and not codec.use_dark and not codec.decode_visibility


def _decode(head: BaseHead, batch_outputs: tuple[Tensor, Tensor]) -> list[InstanceData]:
    """What ``BaseHead.decode`` returns.

    Args:
        head: Whose codec decodes.
        batch_outputs: Classification of x and of y, (N, K, bins) each.

    Returns:
        For each person ``keypoints`` (1, K, 2) in pixels of the input and
        ``keypoint_scores`` (1, K), float32.
    """
    if not _is_plain(head.decoder):  # changed since
        return BaseHead.decode(head, batch_outputs)
    keypoints, scores = head.decoder.decode(*to_numpy(batch_outputs))
    return [
        InstanceData(keypoints=keypoints[i : i + 1], keypoint_scores=scores[i : i + 1])
        for i in range(len(keypoints))
    ]
