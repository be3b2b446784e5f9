"""The machine of a measurement."""

import os
import platform
from datetime import UTC, datetime
from typing import Any

from mmpose_batch.cores import available_cores
from mmpose_batch.engines.cache import processor_name, versions

# Packages that are not part of an engine but influence the time around the network, or compare.
_MORE_VERSIONS = ('mmengine', 'numpy', 'opencv-python', 'opencv-python-headless', 'rtmlib')


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory in bytes, GPU, versions and date."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        'date': datetime.now(UTC).date().isoformat(),
        'processor': processor_name(),
        'cores': available_cores(),
        'memory': os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'),
        'gpus': gpus,
        'system': f'{platform.system()}, Python {platform.python_version()}',
        'versions': versions() | versions(_MORE_VERSIONS),
    }


def noise() -> str | None:
    """Warning if the machine is too busy to measure; None if it is not."""
    load, cores = os.getloadavg()[0], available_cores()
    if load > 0.5 * cores:
        return f'the machine is busy (load {load:.1f} on {cores} cores)'
    return None
