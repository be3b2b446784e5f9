"""The exact, faster equivalents of MMPose's steps, by what they are applied to.

Each tuple is applied in its order by :func:`mmpose_batch.speedups.base.apply_changes`. Crops
(:mod:`mmpose_batch.speedups.crops`) and data samples change nothing in place and are not listed.
"""

from .fusion import FUSIONS
from .loader import ARRAYS_TOO
from .normalize import STACK_FIRST
from .onestage import WHOLE_BATCH
from .simcc import ALL_PERSONS

#: For the head of a pose model, after it has been built.
POSE_HEAD = (ALL_PERSONS, WHOLE_BATCH)
#: For a pose model or detector in eval mode whose network runs in PyTorch.
MODEL = (*FUSIONS, STACK_FIRST)
#: For the test pipeline of a pose model.
PIPELINE = (ARRAYS_TOO,)

SPEEDUPS = (*POSE_HEAD, *MODEL, *PIPELINE)
