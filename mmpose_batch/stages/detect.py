"""Person detection: MMDetection's detector, run on batches of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.apis import DetInferencer
from mmengine.config import Config, ConfigDict
from mmengine.structures import BaseDataElement, InstanceData
from mmpose.evaluation.functional import nms
from torch import nn

from ..engines.base import EngineOptions
from ..engines.batch_size import default_batch_size
from ..engines.registry import splits_cores
from ..engines.runner import EngineRunner
from ..engines.wrapping import decode_on_cpu
from ..images.read import detector_loader
from ..models.checkpoint import check_weights
from ..models.checks.detectors import check_detector_config, lacks_operators
from ..models.checks.fields import naming
from ..models.checks.keypoints import dataset_kind
from ..models.names import build_model, load_config
from ..nan_check import reject_nan
from .finite import check_finite
from .isolation import with_own_head

# Names that upstream accepts instead of a detector.
WHOLE_IMAGE = ('whole_image', 'whole-image')


class SafeDetInferencer(DetInferencer):
    """MMDetection's inferencer, which loads only weights on the allow-list."""

    def _init_model(
        self, cfg: Config | ConfigDict, weights: str | None, device: str = 'cpu'
    ) -> nn.Module:
        # Upstream requires one, although nothing is drawn with it here.
        if cfg.get('visualizer') is None:
            cfg.visualizer = {'type': 'mmdet.DetLocalVisualizer', 'name': 'visualizer'}
        return build_model(cfg, weights, device, self._load_weights_to_model, 'det_weights')

    def _load_weights_to_model(
        self, model: nn.Module, checkpoint: dict | None, cfg: Config | ConfigDict
    ) -> None:
        with naming(
            'det_model: test_dataloader.dataset cannot be built'
        ):  # it is built for its palette
            super()._load_weights_to_model(model, checkpoint, cfg)


@dataclass(frozen=True, slots=True)
class DetectorChoice:
    """The detector for a top-down model.

    Attributes:
        config: Config of the MMDetection model.
        weights: Path or URL; None leaves the network random.
        cat_ids: Detector category ids to keep.
        scope: Registry scope of the model.
    """

    config: Config | ConfigDict | dict
    weights: str | None
    cat_ids: tuple[int, ...]
    scope: str = 'mmdet'


def choose_detector(
    pose_cfg: Config,
    det_model: str | dict | Config | ConfigDict | None,
    det_weights: str | None,
    det_cat_ids: int | Sequence[int] | None,
) -> DetectorChoice | None:
    """Choose the detector of a top-down model by the rules of upstream.

    Args:
        pose_cfg: Config of the pose model; its dataset determines the default detector.
        det_model: Config, path or name of an MMDetection model;
            ``'whole_image'`` for none; None for upstream's default.
        det_weights: Path or URL; None takes those of the name, config or default.
        det_cat_ids: Detector category ids to keep; None takes the default's, or 0.

    Returns:
        The choice; None if no detector is used and each image is one instance.

    Raises:
        ValueError: The model is unknown.
    """
    if det_model in WHOLE_IMAGE:
        return None
    if det_model is None:
        # Not at the top: importing it registers the inferencer, which imports this module.
        from mmpose.apis.inferencers.utils import default_det_models

        default = default_det_models.get(dataset_kind(pose_cfg))
        if default is None:
            return None
        det_model, det_weights = default['model'], det_weights or default['weights']
        det_cat_ids = default['cat_ids'] if det_cat_ids is None else det_cat_ids
    if isinstance(det_model, str):
        det_model, own_weights = load_config(det_model, 'mmdet')
        det_weights = det_weights or own_weights
    cat_ids = [det_cat_ids or 0] if np.ndim(det_cat_ids or 0) == 0 else det_cat_ids
    scope = det_model.get('default_scope') or 'mmdet'
    return DetectorChoice(det_model, det_weights, tuple(cat_ids), scope)


def check_detector(choice: DetectorChoice, device: str) -> None:
    """Check that a detector can be built and run, before any model is built.

    Args:
        choice: Result of :func:`choose_detector`.
        device: Device of the detector.

    Raises:
        ValueError: Its config is not one of a detector, or is incomplete, or the installed mmcv
            cannot run the detector on the device.
        CheckpointError: Its weights are missing or of another model.
    """
    check_detector_config(choice.config, choice.cat_ids, device)
    check_weights(choice.weights, 'det_weights')


