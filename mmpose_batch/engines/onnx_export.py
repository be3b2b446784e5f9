"""Export of a PyTorch network to an ONNX file."""

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from ..errors import ExportError, is_device_lost, is_out_of_memory
from ..models.names import build_model, load_config
from ..speedups.fusion import fuse_layers
from .cache import EngineCache, entry_key
from .network import Network, is_replaceable
from .optional import import_onnx

# The newest opset that TorchScript's exporter writes without conversion.
OPSET = 17
INPUT_NAME = 'input'


@torch.no_grad()
def export_onnx(
    network: Network, path: Path, size: tuple[int, int], batch_size: int | None = None
) -> None:
    """Export a network, from normalised inputs to the outputs that its head decodes, as ONNX.

    Args:
        network: Network in float32, on any device.
        path: The file to write.
        size: Height and width of the inputs in pixels.
        batch_size: The only batch size of the file; None for any.

    Raises:
        ExportError: The network cannot be exported, for instance because an operator has no
            counterpart in ONNX.
        EngineError: The package ``onnx`` cannot be imported.
        OSError: The file cannot be written.
    """
    import_onnx()  # otherwise a missing package would be reported as an error of the network
    device = next(network.parameters()).device
    # A batch of two, since a network may drop a dimension of length one.
    inputs = torch.zeros(batch_size or 2, 3, *size, device=device)
    try:
        outputs = network(inputs)  # caches position codes and priors, which become constants
        names = [f'output_{i}' for i in range(len(outputs))]
        axes = None if batch_size else {name: {0: 'batch'} for name in (INPUT_NAME, *names)}
        with warnings.catch_warnings():
            # TorchScript warns about every shape that becomes a constant.
            warnings.simplefilter('ignore')
            # Traced before the export, since mmpose's HybridEncoder requires switch_to_deploy
            # during an export. Not checked by a second trace, which would differ: the first one
            # has filled the caches.
            traced = torch.jit.trace(network, inputs, check_trace=False)
            torch.onnx.export(
                traced,
                (inputs,),
                str(path),
                input_names=[INPUT_NAME],
                output_names=names,
                dynamic_axes=axes,
                opset_version=OPSET,
                # The newer exporter decomposes more operators and needs another package.
                dynamo=False,
            )
    except OSError:  # for instance a full disk, which is not an error of the network
        raise
    except Exception as error:  # errors of torch.onnx have no common class
        if is_device_lost(error) or is_out_of_memory(error):
            raise
        raise ExportError(f'cannot be exported to ONNX: {_first_line(error)}') from error


class OnnxFiles:
    """The ONNX files of a network, one for each size of inputs, exported at the first use.

    Args:
        network: The network.
        key: Identifies the network in the cache.
        cache: Cache of the files.
    """

    def __init__(self, network: Network, key: str, cache: EngineCache) -> None:
        self._network = network
        self._key = key
        self._cache = cache
        self._failed: dict[tuple[int, int], str] = {}

    def __call__(self, size: tuple[int, int]) -> Path:
        """Return the file for inputs of one height and width, and export it first if needed.

        Raises:
            ExportError: The network cannot be exported.
            EngineError: The package ``onnx`` cannot be imported, or no file can be written.
        """
        if size in self._failed:  # exported in vain for another engine, which may take 30 s
            raise ExportError(self._failed[size])
        key = entry_key(self._key, kind='onnx', size=size)
        try:
            return self._cache.entry(key, partial(self._export, size)) / 'network.onnx'
        except ExportError as error:
            self._failed[size] = str(error)
            raise

    def _export(self, size: tuple[int, int], folder: Path) -> None:
        export_onnx(self._network, folder / 'network.onnx', size)


def _first_line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return f'{type(error).__name__}: {next(filter(None, lines), "")}'


def load_network(
    model: str, weights: str | None = None, scope: str = 'mmpose'
) -> tuple[Network, tuple[int, int]]:
    """Build the network of a model on the CPU, with fused layers, ready for export.

    Args:
        model: Config or model name, as for :func:`mmpose_batch.models.names.load_config`.
        weights: Path or URL of a checkpoint; None selects the one of the model name or config;
            ``'none'`` leaves the weights random.
        scope: ``'mmpose'`` or ``'mmdet'``.

    Returns:
        The network, and the height and width in pixels that its test pipeline resizes
        inputs to.

    Raises:
        ValueError: The model is unknown, or there are no weights for it.
        CheckpointError: The weights cannot be loaded.
        ExportError: The model has no single network that can be exported.
    """
    cfg, own_weights = load_config(model, scope)
    weights = weights or own_weights
    if weights is None:
        raise ValueError("weights: the config has none; pass a file, or 'none' for random weights")
    init_default_scope(scope)
    network = build_model(cfg, weights, 'cpu', lambda *_: None)
    if not is_replaceable(network):
        raise ExportError(f'{type(network).__name__}: has no single network that can be exported')
    fuse_layers(network)
    return Network(network).eval(), input_size(cfg)


def input_size(cfg: Config) -> tuple[int, int]:
    """Return height and width in pixels of the inputs that a test pipeline packs.

    Args:
        cfg: Config whose test pipeline is applied to a square image.
    """
    pipeline = Compose(cfg.test_dataloader.dataset.pipeline[1:])
    image = np.zeros((640, 640, 3), np.uint8)
    data = {'img': image, 'img_id': 0, 'img_path': '', 'ori_shape': (640, 640)}
    data |= {'img_shape': (640, 640), 'bbox': np.array([[0, 0, 640, 640]], np.float32)}
    data |= {'bbox_score': np.ones(1, np.float32), 'instances': []}
    return tuple(pipeline(data)['inputs'].shape[-2:])


def check_onnx(network: Network, path: Path, size: tuple[int, int], batch_size: int) -> float:
    """Compare the outputs of an ONNX file with those of its network, on one random batch.

    Args:
        network: The network, on the CPU.
        path: The ONNX file.
        size: Height and width of the inputs in pixels.
        batch_size: Number of inputs.

    Returns:
        The largest difference of any output, as a fraction of that output's largest absolute
        value; NaN if an output contains NaN.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """
    from onnxruntime import InferenceSession

    inputs = torch.randn(batch_size, 3, *size)
    session = InferenceSession(path, providers=['CPUExecutionProvider'])
    found = session.run(None, {INPUT_NAME: inputs.numpy()})
    with torch.no_grad():
        expected = network(inputs)
    differences = [
        (torch.from_numpy(ours) - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)
        for ours, wanted in zip(found, expected, strict=True)
    ]
    return float(torch.stack(differences).max())  # unlike Python's max, this preserves NaN
