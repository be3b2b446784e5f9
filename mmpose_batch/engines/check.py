"""How far the answers of an engine are from those of PyTorch in fp32."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from mmengine.structures import BaseDataElement

# Instances of which a median is told.
_ENOUGH = 5


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that values may differ.

    Attributes:
        size: Of the points, in parts of a person's size (the diagonal of the box around
            it), since a pixel means more on a small one.
        score: Of their scores.
        found: Part of the instances to be found. Not all: one whose score is at a
            threshold may go either way.
        quantile: Part of the values that must not differ by more.
    """

    size: float
    score: float
    found: float
    quantile: float = 0.95


# Measured on the demo pair (docs/accuracy.md), eight scenes at a time as a run is checked, without
# the medians: bf16, which costs no AP, came to 0.017 and 0.093 at most, int8, heads included then,
# which cost up to 0.9 points, to 0.072 and 0.25. fp16 was not measured. SimCC's scores are no
# probabilities; their mean is 1.07. Eight images hold twenty boxes with forty corners, of which
# 0.95 leave out one: rounding moves more that nobody is sure of.
BOUNDS = {
    'fp32': Bound(size=0.001, score=0.001, found=0.9),
    'bf16': Bound(size=0.02, score=0.1, found=0.9, quantile=0.9),
    'fp16': Bound(size=0.01, score=0.02, found=0.9),
    'int8': Bound(size=0.08, score=0.3, found=0.8, quantile=0.9),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Between two answers to one batch.

    Attributes:
        instances: Of the reference.
        found: Part of these that the other answer has too.
        surplus: Instances that only the other answer has.
        quantile: Part of the values that differ by no more than the following, unless a
            point differs by more in most instances: then it is what that one differs by.
        px: Of points, in pixels of the image.
        size: Of points, as parts of the person's size.
        score: Of scores.
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
            return 'nobody in the first images, nothing to compare'
        return (
            f'{self.px:.3f} px and {self.score:.4f} score from PyTorch in fp32 '
            f'({self.quantile:.0%} of the values; {self.found:.0%} of {self.instances} instances'
            + (f', {self.surplus} more)' if self.surplus else ')')
        )


Instances = tuple[np.ndarray, np.ndarray]


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
    """Compare two answers to one batch, image by image; each instance with its nearest."""
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
        px=_most(lengths, quantile),
        size=_most(parts, quantile),
        score=_most(scores, quantile),
    )


def _most(values: Sequence[np.ndarray], quantile: float) -> float:
    """Of the points (K,) of every instance."""
    if not values:
        return 0.0
    table = np.stack(values)
    most = np.quantile(table, quantile, method='lower')  # one value of a few is left out
    if len(table) >= _ENOUGH:
        most = max(most, np.median(table, axis=0).max())
    return float(most)
