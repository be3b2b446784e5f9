"""Memory of this process. This module imports only the standard library: it also runs alone."""

import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

STATUS = Path('/proc/self/status')


def peak_resident() -> int | None:
    """Peak resident memory of this process in bytes; None if the system does not report it."""
    if STATUS.exists():
        lines = (line.split() for line in STATUS.read_text().splitlines())
        # Linux's ru_maxrss includes the peak of the parent process.
        high = next((line[1] for line in lines if line[:1] == ['VmHWM:']), None)
        if high is not None:
            return int(high) * 1024
    if resource is None:
        return _peak_on_windows()
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_on_windows() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    return getattr(psutil.Process().memory_info(), 'peak_wset', None)
