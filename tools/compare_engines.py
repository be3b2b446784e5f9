#!/usr/bin/env python
"""Compare the accuracy of engines and precisions with PyTorch in fp32, as a table."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the package is not installed

from mmpose_batch.cli.compare_engines import main

if __name__ == '__main__':
    sys.exit(main())
