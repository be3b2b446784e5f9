"""Memory of this process. The file imports nothing but Python, so that it can be run by itself."""

import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

STATUS = Path('/proc/self/status')


def peak_resident() -> int | None:
    """The most memory that this process held, in bytes; None where the system does not say."""
    if STATUS.exists():
        lines = (line.split() for line in STATUS.read_text().splitlines())
        # Linux's ru_maxrss is never below that of the process which started this one.
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
