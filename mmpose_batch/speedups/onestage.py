"""One-stage heads (RTMO, YOLOX-Pose) that decode a complete batch at once.

Upstream decodes image by image, and rearranges the outputs of all anchors for that. Here the
anchors with a high enough score are gathered from the complete batch, and only these are decoded.
The only layer whose rounding depends on the number of persons is computed image by image as in
upstream, so that results on a CPU are identical.

On a GPU rounding differs from that of a CPU anyway, and each small operation and each wait for
the device takes longer than its work. There, that layer is computed once for the batch, and a
batch waits three times, whatever its number of persons: for the number of anchors with a high
score, for their boxes, from which NMS on the CPU selects the persons, and for the keypoints.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from mmpose.models.heads import RTMOHead
from mmpose.models.heads.hybrid_heads import YOLOXPoseHead
from mmpose.models.heads.hybrid_heads.rtmo_head import DCC
from mmpose.structures import PoseDataSample
from mmpose.structures.bbox import bbox_xyxy2cs
from torch import Tensor, nn

from ..nan_check import NanCheck, fail_if_nan
from .base import InPlaceChange, register
from .samples import new_instances
from .suppression import select
from .transfer import to_cpu, to_device

# Number of persons whose coordinates are classified at once. RTMO's 192 and 256 bins of 128 float32
# values take 8 MB for 64 persons, and 470 MB for 2048; several such tensors exist at the same time.
PERSONS_AT_ONCE = 64
PERSONS_AT_ONCE_ON_GPU = 2048


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
    def of(cls, head: nn.Module, feats: Any) -> tuple['Outputs', list[Tensor]]:
        """Run the network of a head, or the engine that replaces it.

        Args:
            head: A one-stage head.
            feats: Input of ``head.forward``.

        Returns:
            The outputs, and at most one tensor that :func:`mmpose_batch.nan_check.fail_if_nan`
            has to check.
        """
        forward, highest = head.forward, None
        if isinstance(forward, NanCheck):
            found, highest = forward.unchecked(feats)
        else:
            found = forward(feats)
        if type(head) is RTMOHead:
            classes, bboxes, _, visibility, keypoints = found
            objectness = None
        else:
            classes, objectness, bboxes, keypoints, visibility = found
        outputs = cls(classes, objectness, bboxes, visibility, keypoints)
        return outputs, [] if highest is None else [highest]


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
    outputs, highest = Outputs.of(head, feats)
    scores, labels = _scores(head, outputs)
    image, index = (scores > test_cfg.get('score_thr', 0.01)).nonzero(as_tuple=True)
    anchors = _anchors(head, outputs.classes, image, index)
    offsets = anchors.gather(outputs.bboxes)
    bboxes = head.decode_bbox(offsets[None], anchors.centers, anchors.strides)[0]
    found = to_cpu([image, scores[image, index], labels[image, index], bboxes, *highest])
    for maxima in found[4:]:
        fail_if_nan(maxima)
    of_image, *fields = (tensor.numpy() for tensor in found[:4])
    counts = np.bincount(of_image, minlength=len(batch_data_samples)).tolist()
    nms_pre = test_cfg.get('nms_pre', 100000)
    selected = select(fields[0], fields[2], counts, nms_pre, nms_thr)

    counts, rows = [len(each) for each in selected], np.concatenate(selected)
    on_device = to_device(rows, bboxes.device)
    poses = _decode_poses(head, outputs, anchors[on_device], bboxes[on_device], counts)
    fields = *(field[rows] for field in fields), *(pose.numpy() for pose in to_cpu(poses))
    return _instances(*fields, counts, batch_data_samples)


def _scores(head: nn.Module, outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Score (B, A) and label (B, A) of the best class of every anchor."""
    scores = head._flatten_predictions(outputs.classes).sigmoid()
    if outputs.objectness is not None:
        scores *= head._flatten_predictions(outputs.objectness).sigmoid()
    return scores.max(2)


def _anchors(head: nn.Module, levels: Sequence[Tensor], image: Tensor, index: Tensor) -> Anchors:
    """The anchors with some indices (N,) in the batch and in all levels of their images."""
    priors = head.prior_generator.grid_priors(
        [level.shape[2:] for level in levels], dtype=levels[0].dtype, device=levels[0].device
    )
    strides = [
        prior.new_full((len(prior),), stride)
        for prior, stride in zip(priors, head.featmap_strides, strict=True)
    ]
    return Anchors(image, index, torch.cat(priors)[index], torch.cat(strides)[index])


def _decode_poses(
    head: nn.Module, outputs: Outputs, anchors: Anchors, bboxes: Tensor, counts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Keypoints (N, K, 2) in pixels and their visibility (N, K) of some anchors, image by image.

    Args:
        head: A one-stage head.
        outputs: Outputs of its network.
        anchors: The anchors of N persons.
        bboxes: Their boxes (N, 4), x1, y1, x2, y2.
        counts: Number of persons of each image.
    """
    visibility = head._flatten_predictions(outputs.visibility).sigmoid()
    keypoints = anchors.gather(outputs.keypoints)
    if type(head) is RTMOHead:
        keypoints = _classify(head, keypoints, bboxes, anchors.centers, counts)
    else:
        keypoints = head.decode_kpt_reg(keypoints[None], anchors.centers, anchors.strides)[0]
    return keypoints, visibility[anchors.image, anchors.index]


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
    classifier, at_once = head.dcc, PERSONS_AT_ONCE_ON_GPU
    if not len(features):
        return bboxes.new_zeros((0, head.num_keypoints, 2))
    if features.device.type == 'cpu':
        # This is the only layer whose rounding depends on the number of persons.
        features = torch.cat(
            [classifier.pose_to_kpts(found) for found in features.split(counts) if len(found)]
        )
        classifier, at_once = _without_first_layer(classifier), PERSONS_AT_ONCE
    center_scale = torch.cat(bbox_xyxy2cs(bboxes, head.bbox_padding), dim=1)
    parts = (tensor.split(at_once) for tensor in (features, center_scale, centers))
    return torch.cat(list(map(classifier.forward_test, *parts)))


def _without_first_layer(classifier: DCC) -> DCC:
    rest = copy.copy(classifier)
    rest._modules = {**classifier._modules, 'pose_to_kpts': nn.Identity()}
    return rest


def _instances(
    scores: np.ndarray,
    labels: np.ndarray,
    bboxes: np.ndarray,
    keypoints: np.ndarray,
    visibility: np.ndarray,
    counts: Sequence[int],
    samples: Sequence[PoseDataSample],
) -> list[InstanceData]:
    """The persons of each image, with boxes clipped to the image, in place."""
    sizes = np.array([sample.input_size for sample in samples], bboxes.dtype)
    np.clip(bboxes, 0, np.tile(sizes, 2).repeat(counts, axis=0), out=bboxes)
    found = []
    for first, last in pairwise(accumulate(counts, initial=0)):
        score, visible = scores[first:last], visibility[first:last]
        found.append(
            new_instances(
                scores=score,
                labels=labels[first:last],
                bboxes=bboxes[first:last],
                bbox_scores=score,
                keypoints=keypoints[first:last],
                keypoint_scores=visible,
                keypoints_visible=visible,
            )
        )
    return found
