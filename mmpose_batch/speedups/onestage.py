"""One-stage heads (RTMO, YOLOX-Pose) that decode a complete batch at once.

Upstream decodes image by image, and rearranges the outputs of all anchors for that. Here the
anchors with a high enough score are gathered from the complete batch, and only these are decoded.
The only layer whose rounding depends on the number of persons is computed image by image as in
upstream, so that results on a CPU are identical.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from mmpose.models.heads import RTMOHead
from mmpose.models.heads.hybrid_heads import YOLOXPoseHead
from mmpose.models.heads.hybrid_heads.rtmo_head import DCC
from mmpose.structures import PoseDataSample
from mmpose.structures.bbox import bbox_overlaps, bbox_xyxy2cs
from torch import Tensor, nn

from .base import InPlaceChange, register

# Number of persons whose coordinates are classified at once. RTMO's 192 and 256 bins of 128 float32
# values take 8 MB for that many persons, and several such tensors exist at the same time.
PERSONS_AT_ONCE = 64
# Number of boxes whose overlaps with all others are computed at once, for the same reason.
BOXES_AT_ONCE = 64


@dataclass(frozen=True)
class Outputs:
    """Outputs of a head's network: a float32 tensor (B, C, H, W) for each level.

    Attributes:
        classes: Logits of the classes.
        objectness: Logit of a common factor of all classes; None for RTMO.
        bboxes: Boxes, relative to the anchors.
        visibility: Logits of the K keypoints.
        keypoints: For YOLOX-Pose, K x 2 coordinates relative to the anchors; for RTMO, pose
            features, the input of its coordinate classifier.
    """

    classes: Sequence[Tensor]
    objectness: Sequence[Tensor] | None
    bboxes: Sequence[Tensor]
    visibility: Sequence[Tensor]
    keypoints: Sequence[Tensor]

    @classmethod
    def of(cls, head: nn.Module, feats: Any) -> 'Outputs':
        """Run the network of a head, or the engine that replaces it.

        Args:
            head: A one-stage head.
            feats: Input of ``head.forward``.
        """
        if type(head) is RTMOHead:
            classes, bboxes, _, visibility, keypoints = head.forward(feats)
            return cls(classes, None, bboxes, visibility, keypoints)
        classes, objectness, bboxes, keypoints, visibility = head.forward(feats)
        return cls(classes, objectness, bboxes, visibility, keypoints)


@dataclass(frozen=True)
class Anchors:
    """N anchors of a batch.

    Attributes:
        image: Index of the image in the batch (N,), int64.
        index: Index of the anchor in all levels of its image (N,), int64.
        centers: Centres (N, 2) in pixels of the input.
        strides: Strides (N,) in pixels of the input.
    """

    image: Tensor
    index: Tensor
    centers: Tensor
    strides: Tensor

    def __getitem__(self, rows: Tensor) -> 'Anchors':
        """Return the anchors of some rows, given as indices."""
        return Anchors(self.image[rows], self.index[rows], self.centers[rows], self.strides[rows])

    def gather(self, levels: Sequence[Tensor]) -> Tensor:
        """Gather the outputs (N, C) of these anchors, without copying those of all anchors.

        Args:
            levels: Outputs (B, C, H, W) of each level.
        """
        first, gathered = 0, None
        for level in levels:
            size = level.shape[2:].numel()
            index = self.index - first
            found = level.flatten(2)[self.image, :, index.clamp(0, size - 1)]
            if gathered is not None:  # anchors of this level, or of a later one
                found = torch.where((index >= 0)[:, None], found, gathered)
            first, gathered = first + size, found
        return gathered


def _applies(head: nn.Module) -> bool:
    return 'predict' not in vars(head) and _is_plain(head)


def _apply(head: RTMOHead | YOLOXPoseHead) -> None:
    # Unlike upstream's `predict`, this one does not set attributes of the head.
    head.predict = partial(_predict, head)


COMPLETE_BATCH = register(
    InPlaceChange(name='one-stage heads decode a batch', applies=_applies, apply=_apply),
)


def _is_plain(head: nn.Module) -> bool:
    if type(head) is YOLOXPoseHead:
        return True
    if type(head) is not RTMOHead or hasattr(head, 'deploy'):
        return False
    classifier = getattr(head, 'dcc', None)
    return type(classifier) is DCC and 'forward_test' not in vars(classifier)


@torch.no_grad()
def _predict(
    head: RTMOHead | YOLOXPoseHead,
    feats: Any,
    batch_data_samples: Sequence[PoseDataSample],
    test_cfg: Mapping[str, Any] | None = None,
) -> list[InstanceData]:
    """Predict as the ``predict`` of the head's class does.

    Args:
        head: The head whose network and settings are used.
        feats: Input of ``head.forward``.
        batch_data_samples: One of each image, with ``input_size``.
        test_cfg: ``score_thr``, ``nms_pre`` and ``nms_thr``, with upstream's defaults.

    Returns:
        The N persons of each image, best first: ``bboxes`` (N, 4) and ``keypoints`` (N, K, 2) in
        pixels of the input; ``scores``, ``bbox_scores`` (N,); ``keypoint_scores``,
        ``keypoints_visible`` (N, K); all float32; ``labels`` (N,), int64.
    """
    test_cfg = test_cfg or {}
    nms_thr = test_cfg.get('nms_thr', 1.0)
    if not _is_plain(head) or (type(head) is RTMOHead and not nms_thr < 1):
        # The head was changed later, or upstream raises an error for these settings. The head is
        # copied, since upstream's `predict` sets attributes, and threads share the head.
        return type(head).predict(copy.copy(head), feats, batch_data_samples, test_cfg)
    outputs = Outputs.of(head, feats)
    scores, labels = _scores(head, outputs)
    good = scores > test_cfg.get('score_thr', 0.01)
    anchors = _anchors(head, outputs.classes, good)
    scores, labels = scores[good], labels[good]
    offsets = head._flatten_predictions(outputs.bboxes)[good]
    bboxes = head.decode_bbox(offsets[None], anchors.centers, anchors.strides)[0]

    counts = good.sum(1).tolist()
    nms_pre = test_cfg.get('nms_pre', 100000)
    selected = _select(scores.cpu(), bboxes.cpu(), counts, nms_pre, nms_thr)
    counts = [len(rows) for rows in selected]
    rows = torch.cat(selected).to(bboxes.device)
    anchors, bboxes = anchors[rows], bboxes[rows]
    visibility = head._flatten_predictions(outputs.visibility).sigmoid()
    keypoints = anchors.gather(outputs.keypoints)
    if type(head) is RTMOHead:
        keypoints = _classify(head, keypoints, bboxes, anchors.centers, counts)
    else:
        keypoints = head.decode_kpt_reg(keypoints[None], anchors.centers, anchors.strides)[0]
    fields = scores[rows], labels[rows], bboxes, keypoints, visibility[anchors.image, anchors.index]
    persons = zip(*(field.cpu().split(counts) for field in fields), strict=True)
    return [
        _instances(*found, sample.metainfo['input_size'])
        for found, sample in zip(persons, batch_data_samples, strict=True)
    ]


def _scores(head: nn.Module, outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Score (B, A) and label (B, A) of the best class of every anchor."""
    scores = head._flatten_predictions(outputs.classes).sigmoid()
    if outputs.objectness is not None:
        scores *= head._flatten_predictions(outputs.objectness).sigmoid()
    return scores.max(2)


