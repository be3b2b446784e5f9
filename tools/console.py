"""What the tools share: how they fail, and how they keep the libraries quiet."""

import logging
import os
import sys
import warnings


def fail(tool: str, status: int, error: object) -> int:
    """Print one line that says what went wrong; returns the exit status."""
    print(f'{tool}: {error}', file=sys.stderr)
    return status


def quieten_libraries() -> None:
    """Keep what the libraries say about themselves off the screen."""
    warnings.filterwarnings('ignore')
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')  # a bad file gets a record of ours
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance().setLevel(logging.ERROR)
