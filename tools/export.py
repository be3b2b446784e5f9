#!/usr/bin/env python
"""Export a network to an ONNX file and check that its outputs match those of PyTorch."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the package is not installed

from mmpose_batch.cli.export import main

if __name__ == '__main__':
    sys.exit(main())