def _anchors(head: nn.Module, levels: Sequence[Tensor], good: Tensor) -> Anchors:
    """The anchors that a boolean mask (B, A) selects, image by image."""
    priors = head.prior_generator.grid_priors(
        [level.shape[2:] for level in levels], dtype=levels[0].dtype, device=levels[0].device
    )
    strides = [
        prior.new_full((len(prior),), stride)
        for prior, stride in zip(priors, head.featmap_strides, strict=True)
    ]
    image, index = good.nonzero(as_tuple=True)
    return Anchors(image, index, torch.cat(priors)[index], torch.cat(strides)[index])


def _select(
    scores: Tensor, bboxes: Tensor, counts: Sequence[int], nms_pre: int, nms_thr: float
) -> list[Tensor]:
    """Rows of the persons of each image, best first.

    Args:
        scores: (N,), on the CPU, image by image.
        bboxes: (N, 4), x1, y1, x2, y2.
        counts: Number of rows of each image.
        nms_pre: Maximum number of rows per image, those with the highest scores.
        nms_thr: IoU above which a box is a duplicate; 1 disables NMS.
    """
    selected = []
    for found, first in zip(scores.split(counts), accumulate(counts, initial=0), strict=False):
        # Sorted twice, as in upstream, so that equal scores end up in the same order.
        best, rows = found.sort(descending=True)
        rows = rows[:nms_pre] + first
        if nms_thr < 1:
            rows = rows[best[:nms_pre].sort(descending=True).indices]
            rows = rows[_suppress(bboxes[rows], nms_thr)]
        selected.append(rows)
    return selected


