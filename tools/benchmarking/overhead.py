"""Time per person outside the network, in this package and in upstream MMPose."""

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from statistics import median
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import orjson
import torch
from mmpose.structures import merge_data_samples, split_instances

from mmpose_batch.batching import ImageInFlight
from mmpose_batch.inferencer import BatchPose2DInferencer
from mmpose_batch.results import ImageResult, to_record
from mmpose_batch.scenes import draw_scene
from mmpose_batch.sources.base import Frame
from mmpose_batch.speedups.samples import copy_sample

from .rounds import Estimate, estimate

HERE, UPSTREAM = 'here', 'upstream'
# Stages in the order of a run, and their names in a table.
STAGES = {
    'prepare': 'cropping, data samples',
    'normalise': 'stacking, normalising',
    'decode': 'decoding the outputs of the network',
    'result': 'result as a JSON line',
}
# Repeats, so that a sample takes some milliseconds even for an image with few persons.
_PERSONS_PER_SAMPLE = 100


@dataclass(frozen=True, slots=True)
class Overhead:
    """Milliseconds per person.

    Attributes:
        here, upstream: Stage to the median of all rounds.
        ratios: Stage to the ratio of upstream to here, round by round.
    """

    here: dict[str, float]
    upstream: dict[str, float]
    ratios: dict[str, Estimate]


@torch.no_grad()
def measure_overhead(inferencer: BatchPose2DInferencer, persons: int, rounds: int) -> Overhead:
    """Time every stage for one image, on one core.

    The network runs once; its outputs are decoded repeatedly. The order of both systems
    alternates from round to round. The threads of PyTorch and OpenCV are set to one for the
    complete process.

    Args:
        inferencer: Inferencer of a top-down model, with its network in eager PyTorch on a CPU.
        persons: Number of boxes in the image.
        rounds: Number of times that every stage is timed.

    Raises:
        ValueError: The model is not top-down, or the decoding of its head is not supported.
    """
    if inferencer.cfg.data_mode != 'topdown':
        raise ValueError('expected a top-down model: other models have no crops')
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    ways = Ways(inferencer, persons)
    repeats = ceil(_PERSONS_PER_SAMPLE / persons)
    samples = defaultdict[tuple[str, str], list[float]](list)
    for number in range(rounds):
        for stage in STAGES:
            for system in (HERE, UPSTREAM) if number % 2 else (UPSTREAM, HERE):
                seconds = _time(getattr(ways, f'{stage}_{system}'), repeats)
                samples[stage, system].append(seconds / repeats / persons * 1e3)
    ratios = {
        stage: [u / h for h, u in zip(samples[stage, HERE], samples[stage, UPSTREAM], strict=True)]
        for stage in STAGES
    }
    return Overhead(
        {stage: median(samples[stage, HERE]) for stage in STAGES},
        {stage: median(samples[stage, UPSTREAM]) for stage in STAGES},
        {stage: estimate(found) for stage, found in ratios.items()},
    )


def _time(work: Callable[[], object], repeats: int) -> float:
    work()  # fills the caches, which the other system used before
    start = perf_counter()
    for _ in range(repeats):
        work()
    return perf_counter() - start


class Ways:
    """Every stage in both systems, for one image that is covered with boxes."""

    def __init__(self, inferencer: BatchPose2DInferencer, persons: int) -> None:
        self._inferencer, model = inferencer, inferencer.model
        self._pose = inferencer.predictor.pipeline_of(inferencer.call_options()).pose
        image = np.ascontiguousarray(
            draw_scene(0, 0).image
        )  # in the memory layout of a file that was read
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
        self._outputs = _outputs(model, batch['inputs'], self._samples)
        self._decoded = self.decode_here()
        error = orjson.loads(self.result_here()).get('error')
        if error is not None:
            raise ValueError(f'the model failed: {error}')

    def prepare_here(self) -> list[dict[str, Any]]:
        """Network inputs of all persons, by this package."""
        return self._pose.crop_persons(self._info, self._bboxes)

    def prepare_upstream(self) -> list[dict[str, Any]]:
        """The same, by one call of the pipeline per person."""
        return [
            self._inferencer.pipeline(
                {**self._info, 'bbox': bbox[None, :4], 'bbox_score': bbox[4:5]}
            )
            for bbox in self._bboxes
        ]

    def normalise_here(self) -> list[dict[str, Any]]:
        """Normalised batches, of the batch size of this package."""
        size = self._inferencer.options.batch_size
        size = size if isinstance(size, int) else len(self._packed)
        return self._normalise(self._inferencer.model.data_preprocessor, size)

    def normalise_upstream(self) -> list[dict[str, Any]]:
        """One normalised batch, since upstream puts all persons of an image into one."""
        preprocessor = self._inferencer.model.data_preprocessor
        return self._normalise(getattr(preprocessor, 'upstream', preprocessor), len(self._packed))

    def _normalise(
        self, preprocessor: Callable[[dict[str, Any]], Any], size: int
    ) -> list[dict[str, Any]]:
        parts = [self._packed[i : i + size] for i in range(0, len(self._packed), size)]
        return [preprocessor(self._inferencer.collate_fn(part)) for part in parts]

    def decode_here(self) -> list[Any]:
        """Data samples with keypoints in pixels of the image."""
        return self._decode(self._inferencer.model.head.decode)

    def decode_upstream(self) -> list[Any]:
        """The same, by the class of the head."""
        head = self._inferencer.model.head
        return self._decode(partial(type(head).decode, head))

    def _decode(self, decode: Callable[[Any], Any]) -> list[Any]:
        model, samples = self._inferencer.model, list(map(copy_sample, self._samples))
        return model.add_pred_to_datasample(decode(self._outputs), None, samples)

    def result_here(self) -> bytes:
        """A line of ``predictions.jsonl``."""
        result = ImageResult(Frame(0, '0.jpg', '0.jpg'), self._size)
        image = ImageInFlight(result, poses=list(self._decoded))
        return orjson.dumps(to_record(self._pose.finish(image)))

    def result_upstream(self) -> bytes:
        """The result of upstream for an image, written by an equally fast JSON library."""
        instances = split_instances(merge_data_samples(self._decoded).pred_instances)
        return orjson.dumps(instances, option=orjson.OPT_SERIALIZE_NUMPY)


def _outputs(model: torch.nn.Module, inputs: torch.Tensor, samples: list[Any]) -> Any:
    """The arguments that a head passes to its ``decode``."""
    head, seen = copy.copy(model.head), []

    def decode(outputs: Any) -> Any:
        seen.append(outputs)
        return type(head).decode(head, outputs)

    head.decode = decode
    head.predict(model.extract_feat(inputs), samples, test_cfg={})
    if not seen:
        raise ValueError(f'{type(head).__name__} has its own decoding, which is not supported')
    return seen[0]
