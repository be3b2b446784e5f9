"""The keypoints that a pose model outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Keypoints:
    """Which keypoints a pose model outputs, known before or after it is built.

    Attributes:
        dataset_meta: Meta information of the model's dataset, which describes the keypoints.
        indices: Indices of the keypoints that the model outputs; None for all.
    """

    dataset_meta: dict[str, Any]
    indices: Sequence[int] | None = None

    @property
    def num_keypoints(self) -> int:
        """Number of keypoints of every output instance."""
        indices = self.indices
        return self.dataset_meta['num_keypoints'] if indices is None else len(indices)

    @property
    def sigmas(self) -> np.ndarray:
        """COCO's constant of each output keypoint, (K,); (0,) if the dataset has none."""
        sigmas = np.asarray(self.dataset_meta.get('sigmas', ()))
        return sigmas if self.indices is None or not len(sigmas) else sigmas[list(self.indices)]
