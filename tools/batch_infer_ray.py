#!/usr/bin/env python
"""Estimate 2D poses for images and videos on a Ray cluster."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the package is not installed

from mmpose_batch.cli.ray import main

if __name__ == '__main__':
    sys.exit(main())
