#!/usr/bin/env python
"""Measure images per second from files to results, and compare with other systems."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the package is not installed

from mmpose_batch.cli.throughput import main

if __name__ == '__main__':
    sys.exit(main())
