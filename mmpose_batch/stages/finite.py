"""A check that decoded values are finite, since thresholds would silently drop NaN.

NaN in the outputs of a network is rejected earlier, by
:func:`mmpose_batch.engines.wrapping.reject_nan`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..engines.wrapping import NAN_CAUSE


def check_finite(fields: Mapping[str, Any]) -> None:
    """Check that decoded values are finite.

    Args:
        fields: Names, such as ``keypoints``, and arrays or tensors; those that hold no floats
            are ignored.

    Raises:
        ValueError: One holds NaN or an infinite value.
    """
    for name, values in sorted(fields.items()):  # of names that share an array, always the same
        if isinstance(values, torch.Tensor):
            values = values.detach().float().cpu() if values.is_floating_point() else ()
        values = np.asarray(values)
        if values.dtype.kind == 'f' and not np.isfinite(values).all():
            found = 'NaN' if np.isnan(values).any() else 'infinite ones'
            raise ValueError(f'expected finite {name}, found {found}: {NAN_CAUSE}')
