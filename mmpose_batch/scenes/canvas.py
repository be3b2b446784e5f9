"""An image under construction."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Canvas:
    """An image under construction.

    Attributes:
        colors: float32 (H, W, 3), RGB from 0 to 255.
        owners: int16 (H, W), number of the figure that a pixel shows; -1 for none.
        parts: int16 (H, W), number of the part of that figure; -1 for none.
    """

    colors: np.ndarray
    owners: np.ndarray = field(init=False)
    parts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.owners = np.full(self.colors.shape[:2], -1, np.int16)
        self.parts = np.full(self.colors.shape[:2], -1, np.int16)

    def cover(self, mask: np.ndarray, window: tuple[slice, ...] = ()) -> None:
        """Note that the pixels of a mask, in a window of the image, no longer show a figure."""
        self.owners[window][mask] = -1
        self.parts[window][mask] = -1
