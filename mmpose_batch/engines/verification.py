"""Verification of engines: their outputs are compared with those of PyTorch in fp32."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..errors import EngineError, ExportError, OutputsDeviate, is_fatal, is_out_of_memory
from ..workers import WorkerPool
from .base import Engine, EngineOptions
from .registry import needs_samples

# Runs one batch through the model.
Run = Callable[[], Sequence[BaseDataElement]]
# Points (N, K, 2) in pixels and their scores (N, K).
Instances = tuple[np.ndarray, np.ndarray]

# With fewer instances the median of each keypoint is not compared.
_MIN_FOR_MEDIAN = 5
# Batches that an engine is verified with.
MAX_SAMPLES = 8
# Minimum number of inputs for a passed verification to be cached.
MIN_INPUTS = 5
# Minimum number of points to verify an engine that has passed before. The quantile of fp32 leaves
# out one point in twenty.
MIN_POINTS = 20

logger = logging.getLogger('mmpose_batch')


@dataclass(frozen=True, slots=True)
class Bound:
    """Tolerance for the outputs of an engine.

    Attributes:
        size: Maximum distance of points, as a fraction of the person's size (the diagonal of
            the box around its points), since a pixel matters more on a small person.
        score: Maximum difference of scores.
        found: Minimum fraction of the reference's instances that must be found. It is less
            than 1, since rounding decides about instances with a score close to a threshold.
        quantile: Fraction of the values that must be within ``size`` and ``score``.
    """

    size: float
    score: float
    found: float
    quantile: float = 0.95


# The bounds follow from measurements with the demo models (docs/accuracy.md) on sets of eight
# synthetic scenes, as in a verification, without the medians. Maximum size and score were 0.017 and
# 0.093 in bf16, which costs no AP, and 0.072 and 0.25 in int8 with quantised heads, which costs up
# to 0.9 points of AP. fp16 was not measured, nor was TF32, which has the mantissa of fp16 and
# therefore its bound. SimCC's scores are not probabilities: their mean is 1.07. The quantile is 0.9
# in bf16 and int8, since eight images have about twenty boxes with forty corners, of which 0.95
# would leave out only two, and rounding moves more corners than that.
BOUNDS = {
    'fp32': Bound(size=0.001, score=0.001, found=0.9),
    'bf16': Bound(size=0.02, score=0.1, found=0.9, quantile=0.9),
    'fp16': Bound(size=0.01, score=0.02, found=0.9),
    'int8': Bound(size=0.08, score=0.3, found=0.8, quantile=0.9),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between two outputs for the same batches.

    Attributes:
        instances: Number of instances of the reference.
        found: Fraction of these instances that are also in the other output.
        surplus: Number of instances that the other output has in addition.
        quantile: Quantile of all values to which ``px``, ``size`` and ``score`` refer. If the
            median over all instances of one point is larger, they are that median.
        px: Distance of points, in pixels of the image.
        size: Distance of points, as a fraction of the person's size.
        score: Difference of scores.
    """

    instances: int
    found: float
    surplus: int
    quantile: float
    px: float
    size: float
    score: float

    def within(self, bound: Bound) -> bool:
        """Return whether the difference is within a tolerance."""
        # One instance with a score close to a threshold may be surplus or, of at least three,
        # missing.
        spare = max(1.0, (1 - bound.found) * self.instances)
        missing = round((1 - self.found) * self.instances)
        return (
            self.size <= bound.size
            and self.score <= bound.score
            and (missing == 0 or missing <= min(spare, self.instances / 3))
            and self.surplus <= spare
        )

    def as_dict(self) -> dict[str, float]:
        """Return all fields, in the format of ``run.json``."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.instances and not self.surplus:
            return 'no detections in the first images, nothing to compare'
        return (
            f'{self.px:.3f} px and {self.score:.4f} score from PyTorch in fp32 '
            f'({self.quantile:.0%} of the values; {self.found:.0%} of {self.instances} instances'
            + (f', {self.surplus} more)' if self.surplus else ')')
        )


def instances_of(sample: BaseDataElement) -> Instances:
    """Return copies of the points (N, K, 2) in pixels and scores (N, K) of one data sample.

    The points of a detection are two corners of its box.
    """
    found = sample.pred_instances
    if 'keypoints' in found:
        return np.array(found.keypoints), np.array(found.keypoint_scores)
    corners = np.array(found.bboxes).reshape(-1, 2, 2)
    return corners, np.repeat(np.array(found.scores)[:, None], 2, axis=1)


def compare(
    reference: Sequence[Instances], other: Sequence[Instances], quantile: float
) -> Difference:
    """Compare two outputs image by image, each reference instance with the nearest other one.

    Args:
        reference: Instances of each image.
        other: Instances of the same images from another engine.
        quantile: Quantile of the values in the result.
    """
    lengths, parts, scores = [], [], []
    instances = found = surplus = 0
    for (points, values), (their_points, their_values) in zip(reference, other, strict=True):
        instances += len(points)
        surplus += max(0, len(their_points) - len(points))
        for instance, value in zip(points, values, strict=True):
            if not len(their_points):
                continue
            size = max(float(np.linalg.norm(np.ptp(instance, axis=0))), 1.0)
            distances = np.linalg.norm(their_points - instance, axis=-1)
            nearest = int(np.median(distances, axis=1).argmin())
            if np.median(distances[nearest]) > 0.1 * size:
                continue
            found += 1
            lengths.append(distances[nearest])
            parts.append(distances[nearest] / size)
            scores.append(np.abs(their_values[nearest] - value))
    return Difference(
        instances=instances,
        found=found / instances if instances else 1.0,
        surplus=surplus,
        quantile=quantile,
        px=_upper(lengths, quantile),
        size=_upper(parts, quantile),
        score=_upper(scores, quantile),
    )


def _upper(values: Sequence[np.ndarray], quantile: float) -> float:
    """Quantile of the values (K,) of all instances, or the largest median of a point if larger."""
    if not values:
        return 0.0
    table = np.stack(values)
    # With method 'lower', one outlier is left out even if there are few values.
    upper = np.quantile(table, quantile, method='lower')
    if len(table) >= _MIN_FOR_MEDIAN:
        upper = max(upper, np.median(table, axis=0).max())
    return float(upper)


@dataclass(frozen=True, slots=True)
class Sample:
    """A batch that an engine is verified with, and PyTorch's outputs for it.

    Attributes:
        run: The model's ``test_step`` on the batch.
        outputs: PyTorch's instances for each input.
    """

    run: Run
    outputs: list[Instances]


class Samples:
    """Batches of a run with PyTorch's outputs for them.

    Args:
        batch_size: Requested batch size, on which the fastest engine depends.

    Attributes:
        shape: (3, H, W) of the first network inputs.
    """

    def __init__(self, batch_size: int | str | None = None) -> None:
        self.batch_size = batch_size
        self.shape: tuple[int, ...] | None = None
        self._batches: list[Sample] = []

    def add(self, run: Run, outputs: Sequence[BaseDataElement]) -> None:
        """Add a batch, unless there are :data:`MAX_SAMPLES` already.

        Args:
            run: The model's ``test_step`` on the batch.
            outputs: PyTorch's data samples for it.
        """
        if len(self._batches) < MAX_SAMPLES:
            self._batches.append(Sample(run, list(map(instances_of, outputs))))

    def note_shape(self, inputs: Tensor) -> None:
        """Store the shape of the first network inputs (N, 3, H, W)."""
        self.shape = self.shape or tuple(inputs.shape[1:])

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._batches)

    @property
    def largest(self) -> Sample:
        """The batch with the largest number of outputs."""
        return max(self._batches, key=lambda sample: len(sample.outputs))

    @property
    def enough_inputs(self) -> bool:
        """Whether there are enough inputs to cache that an engine passed with them."""
        return sum(len(sample.outputs) for sample in self._batches) >= MIN_INPUTS

    @property
    def enough_points(self) -> bool:
        """Whether there are enough points to verify an engine that passed before."""
        outputs = (scores for sample in self._batches for _, scores in sample.outputs)
        return sum(scores.size for scores in outputs) >= MIN_POINTS


def verify(
    name: str, engine: Engine, samples: Samples, options: EngineOptions, tf32: bool = False
) -> Difference | None:
    """Check that an engine runs, and that its outputs match PyTorch's.

    Args:
        name: Name of the engine.
        engine: The engine, which must be active in the network swap of the model.
        samples: Batches to run.
        options: Options with the precision, and whether an engine that deviates is rejected.
        tf32: Whether fp32 convolutions are computed in TF32, except for PyTorch's outputs.

    Returns:
        The difference; None if PyTorch's outputs are not known.

    Raises:
        EngineError: The engine cannot run a batch.
        OutputsDeviate: Its outputs deviate beyond the tolerance of the precision.
    """
    threads = engine.parallel if engine.parallel > 1 else 0
    with WorkerPool(threads) as pool:
        outputs = pool.map(partial(_outputs, name), samples, ahead=engine.parallel)
        pairs = [
            pair
            for sample, found in zip(samples, outputs, strict=True)
            for pair in zip(sample.outputs, found, strict=needs_samples(options))
        ]
    if not pairs:
        return None
    bound = BOUNDS['fp16' if tf32 and options.precision == 'fp32' else options.precision]
    difference = compare(*zip(*pairs, strict=True), quantile=bound.quantile)
    if not difference.instances:
        logger.warning('engine: no detections in the first images; %s is not verified', name)
    if options.self_check and not difference.within(bound):
        raise OutputsDeviate(
            f'engine: {name} in {options.precision}: outputs deviate beyond tolerance: '
            f'{difference}. --no-self-check runs it unverified'
        )
    return difference


@torch.no_grad()  # which a thread does not inherit
def _outputs(name: str, sample: Sample) -> list[Instances]:
    """Instances that the active engine outputs for a batch."""
    try:
        return [instances_of(output) for output in sample.run()]
    except ExportError as error:
        raise EngineError(f'engine: {name}: {error}') from error
    except Exception as error:  # PyTorch has run this batch, so it is the engine's fault
        if is_fatal(error) or is_out_of_memory(error):
            raise  # with too little memory, a smaller batch may fit
        text = (str(error).splitlines() or [''])[0]
        raise EngineError(
            f'engine: {name} cannot run this model: {type(error).__name__}: {text}'
        ) from error
