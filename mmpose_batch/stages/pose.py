"""The pose model: its crops or whole images, its batches, and the selection of instances."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose
from mmpose.datasets.transforms import LoadImage
from mmpose.structures import PoseDataSample
from torch import nn

from ..batching import ImageInFlight
from ..config import CallOptions
from ..engines.runner import EngineRunner
from ..errors import ImageError, one_line
from ..images.read import load_image
from ..results import ImageResult, select_instances
from ..speedups.crops import CropCache
from ..speedups.samples import add_labels, empty_sample, merge_samples
from .finite import check_finite
from .isolation import with_own_head

Inputs = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseStage:
    """A pose model under the options of one call.

    Attributes:
        model: In eval mode.
        pipeline: Its test pipeline, without what :attr:`loader` does.
        collate: Makes a batch of packed inputs.
        loader: Of the pipeline; None where it has code of its own and reads files itself.
        runner: Runs the network.
        crops: Standard crops of the pipeline.
        top_down: Whether the model takes crops of persons.
        no_person: What is done without detections, see :class:`BatchOptions`.
        num_keypoints: Keypoints of every instance.
        call: The options.
        note: Is told the inputs of every batch.
    """

    model: nn.Module
    pipeline: Compose
    collate: Callable[[Inputs], dict[str, Any]]
    loader: LoadImage | None
    runner: EngineRunner
    crops: CropCache
    top_down: bool
    no_person: str
    num_keypoints: int
    call: CallOptions
    note: Callable[[str, Inputs], None]

    def crop(self, image: ImageInFlight) -> ImageInFlight:
        """Run the config's own pipeline on every instance of one image (worker thread)."""
        if image.result.error is not None:
            return image
        if image.outputs:
            found = image.outputs[0]
            image.bboxes = found[:, :5]
            image.labels = found[:, 5] if found.shape[1] > 5 else None
        try:
            frame = image.result.frame
            info = {'img_path': frame.path, **self.model.dataset_meta}
            # A loader with code of its own reads files itself, as upstream has it do.
            if self.loader is not None or not isinstance(frame.data, str):
                info['img'] = load_image(frame, self.loader, image.pixels)
            if self.top_down:
                image.inputs = self.crop_persons(info, self._persons(image))
            else:
                image.inputs = [self.pipeline(info)]
            if any(packed is None for packed in image.inputs):
                raise ImageError('expected an input of the network, found None from the pipeline')
        except Exception as error:
            image.fail(one_line(error))
            return image
        if self.call.keep_images:
            image.result.image = image.pixels
        image.pixels = None
        return image

    def crop_persons(self, info: dict[str, Any], bboxes: np.ndarray) -> Inputs:
        """Crop persons (N, 5) of one image as the pipeline does."""
        crops = self.crops.of(self.pipeline, self.model.dataset_meta, info.get('img'))
        if crops is not None:
            return crops(info, bboxes)
        return [
            self.pipeline({**info, 'bbox': bbox[None, :4], 'bbox_score': bbox[4:5]})
            for bbox in bboxes
        ]

    def _persons(self, image: ImageInFlight) -> np.ndarray:
        """Boxes (N, 5) of one image: given, detected, or the whole image."""
        found_none = image.bboxes is not None and len(image.bboxes) == 0
        if image.bboxes is None or (found_none and self.no_person == 'whole_image'):
            width, height = image.result.size
            return np.array([[0, 0, width, height, 1]], dtype=np.float32)
        return image.bboxes

    @torch.no_grad()
    def run(self, packed: Inputs) -> Sequence[PoseDataSample]:
        """Put one batch through the network, under this call's settings and no other's."""
        self.note('pose', packed)
        model = copy.copy(self.model)  # all but the settings is shared
        model.test_cfg = self.call.test_cfg
        batch = self.collate(packed)
        return self.runner.test_step(lambda: with_own_head(model).test_step(batch))

    def finish(self, image: ImageInFlight) -> ImageResult:
        """Turn the outputs for one image into its result."""
        result = image.result
        if result.error is None:
            try:
                result.data_samples = self._select(image)
            except Exception as error:  # mmpose's NMS fails on a pose without extent, say
                image.fail(f'selection of instances: {one_line(error)}')
        return result

    def _select(self, image: ImageInFlight) -> list[PoseDataSample]:
        """Merge the persons of one image and drop instances by upstream's rules."""
        path, size = image.result.frame.path, image.result.size
        samples = image.outputs or [empty_sample(path, size, self.num_keypoints)]
        for sample in samples:
            check_finite(dict(sample.pred_instances.items()))
        if image.labels is not None:
            add_labels(samples, image.labels)
        if self.top_down and self.call.merge_results:
            samples = [merge_samples(samples)]
        select_thr, pose_based_nms = self.call.select_thr, self.call.pose_based_nms
        return [select_instances(sample, select_thr, pose_based_nms) for sample in samples]
