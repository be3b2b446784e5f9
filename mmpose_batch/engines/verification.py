"""Verification: how far the outputs of an engine are from those of PyTorch in fp32."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..errors import FATAL, EngineError, ExportError, OutputsDeviate, is_out_of_memory
from ..workers import WorkerPool
from .base import Engine, EngineOptions
from .registry import needs_samples

# Runs one batch through the model.
Run = Callable[[], Sequence[BaseDataElement]]
# Points (N, K, 2) in pixels and their scores (N, K).
Instances = tuple[np.ndarray, np.ndarray]

# Instances of which a median counts.
_ENOUGH = 5
# Batches that an engine is verified with.
MAX_SAMPLES = 8
# Inputs, at minimum, for later starts to rely on what an engine did with them, and points, for one
# of these to judge it by them: of twenty, a verification in fp32 leaves out one.
MIN_INPUTS, MIN_POINTS = 5, 20

logger = logging.getLogger('mmpose_batch')


@dataclass(frozen=True, slots=True)
class Bound:
    """How much outputs may deviate.

    Attributes:
        size: Distance of points, as a fraction of a person's size (the diagonal of the box
            around it), since a pixel means more on a small one.
        score: Difference of their scores.
        found: Fraction of the instances to be found. Not all: one whose score is at a
            threshold may go either way.
        quantile: Fraction of the values that must not deviate by more.
    """

    size: float
    score: float
    found: float
    quantile: float = 0.95


# Measured on the demo pair (docs/accuracy.md), eight scenes at a time as a run is checked, without
# the medians: bf16, which costs no AP, came to 0.017 and 0.093 at most, int8, heads included then,
# which cost up to 0.9 points, to 0.072 and 0.25. fp16 was not measured. SimCC's scores are no
# probabilities; their mean is 1.07. Eight images hold twenty boxes with forty corners, of which
# 0.95 leave out one: rounding moves more corners that are uncertain.
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
        found: Fraction of these that the other output has too.
        surplus: Number of instances that only the other output has.
        quantile: Fraction of the values that differ by no more than the following, unless a
            point differs by more in most instances: then it is what that one differs by.
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
        """Whether it is small enough."""
        # One whose score is at a threshold may come as well as go, if it is not all there is.
        spare = max(1.0, (1 - bound.found) * self.instances)
        missing = round((1 - self.found) * self.instances)
        return (
            self.size <= bound.size
            and self.score <= bound.score
            and (missing == 0 or missing <= min(spare, self.instances / 3))
            and self.surplus <= spare
        )

    def as_dict(self) -> dict[str, float]:
        """For ``run.json``."""
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
    """Points (N, K, 2) in pixels and their scores (N, K) of one data sample, copied.

    A detection has its two corners for points.
    """
    found = sample.pred_instances
    if 'keypoints' in found:
        return np.array(found.keypoints), np.array(found.keypoint_scores)
    corners = np.array(found.bboxes).reshape(-1, 2, 2)
    return corners, np.repeat(np.array(found.scores)[:, None], 2, axis=1)


def compare(
    reference: Sequence[Instances], other: Sequence[Instances], quantile: float
) -> Difference:
    """Compare two outputs, image by image; each instance with its nearest."""
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
    """The quantile of the points (K,) of every instance, or what one point typically has."""
    if not values:
        return 0.0
    table = np.stack(values)
    upper = np.quantile(table, quantile, method='lower')  # one value of a few is left out
    if len(table) >= _ENOUGH:
        upper = max(upper, np.median(table, axis=0).max())
    return float(upper)


@dataclass(frozen=True, slots=True)
class Sample:
    """What an engine is verified with: a batch, and PyTorch's outputs for it."""

    run: Run
    outputs: list[Instances]


class Samples:
    """Batches of a run, as PyTorch computed them.

    Args:
        batch_size: That is asked for, which decides which engine is fastest.

    Attributes:
        shape: (3, H, W) of the first network inputs.
    """

    def __init__(self, batch_size: int | str | None = None) -> None:
        self.batch_size = batch_size
        self.shape: tuple[int, ...] | None = None
        self._batches: list[Sample] = []

    def add(self, run: Run, outputs: Sequence[BaseDataElement]) -> None:
        """Keep a batch, if there are not enough of them."""
        if len(self._batches) < MAX_SAMPLES:
            self._batches.append(Sample(run, list(map(instances_of, outputs))))

    def note_shape(self, inputs: Tensor) -> None:
        """Keep the shape of the first network inputs (N, 3, H, W)."""
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
    def enough(self) -> bool:
        """Whether there are inputs enough for later starts to rely on what came of them."""
        return sum(len(sample.outputs) for sample in self._batches) >= MIN_INPUTS

    @property
    def judges(self) -> bool:
        """Whether there are points enough to judge an engine by that passed before."""
        outputs = (scores for sample in self._batches for _, scores in sample.outputs)
        return sum(scores.size for scores in outputs) >= MIN_POINTS


def verify(
    name: str, engine: Engine, samples: Samples, options: EngineOptions
) -> Difference | None:
    """Check that an engine runs, and that its outputs match PyTorch's.

    Args:
        name: Of the engine.
        engine: The same; it computes the model's network already.
        samples: Batches to run.
        options: With the precision, and whether a deviating engine is rejected.

    Returns:
        The difference; None where PyTorch's outputs are not known.

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
    bound = BOUNDS[options.precision]
    difference = compare(*zip(*pairs, strict=True), quantile=bound.quantile)
    if not difference.instances:
        logger.warning('engine: no detections in the first images, so %s is not compared', name)
    if options.self_check and not difference.within(bound):
        raise OutputsDeviate(
            f'engine: {name} in {options.precision}: outputs deviate beyond tolerance: '
            f'{difference}. Without the self-check it runs'
        )
    return difference


@torch.no_grad()  # which a thread does not inherit
def _outputs(name: str, sample: Sample) -> list[Instances]:
    """What the engine in place computes for a batch."""
    try:
        return [instances_of(output) for output in sample.run()]
    except ExportError as error:
        raise EngineError(f'engine: {name}: {error}') from error
    except FATAL:
        raise
    except Exception as error:  # PyTorch has run this batch, so it is the engine's fault
        if is_out_of_memory(error):
            raise  # a smaller batch may do
        text = (str(error).splitlines() or [''])[0]
        raise EngineError(
            f'engine: {name} cannot run this model: {type(error).__name__}: {text}'
        ) from error
