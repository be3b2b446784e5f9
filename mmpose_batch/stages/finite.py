"""Check that decoded values are finite, since thresholds would silently drop NaN.

NaN in the outputs of a network is rejected earlier, by
:func:`mmpose_batch.nan_check.reject_nan`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..nan_check import NAN_CAUSE


def check_finite(fields: Mapping[str, Any]) -> None:
    """Check that decoded values are finite.

    Args:
        fields: Arrays or tensors by name, such as ``keypoints``; those without floats are
            ignored.

    Raises:
        ValueError: One contains NaN or an infinite value.
    """
    checked: list[Any] = []
    for name, values in sorted(fields.items()):  # sorted: the same error if names share an array
        if any(values is other for other in checked):
            continue
        checked.append(values)
        if isinstance(values, torch.Tensor):
            values = values.detach().float().cpu() if values.is_floating_point() else ()
        values = np.asarray(values)
        if values.dtype.kind == 'f' and not np.isfinite(values).all():
            found = 'NaN' if np.isnan(values).any() else 'infinite ones'
            raise ValueError(f'expected finite {name}, found {found}: {NAN_CAUSE}')
