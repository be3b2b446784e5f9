"""Memory of this process. The file imports nothing but Python, so that it can be run by itself."""

import resource
import sys
from pathlib import Path

STATUS = Path('/proc/self/status')


def peak_resident() -> int:
    """The most memory that this process held, in bytes."""
    if STATUS.exists():
        lines = (line.split() for line in STATUS.read_text().splitlines())
        # Linux's ru_maxrss is never below that of the process which started this one.
        high = next((line[1] for line in lines if line[:1] == ['VmHWM:']), None)
        if high is not None:
            return int(high) * 1024
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
