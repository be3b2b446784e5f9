"""What the figures were measured on."""

import os
import platform
from datetime import UTC, datetime
from typing import Any

from ..cores import available_cores
from ..engines.cache import processor_name, versions


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, GPU, versions and date."""
    import psutil  # of the extra [benchmark]
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        'date': datetime.now(UTC).date().isoformat(),
        'processor': processor_name(),
        'cores': available_cores(),
        'memory': psutil.virtual_memory().total,
        'gpus': gpus,
        'system': f'{platform.system()}, Python {platform.python_version()}',
        'versions': versions(),
    }


def noise() -> str | None:
    """What makes figures worth little now; None for nothing."""
    load, cores = os.getloadavg()[0], available_cores()
    if load > 0.5 * cores:
        return f'the machine is busy (load {load:.1f} on {cores} cores)'
    return None
