"""What the MMPose stack needs before it can be imported on a current PyTorch."""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import torch
from PIL import Image


class ToPILImage:
    """Stand-in for ``torchvision.transforms.ToPILImage``, for float maps only.

    MMPose draws SimCC heatmaps with it (``mmpose/visualization/simcc_vis.py``).
    """

    def __call__(self, pic: torch.Tensor) -> Image.Image:
        """Turn a float map in [0, 1] of shape (H, W) or (1, H, W) into a grey image."""
        if not isinstance(pic, torch.Tensor) or not pic.is_floating_point():
            raise TypeError(f'expected a floating point tensor, got {type(pic).__name__}')
        if pic.ndim == 3:
            if pic.shape[0] != 1:
                raise ValueError(f'expected shape (H, W) or (1, H, W), got {tuple(pic.shape)}')
            pic = pic[0]
        return Image.fromarray(pic.mul(255).byte().cpu().numpy().astype(np.uint8))


def provide_torchvision() -> None:
    """Register a stand-in ``torchvision`` when the real one cannot be imported.

    ``mmpose.visualization`` imports ``torchvision.transforms.ToPILImage`` at the
    top, so nothing of mmpose's inferencers loads without torchvision, and a
    torchvision built for another torch fails on import too. Inference needs no
    other name of it. A working torchvision is left alone.
    """
    try:
        importlib.import_module('torchvision')
        return
    except Exception:
        # A torchvision of another torch build raises RuntimeError (operator
        # torchvision::nms does not exist) or OSError (missing library) and
        # leaves half-imported modules behind; where another library tried it
        # before, these make it an AttributeError.
        for name in [n for n in sys.modules if n.split('.')[0] == 'torchvision']:
            del sys.modules[name]

    torchvision = ModuleType('torchvision', 'Stand-in registered by mmpose_batch.models.compat.')
    torchvision.__spec__ = ModuleSpec('torchvision', loader=None, is_package=True)
    torchvision.__path__ = []
    torchvision.__version__ = '0.0.0'
    transforms = ModuleType('torchvision.transforms')
    transforms.__spec__ = ModuleSpec('torchvision.transforms', loader=None)
    transforms.ToPILImage = ToPILImage
    torchvision.transforms = transforms
    sys.modules['torchvision'] = torchvision
    sys.modules['torchvision.transforms'] = transforms
