"""The machine of a measurement."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmpose_batch.cores import available_cores
from mmpose_batch.engines.cache import processor_name, versions

_DRIVER = Path('/proc/driver/nvidia')
# Packages that are not part of an engine but influence the time around the network, or compare.
_MORE_VERSIONS = ('mmengine', 'numpy', 'opencv-python', 'opencv-python-headless', 'rtmlib')


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory in bytes, GPU, versions and date."""
    return {
        'date': datetime.now(UTC).date().isoformat(),
        'processor': processor_name(),
        'cores': available_cores(),
        'memory': os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'),
        'gpus': gpu_names(),
        'system': f'{platform.system()}, Python {platform.python_version()}',
        'versions': versions() | versions(_MORE_VERSIONS),
    }


def gpu_names(driver: Path = _DRIVER) -> list[str]:
    """Names of the NVIDIA GPUs, as the driver reports them in files.

    PyTorch knows them too, but would create a CUDA context, which takes memory of the GPU, in a
    process that only starts others.

    Args:
        driver: Folder of the driver's files.
    """
    texts = (path.read_text() for path in sorted(driver.glob('gpus/*/information')))
    lines = (line.partition(':') for text in texts for line in text.splitlines())
    return [value.strip() for name, _, value in lines if name.strip() == 'Model']


def noise() -> str | None:
    """Warning if the machine is too busy to measure; None if it is not."""
    load, cores = os.getloadavg()[0], available_cores()
    if load > 0.5 * cores:
        return f'the machine is busy (load {load:.1f} on {cores} cores)'
    return None
