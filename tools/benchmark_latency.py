#!/usr/bin/env python
"""Measure the latency of single images, as in live use."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the package is not installed

from mmpose_batch.cli.latency import main

if __name__ == '__main__':
    sys.exit(main())
