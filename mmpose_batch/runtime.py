"""Former home of what lies in hardware, progress, errors and engines.registry."""

from .engines.registry import PRECISIONS as PRECISIONS
from .engines.registry import resolve_precision as resolve_precision
from .errors import is_out_of_memory as is_out_of_memory
from .hardware import cpu_has_bf16 as cpu_has_bf16
from .hardware import cpu_has_vnni as cpu_has_vnni
from .progress import StageClock as StageClock