def _suppress(bboxes: Tensor, threshold: float) -> Tensor:
    """Indices (M,) of the boxes (N, 4), best first, that remain after upstream's ``nms_torch``."""
    left, selected = torch.arange(len(bboxes)), [torch.arange(0)]
    while len(left):
        block = left[:BOXES_AT_ONCE]
        # Upstream computes the overlaps box by box.
        close = (bbox_overlaps(bboxes[block], bboxes[left]) > threshold).numpy()
        free = np.ones(len(left), dtype=bool)
        rows = []
        for row, duplicates in enumerate(close):
            if free[row]:
                rows.append(row)
                free &= ~duplicates
        selected.append(block[rows])
        left = left[len(block) :][torch.from_numpy(free[len(block) :])]
    return torch.cat(selected)


def _classify(
    head: RTMOHead, features: Tensor, bboxes: Tensor, centers: Tensor, counts: Sequence[int]
) -> Tensor:
    """Classify the coordinates of keypoints (N, K, 2), in pixels, from pose features (N, C).

    Args:
        head: The head with the classifier.
        features: Features of the poses, image by image.
        bboxes: (N, 4), x1, y1, x2, y2.
        centers: (N, 2), centres of the anchors in pixels.
        counts: Number of poses of each image.
    """
    classifier = head.dcc
    if not len(features):
        return bboxes.new_zeros((0, head.num_keypoints, 2))
    # This is the only layer whose rounding depends on the number of persons.
    features = torch.cat(
        [classifier.pose_to_kpts(found) for found in features.split(counts) if len(found)]
    )
    rest = copy.copy(classifier)
    rest._modules = {**classifier._modules, 'pose_to_kpts': nn.Identity()}
    center_scale = torch.cat(bbox_xyxy2cs(bboxes, head.bbox_padding), dim=1)
    parts = (tensor.split(PERSONS_AT_ONCE) for tensor in (features, center_scale, centers))
    return torch.cat(list(map(rest.forward_test, *parts)))


def _instances(
    scores: Tensor,
    labels: Tensor,
    bboxes: Tensor,
    keypoints: Tensor,
    visibility: Tensor,
    input_size: Sequence[float],
) -> InstanceData:
    """The persons of one image, with boxes clipped to the image."""
    bboxes[:, 0::2].clamp_(0, input_size[0])
    bboxes[:, 1::2].clamp_(0, input_size[1])
    scores, visibility = scores.numpy(), visibility.numpy()
    return InstanceData(
        scores=scores,
        labels=labels.numpy(),
        bboxes=bboxes.numpy(),
        bbox_scores=scores,
        keypoints=keypoints.numpy(),
        keypoint_scores=visibility,
        keypoints_visible=visibility,
    )
