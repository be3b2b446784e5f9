#!/usr/bin/env python
"""Arrange several images on one contact sheet, to view many results at once."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where the package is not installed

from mmpose_batch.cli.contact_sheet import main

if __name__ == '__main__':
    sys.exit(main())
