"""Finding persons: MMDetection's detector, run on batches of images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.ops import get_compiling_cuda_version
from mmdet.apis import DetInferencer
from mmengine.config import Config, ConfigDict
from mmengine.structures import BaseDataElement, InstanceData
from mmpose.apis.inferencers.utils import default_det_models
from mmpose.evaluation.functional import nms
from mmpose.registry import DATASETS
from torch import nn

from .engines.base import EngineOptions
from .engines.batch_size import default_batch_size
from .engines.registry import splits_cores
from .engines.runner import EngineRunner
from .engines.torch_eager import map_tensors
from .isolation import with_own_head
from .models import build_model, load_config

# What stock takes instead of a detector.
WHOLE_IMAGE = ('whole_image', 'whole-image')


class SafeDetInferencer(DetInferencer):
    """MMDetection's inferencer, with weights loaded by the allow-list."""

    def _init_model(
        self, cfg: Config | ConfigDict, weights: str | None, device: str = 'cpu'
    ) -> nn.Module:
        return build_model(cfg, weights, device, self._load_weights_to_model)


def build_detector(
    pose_cfg: Config,
    det_model: str | dict | Config | ConfigDict | None,
    det_weights: str | None,
    det_cat_ids: int | Sequence[int] | None,
    device: str | None,
    engine: EngineOptions,
) -> 'PersonDetector | None':
    """Build the detector of a top-down model by stock's rules.

    Args:
        pose_cfg: Of the pose model; its dataset tells the default detector.
        det_model: Config, path or name of an MMDetection model;
            ``'whole_image'`` for none; None for stock's default.
        det_weights: Path or URL; None takes those of the name, config or default.
        det_cat_ids: Labels to keep; None takes the default's, or 0.
        device: Where the detector runs.
        engine: What computes its network.

    Returns:
        The detector, or None where every image is one whole instance.

    Raises:
        ValueError: An unknown model.
        CheckpointError: Weights that cannot be loaded.
    """
    if det_model in WHOLE_IMAGE:
        return None
    if det_model is None:
        module = DATASETS.get(pose_cfg.dataset_type).__module__
        default = default_det_models.get(module.split('datasets.')[-1].split('.')[0].lower())
        if default is None:
            return None
        det_model, det_weights = default['model'], det_weights or default['weights']
        det_cat_ids = default['cat_ids'] if det_cat_ids is None else det_cat_ids
    scope = 'mmdet'
    if isinstance(det_model, str):
        det_model, own_weights = load_config(det_model, scope)
        scope = det_model.get('default_scope', scope)
        det_weights = det_weights or own_weights
    inferencer = SafeDetInferencer(det_model, det_weights, device, scope, show_progress=False)
    cat_ids = [det_cat_ids or 0] if np.ndim(det_cat_ids or 0) == 0 else det_cat_ids
    return PersonDetector(inferencer, cat_ids, engine)


def decode_on_cpu(head: nn.Module) -> None:
    """Have a head hand out its outputs on the CPU, where all decoding follows them, in place.

    For an mmcv that was compiled without CUDA operators: its NMS refuses tensors of
    a GPU.
    """
    forward = head.forward
    head.forward = lambda *args: map_tensors(torch.Tensor.cpu, forward(*args))


class PersonDetector:
    """Boxes of the wanted categories for batches of decoded images.

    Args:
        inferencer: Holds the detector's model and its test pipeline.
        cat_ids: Labels to keep, as in the detector's classes.
        engine: What computes its network.
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
        if device.type == 'cuda' and get_compiling_cuda_version() == 'not available':
            decode_on_cpu(self.model.bbox_head)

    def __call__(self, *inputs: Any, **settings: Any) -> dict:
        """Detect as upstream's ``DetInferencer`` does, for code that uses it by itself."""
        return self._inferencer(*inputs, **settings)

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        """Run the detector's test pipeline on a decoded image (H, W, 3), uint8, BGR.

        Returns:
            ``inputs``, a tensor (3, h, w), and ``data_samples``.
        """
        return self.pipeline(image)

    def default_batch_size(self) -> int:
        """Images in one pass that are fastest as a rule."""
        blank = self.prepare(np.zeros((480, 640, 3), np.uint8))
        device = next(self.model.parameters()).device
        return default_batch_size(device, blank['inputs'], split=splits_cores(self.runner.options))

    @torch.no_grad()
    def detect(
        self, prepared: Sequence[dict[str, Any]], bbox_thr: float, nms_thr: float
    ) -> list[np.ndarray]:
        """Detect persons in images of one input shape, as stock does for one image.

        Args:
            prepared: What :meth:`prepare` returned, inputs of equal shape.
            bbox_thr: Boxes must score above this.
            nms_thr: IoU above which the lower scored of two boxes goes.

        Returns:
            For each image a float32 array (N, 5): x1, y1, x2, y2 in pixels of
            the image and a score, in stock's order.
        """
        batch = self.collate_fn(list(prepared))

        def run() -> list[BaseDataElement]:
            samples = with_own_head(self.model).test_step(batch)
            return [self._select(sample, bbox_thr) for sample in samples]

        found = (sample.pred_instances for sample in self.runner.test_step(run))
        boxes = (np.concatenate((f.bboxes, f.scores[:, None]), axis=1) for f in found)
        return [each[nms(each, nms_thr)] for each in boxes]

    def _select(self, sample: BaseDataElement, bbox_thr: float) -> BaseDataElement:
        """Keep what is asked for, as arrays, in place.

        Engines are checked by what is left: hundreds of boxes that score next to
        nothing move by pixels with the last bits of a bfloat16.
        """
        found = sample.pred_instances
        names = 'bboxes', 'scores', 'labels'
        fields = {name: found.get(name).detach().cpu().numpy() for name in names}
        kept = np.isin(fields['labels'], self.cat_ids) & (fields['scores'] > bbox_thr)
        sample.pred_instances = InstanceData(**{name: f[kept] for name, f in fields.items()})
        return sample
