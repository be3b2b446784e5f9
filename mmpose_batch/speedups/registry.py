"""The faster equivalents of MMPose's steps, grouped by the objects that they change.

Each group is applied in order by :func:`mmpose_batch.speedups.base.apply_changes`. Crops
(:mod:`mmpose_batch.speedups.crops`) and data samples do not change objects in place and are not
listed.
"""

from .fusion import FUSIONS
from .loader import ARRAYS_TOO
from .normalize import STACK_FIRST
from .onestage import COMPLETE_BATCH
from .topdown import ALL_PERSONS, COPIED_AT_ONCE

#: For the head of a pose model, after it has been built.
POSE_HEAD = (ALL_PERSONS, COPIED_AT_ONCE, COMPLETE_BATCH)
#: For a pose model or detector in eval mode whose network runs in PyTorch.
MODEL = (*FUSIONS, STACK_FIRST)
#: For the test pipeline of a pose model.
PIPELINE = (ARRAYS_TOO,)

SPEEDUPS = (*POSE_HEAD, *MODEL, *PIPELINE)
