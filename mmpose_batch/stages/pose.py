"""The pose model: its inputs (crops or complete images), batches, and selected instances."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import Compose
from mmpose.datasets.transforms import LoadImage
from mmpose.structures import PoseDataSample
from torch import nn

from ..batching import ImageInFlight
from ..config import CallOptions
from ..engines.batch_size import default_batch_size
from ..engines.runner import EngineRunner
from ..errors import ImageError, one_line
from ..images.read import image_loader, load_image, plain_loader
from ..models.checks.pipelines import check_first_step, check_loader
from ..models.keypoints import Keypoints
from ..results import ImageResult, select_instances
from ..speedups.crops import CropCache
from ..speedups.samples import add_labels, empty_sample, merge_samples
from .finite import check_finite
from .isolation import with_own_head

Inputs = list[dict[str, Any]]


@dataclass(kw_only=True)
class PoseModel:
    """A pose model and the preprocessing of its inputs.

    Attributes:
        model: The network, in eval mode.
        pipeline: Test pipeline of the model's config.
        collate: Function that joins packed inputs into a batch.
        top_down: Whether the inputs are crops of persons.
    """

    model: nn.Module
    pipeline: Compose
    collate: Callable[[Inputs], dict[str, Any]]
    top_down: bool

    @cached_property
    def loader(self) -> LoadImage | None:
        """Loader of the pipeline; None if a custom loader reads files itself."""
        return image_loader(self.pipeline)

    @cached_property
    def plain_loader(self) -> LoadImage:
        """A default loader with the pipeline's file backend."""
        return plain_loader(self.pipeline)

    @cached_property
    def _loader_is_checked(self) -> bool:
        check_first_step(self.pipeline.transforms[0])
        check_loader(self.loader or self.plain_loader)
        return True

    def check_loader(self) -> None:
        """Check that the loader of the config can read files; arrays and videos need none.

        Raises:
            ValueError: The file backend or decoder is unknown or not installed.
        """
        _ = self._loader_is_checked

    @property
    def keypoints(self) -> Keypoints:
        """The keypoints that the model outputs."""
        indices = self.model.test_cfg.get('output_keypoint_indices')
        return Keypoints(self.model.dataset_meta, indices)

    def call_options(
        self,
        batch_size: int | str,
        flip_test: bool | None,
        bbox_thr: float = 0.3,
        nms_thr: float = 0.3,
        draw_heatmap: bool = False,
        **options: Any,
    ) -> CallOptions:
        """Build the options of one call, with the model's test settings.

        Args:
            batch_size: Instances per forward pass, or ``'auto'``.
            flip_test: Whether the model uses the flip test; None as its config says.
            bbox_thr: See :class:`mmpose_batch.config.CallOptions`.
            nms_thr: See there.
            draw_heatmap: Whether heatmaps are output, for drawing.
            **options: Other fields of :class:`mmpose_batch.config.CallOptions`.

        Raises:
            ValueError: An option out of range.
            TypeError: An unknown option.
        """
        thresholds = {'bbox_thr': bbox_thr, 'nms_thr': nms_thr}
        test_cfg = self._test_cfg(bbox_thr, nms_thr, draw_heatmap, flip_test)
        return CallOptions(batch_size=batch_size, test_cfg=test_cfg, **thresholds, **options)

    def _test_cfg(
        self, bbox_thr: float, nms_thr: float, output_heatmaps: bool, flip_test: bool | None
    ) -> ConfigDict:
        if type(self.model).__name__ == 'BottomupPoseEstimator':
            # One-stage heads filter inside predict, by these settings.
            test_cfg = dict(self.model.head.test_cfg)
            own = {'score_thr': bbox_thr, 'nms_thr': nms_thr}
            test_cfg.update({key: value for key, value in own.items() if key in test_cfg})
        else:
            test_cfg = dict(self.model.test_cfg)
        test_cfg['output_heatmaps'] = output_heatmaps
        if flip_test is not None:
            test_cfg['flip_test'] = flip_test
        return ConfigDict(test_cfg)

    def default_batch_size(self, split: bool) -> int:
        """Inputs per forward pass that are typically fastest on the model's device.

        Args:
            split: Whether the engine runs several batches concurrently on separate cores.
        """
        info = {'img_path': '', **self.model.dataset_meta}
        info['img'] = np.zeros((480, 640, 3), np.uint8)
        if self.top_down:
            info.update(bbox=np.float32([[0, 0, 640, 480]]), bbox_score=np.ones(1, np.float32))
        try:
            inputs = self.pipeline(info)['inputs']
        except Exception:  # a third-party pipeline may need a real file
            inputs = None
        device = next(self.model.parameters()).device
        return default_batch_size(device, inputs, crops=self.top_down, split=split)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseStage:
    """A pose model with the options of one call.

    Attributes:
        pose: The model.
        runner: Engine runner of its network.
        crops: Cache of the faster equivalents of its crops.
        no_person: Result of an image without detections, see :class:`BatchOptions`.
        call: Options of the call.
        alone: Whether batches run one by one, for the lowest latency.
        note: Called with the name of the network and the inputs of every batch.
    """

    pose: PoseModel
    runner: EngineRunner
    crops: CropCache
    no_person: str
    call: CallOptions
    alone: bool
    note: Callable[[str, Inputs], None]

    def crop(self, image: ImageInFlight) -> ImageInFlight:
        """Run the config's own pipeline on every instance of one image (worker thread)."""
        if image.result.error is not None:
            return image
        if image.detections:
            found = image.detections[0]
            image.persons = found[:, :5]
            image.labels = found[:, 5] if found.shape[1] > 5 else None
        pose = self.pose
        try:
            frame = image.result.frame
            info = {'img_path': frame.path, **pose.model.dataset_meta}
            # A custom loader reads files itself, as in upstream.
            if pose.loader is not None or not isinstance(frame.data, str):
                info['img'] = load_image(frame, pose.loader, image.pixels)
            if pose.top_down:
                image.crops = self.crop_persons(info, self._persons(image))
            else:
                image.crops = [pose.pipeline(info)]
            if any(packed is None for packed in image.crops):
                raise ImageError('expected an input of the network, found None from the pipeline')
        except Exception as error:
            image.fail(one_line(error))
            return image
        if self.call.keep_images:
            image.result.image = image.pixels
        image.pixels = None
        return image

    def crop_persons(self, info: dict[str, Any], bboxes: np.ndarray) -> Inputs:
        """Crop the persons of one image, boxes (N, 5), as the pipeline does."""
        pose = self.pose
        crops = self.crops.of(pose.pipeline, pose.model.dataset_meta, info.get('img'))
        if crops is not None:
            return crops(info, bboxes)
        return [
            pose.pipeline({**info, 'bbox': bbox[None, :4], 'bbox_score': bbox[4:5]})
            for bbox in bboxes
        ]

    def _persons(self, image: ImageInFlight) -> np.ndarray:
        """Person boxes (N, 5) of one image: precomputed, detected, or the complete image."""
        found_none = image.persons is not None and len(image.persons) == 0
        if image.persons is None or (found_none and self.no_person == 'whole_image'):
            width, height = image.result.size
            return np.array([[0, 0, width, height, 1]], dtype=np.float32)
        return image.persons

    @torch.no_grad()
    def run(self, packed: Inputs) -> Sequence[PoseDataSample]:
        """Run one batch through the network, with the settings of this call."""
        self.note('pose', packed)
        model = copy.copy(self.pose.model)  # everything except the settings is shared
        model.test_cfg = self.call.test_cfg
        batch = self.pose.collate(packed)
        return self.runner.test_step(lambda: with_own_head(model).test_step(batch), self.alone)

    def finish(self, image: ImageInFlight) -> ImageResult:
        """Make the result of one image from the outputs of the network."""
        result = image.result
        if result.error is None:
            try:
                result.data_samples = self._select(image)
            except Exception as error:  # MMPose's NMS fails on a pose without extent, for example
                image.fail(f'selection of instances: {one_line(error)}')
        return result

    def _select(self, image: ImageInFlight) -> list[PoseDataSample]:
        """Merge the persons of one image and drop instances by upstream's rules."""
        path, size = image.result.frame.path, image.result.size
        samples = image.poses or [empty_sample(path, size, self.pose.keypoints.num_keypoints)]
        for sample in samples:
            check_finite(dict(sample.pred_instances.items()))
        if image.labels is not None:
            add_labels(samples, image.labels)
        if self.pose.top_down and self.call.merge_results:
            samples = [merge_samples(samples)]
        select_thr, pose_based_nms = self.call.select_thr, self.call.pose_based_nms
        return [select_instances(sample, select_thr, pose_based_nms) for sample in samples]