def build_detector(
    choice: DetectorChoice | None, device: str | None, engine: EngineOptions
) -> 'PersonDetector | None':
    """Build the detector that was chosen, if any.

    Args:
        choice: Result of :func:`choose_detector`.
        device: Device of the detector, such as ``cuda:0``; None chooses one.
        engine: Engine options of its network.

    Raises:
        CheckpointError: The weights cannot be loaded.
    """
    if choice is None:
        return None
    inferencer = SafeDetInferencer(
        choice.config, choice.weights, device, choice.scope, show_progress=False
    )
    return PersonDetector(inferencer, choice.cat_ids, engine)


class PersonDetector:
    """Detects persons in batches of decoded images.

    Args:
        inferencer: MMDetection's inferencer with the detector's model and test pipeline.
        cat_ids: Detector category ids to keep.
        engine: Engine options of its network.
    """

    def __init__(
        self,
        inferencer: DetInferencer,
        cat_ids: Sequence[int],
        engine: EngineOptions,
    ) -> None:
        self._inferencer = inferencer
        self.model = inferencer.model
        self.pipeline = inferencer.pipeline
        self.collate_fn = inferencer.collate_fn
        self.cat_ids = tuple(cat_ids)
        self.runner = EngineRunner(self.model, engine)
        device = next(self.model.parameters()).device
        if lacks_operators(device):
            decode_on_cpu(self.model.bbox_head)
        reject_nan(self.model)

    @cached_property
    def loader(self) -> LoadImageFromFile | None:
        """Loader of the detector's pipeline; None if it has none."""
        return detector_loader(self.pipeline)

    def __call__(self, *inputs: Any, **settings: Any) -> dict:
        """Call upstream's ``DetInferencer``, for code that uses the detector separately."""
        return self._inferencer(*inputs, **settings)

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        """Run the detector's test pipeline on a decoded image (H, W, 3), uint8, BGR.

        Returns:
            ``inputs``, a tensor (3, h, w), and ``data_samples``.
        """
        return self.pipeline(image)

    def class_names(self) -> dict[int, str]:
        """Name of each category id that is kept, if the detector's dataset names it."""
        meta = {name.lower(): value for name, value in self.model.dataset_meta.items()}
        classes = meta.get('classes') or ()
        return {label: classes[label] for label in self.cat_ids if 0 <= label < len(classes)}

    def default_batch_size(self) -> int:
        """Images per forward pass that are typically fastest."""
        blank = self.prepare(np.zeros((480, 640, 3), np.uint8))
        device = next(self.model.parameters()).device
        return default_batch_size(device, blank['inputs'], split=splits_cores(self.runner.options))

    @torch.no_grad()
    def detect(
        self,
        prepared: Sequence[dict[str, Any]],
        bbox_thr: float,
        nms_thr: float,
        keep_labels: bool = False,
        alone: bool = False,
    ) -> list[np.ndarray]:
        """Detect persons in images of one input shape, as upstream does for one image.

        Args:
            prepared: Results of :meth:`prepare`, with inputs of equal shape.
            bbox_thr: Minimum score; a box is kept if its score is above it.
            nms_thr: IoU above which the lower scored of two boxes is dropped.
            keep_labels: Whether to return labels too.
            alone: Whether batches run one by one, for the lowest latency.

        Returns:
            For each image a float32 array (N, 5): x1, y1, x2, y2 in pixels of
            the image and score, in upstream's order; (N, 6) with a label if ``keep_labels``.

        Raises:
            ValueError: The network outputs values that are not finite.
        """
        batch = self.collate_fn(list(prepared))

        def run() -> list[BaseDataElement]:
            samples = with_own_head(self.model).test_step(batch)
            return [self._select(sample, bbox_thr) for sample in samples]

        found = [sample.pred_instances for sample in self.runner.test_step(run, alone)]
        boxes = [np.concatenate((f.bboxes, f.scores[:, None]), axis=1) for f in found]
        kept = [nms(each, nms_thr) for each in boxes]
        if keep_labels:
            labels = [f.labels[:, None].astype(np.float32) for f in found]
            boxes = [np.hstack(pair) for pair in zip(boxes, labels, strict=True)]
        return [each[rows] for each, rows in zip(boxes, kept, strict=True)]

    def _select(self, sample: BaseDataElement, bbox_thr: float) -> BaseDataElement:
        """Keep only boxes of the requested categories and scores, as arrays, in place.

        Engines are verified by these boxes: hundreds of boxes with scores near 0 move by
        pixels when the last bits of bfloat16 change.

        Raises:
            ValueError: A box or a score, kept or not, is not finite.
        """
        found = sample.pred_instances
        names = 'bboxes', 'scores', 'labels'
        fields = {name: found.get(name).detach().cpu().numpy() for name in names}
        check_finite(fields)
        kept = np.isin(fields['labels'], self.cat_ids) & (fields['scores'] > bbox_thr)
        sample.pred_instances = InstanceData(**{name: f[kept] for name, f in fields.items()})
        return sample
