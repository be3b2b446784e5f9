"""Compatibility: a stand-in for torchvision, without which MMPose cannot be imported."""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import torch
from PIL import Image


class ToPILImage:
    """Stand-in for ``torchvision.transforms.ToPILImage`` that supports float maps only.

    MMPose uses it to draw SimCC heatmaps (``mmpose/visualization/simcc_vis.py``).
    """

    def __call__(self, pic: torch.Tensor) -> Image.Image:
        """Convert a float map in [0, 1], (H, W) or (1, H, W), to a grey image.

        Raises:
            TypeError: The input is not a floating point tensor.
            ValueError: It has another shape.
        """
        if not isinstance(pic, torch.Tensor) or not pic.is_floating_point():
            raise TypeError(f'expected a floating point tensor, got {type(pic).__name__}')
        if pic.ndim == 3:
            if pic.shape[0] != 1:
                raise ValueError(f'expected shape (H, W) or (1, H, W), got {tuple(pic.shape)}')
            pic = pic[0]
        return Image.fromarray(pic.mul(255).byte().cpu().numpy().astype(np.uint8))


def provide_torchvision() -> None:
    """Register a stand-in ``torchvision`` when the real one cannot be imported.

    ``mmpose.visualization`` imports ``torchvision.transforms.ToPILImage`` at the top, so that
    mmpose's inferencers cannot be imported without torchvision, nor with a torchvision that was
    built for another torch. Inference needs nothing else of torchvision. A working torchvision
    is not replaced.
    """
    try:
        importlib.import_module('torchvision')
        return
    except Exception:
        # A torchvision for another torch raises RuntimeError (operator torchvision::nms does not
        # exist) or OSError (missing library), and leaves partly imported modules behind. If
        # another library tried to import it before, these cause an AttributeError instead.
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
