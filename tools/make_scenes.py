#!/usr/bin/env python
"""Draw a folder of synthetic scenes with persons, and annotations in COCO format."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the package is not installed

from mmpose_batch.cli.scenes import main

if __name__ == '__main__':
    sys.exit(main())
