"""SimCC decoding of all persons of a batch at once, with identical outputs."""

from functools import partial

from mmengine.structures import InstanceData
from mmpose.codecs import SimCCLabel
from mmpose.models.heads.base_head import BaseHead
from mmpose.utils.tensor_utils import to_numpy
from torch import Tensor, nn

from .base import InPlaceChange, register


def _applies(head: nn.Module) -> bool:
    decodes_as_base = getattr(type(head), 'decode', None) is BaseHead.decode
    codec = getattr(head, 'decoder', None)  # heads that wrap other heads have none
    return decodes_as_base and 'decode' not in vars(head) and _is_plain(codec)


def _apply(head: BaseHead) -> None:
    # MMPose calls the codec of SimCC heads person by person, although it can decode a batch.
    head.decode = partial(_decode, head)


ALL_PERSONS = register(
    InPlaceChange(name='SimCC decodes all persons', applies=_applies, apply=_apply),
)


def _is_plain(codec: object) -> bool:
    return type(codec) is SimCCLabel and not codec.use_dark and not codec.decode_visibility


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
        return BaseHead.decode(head, batch_outputs)
    keypoints, scores = head.decoder.decode(*to_numpy(batch_outputs))
    return [
        InstanceData(keypoints=keypoints[i : i + 1], keypoint_scores=scores[i : i + 1])
        for i in range(len(keypoints))
    ]
