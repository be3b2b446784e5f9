"""What a person costs outside the network: this package, and the way stock goes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import orjson
import torch
from mmpose.models.heads.base_head import BaseHead
from mmpose.structures import merge_data_samples, split_instances

from ..batching import ImageInFlight
from ..inferencer import BatchPose2DInferencer
from ..results import ImageResult, copy_sample
from ..scenes import draw_scene
from ..sources import Frame
from ..writers.jsonl import to_record
from .rounds import Estimate, Rounds, Stopping, estimate, run_rounds

_NUMPY = orjson.OPT_SERIALIZE_NUMPY
HERE, STOCK = 'here', 'stock'
# In the order of a run; what they are called in a table.
STAGES = {
    'prepare': 'crops and their samples',
    'normalise': 'a batch of them, normalised',
    'decode': 'keypoints from what the network says',
    'result': "an image's result, as a line of JSON",
}


@dataclass(frozen=True, slots=True)
class Overhead:
    """Milliseconds a person.

    Attributes:
        here, stock: Stage to the median of all rounds.
        ratios: Stage to stock over here, round by round.
    """

    here: dict[str, float]
    stock: dict[str, float]
    ratios: dict[str, Estimate]


@torch.no_grad()
def measure_overhead(
    inferencer: BatchPose2DInferencer, persons: int, stopping: Stopping
) -> Overhead:
    """Time every stage for one image, on one core.

    The network runs once; its outputs are decoded again and again.

    Args:
        inferencer: Of a top-down model with its whole network in eager PyTorch.
        persons: Boxes in the image.
        stopping: When there were rounds enough.

    Raises:
        ValueError: The model is no top-down model.
    """
    if inferencer.cfg.data_mode != 'topdown':
        raise ValueError('expected a top-down model: only those prepare persons')
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    work = _Work(inferencer, persons)
    runs = {
        f'{stage} {who}': partial(_rate, getattr(work, f'{stage}_{who}'), persons)
        for stage in STAGES
        for who in (HERE, STOCK)
    }
    for run in runs.values():
        run()
    rounds = run_rounds(runs, {f'{s} {HERE}': f'{s} {STOCK}' for s in STAGES}, stopping)
    return Overhead(
        _milliseconds(rounds, HERE),
        _milliseconds(rounds, STOCK),
        {stage: estimate(rounds.ratios(f'{stage} {HERE}')) for stage in STAGES},
    )


def _rate(work: Callable[[], object], persons: int) -> float:
    start = perf_counter()
    work()
    return persons / (perf_counter() - start)


def _milliseconds(rounds: Rounds, who: str) -> dict[str, float]:
    return {stage: 1e3 / median(rounds.rates[f'{stage} {who}']) for stage in STAGES}


class _Work:
    """Both ways through every stage, for one image with boxes all over it."""

    def __init__(self, inferencer: BatchPose2DInferencer, persons: int) -> None:
        self._inferencer, model = inferencer, inferencer.model
        self._call = inferencer.call_options()
        image = np.ascontiguousarray(draw_scene(0, 0).image)  # as files are read
        self._info = {'img': image, 'img_path': '0.jpg', **model.dataset_meta}
        height, width = image.shape[:2]
        self._size = (width, height)
        rng = np.random.default_rng(0)
        corners = rng.uniform(0, (0.7 * width, 0.5 * height), (persons, 2))
        sizes = rng.uniform((0.1 * width, 0.2 * height), (0.3 * width, 0.5 * height), (persons, 2))
        ones = np.ones((persons, 1))
        self._bboxes = np.hstack([corners, corners + sizes, ones]).astype(np.float32)
        self._packed = self.prepare_here()
        (batch,) = self._normalise(model.data_preprocessor, persons)
        self._samples = batch['data_samples']
        self._outputs = model.head.forward(model.extract_feat(batch['inputs']))
        self._decoded = self.decode_here()

    def prepare_here(self) -> list[dict[str, Any]]:
        return self._inferencer._prepare_persons(self._info, self._bboxes)

    def prepare_stock(self) -> list[dict[str, Any]]:
        return [
            self._inferencer.pipeline(
                {**self._info, 'bbox': bbox[None, :4], 'bbox_score': bbox[4:5]}
            )
            for bbox in self._bboxes
        ]

    def normalise_here(self) -> list[dict[str, Any]]:
        size = self._inferencer.options.batch_size
        return self._normalise(self._inferencer.model.data_preprocessor, size)

    def normalise_stock(self) -> list[dict[str, Any]]:
        """Stock puts all persons of an image into one batch."""
        preprocessor = self._inferencer.model.data_preprocessor
        return self._normalise(getattr(preprocessor, 'stock', preprocessor), len(self._packed))

    def _normalise(
        self, preprocessor: Callable[[dict[str, Any]], Any], size: int
    ) -> list[dict[str, Any]]:
        parts = [self._packed[i : i + size] for i in range(0, len(self._packed), size)]
        return [preprocessor(self._inferencer.collate_fn(part)) for part in parts]

    def decode_here(self) -> list[Any]:
        return self._decode(self._inferencer.model.head.decode)

    def decode_stock(self) -> list[Any]:
        return self._decode(partial(BaseHead.decode, self._inferencer.model.head))

    def _decode(self, decode: Callable[[Any], Any]) -> list[Any]:
        model, samples = self._inferencer.model, list(map(copy_sample, self._samples))
        return model.add_pred_to_datasample(decode(self._outputs), None, samples)

    def result_here(self) -> bytes:
        result = ImageResult(Frame(0, '0.jpg', '0.jpg'), self._size)
        image = ImageInFlight(result, outputs=list(self._decoded))
        return orjson.dumps(to_record(self._inferencer._finish(image, self._call)))

    def result_stock(self) -> bytes:
        merged = merge_data_samples(self._decoded)
        return orjson.dumps(split_instances(merged.pred_instances), option=_NUMPY)
