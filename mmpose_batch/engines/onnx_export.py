"""From a PyTorch network to an ONNX file."""

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from ..errors import ExportError
from ..models.names import build_model, load_config
from ..speedups.fusion import fuse_layers
from .cache import EngineCache, entry_key
from .network import Network, is_replaceable
from .optional import import_onnx

# The newest one that TorchScript's exporter writes without conversion.
OPSET = 17
INPUT_NAME = 'input'


@torch.no_grad()
def export_onnx(
    network: Network, path: Path, size: tuple[int, int], batch_size: int | None = None
) -> None:
    """Write a network, from normalised inputs to what its head decodes, as ONNX.

    Args:
        network: On any device, float32.
        path: The file to write.
        size: Height and width of the inputs.
        batch_size: The only one that the file takes; None for any.

    Raises:
        ExportError: An operator has no counterpart in ONNX, or the file needs
            another form than one input.
        EngineError: The package ``onnx`` cannot be imported.
    """
    import_onnx()  # or its absence would be reported as a fault of the network
    device = next(network.parameters()).device
    # Two, since a network may take an axis of length one for one to drop.
    inputs = torch.zeros(batch_size or 2, 3, *size, device=device)
    try:
        outputs = network(inputs)  # position codes and priors are computed here, and constants then
        names = [f'output_{i}' for i in range(len(outputs))]
        axes = None if batch_size else {name: {0: 'batch'} for name in (INPUT_NAME, *names)}
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of TorchScript: every shape that becomes a constant
            # Traced first, since mmpose's HybridEncoder asks for switch_to_deploy when it sees an
            # export. Not checked by a second trace: what is computed once is there by then.
            traced = torch.jit.trace(network, inputs, check_trace=False)
            torch.onnx.export(
                traced,
                (inputs,),
                str(path),
                input_names=[INPUT_NAME],
                output_names=names,
                dynamic_axes=axes,
                opset_version=OPSET,
                # The other exporter decomposes more and wants a package of its own.
                dynamo=False,
            )
    except OSError:  # a full disk is no fault of the network
        raise
    except Exception as error:  # torch.onnx has no common class for what it raises
        raise ExportError(f'cannot be exported to ONNX: {_first_line(error)}') from error


class OnnxFiles:
    """The ONNX files of a network, one for each size of inputs, exported at the first use."""

    def __init__(self, network: Network, key: str, cache: EngineCache) -> None:
        self._network = network
        self._key = key
        self._cache = cache
        self._failed: dict[tuple[int, int], str] = {}

    def __call__(self, size: tuple[int, int]) -> Path:
        """The file for inputs of one height and width.

        Raises:
            ExportError: The network cannot be exported.
        """
        if size in self._failed:  # another engine has tried, for half a minute maybe
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
    """Build the network of a config or a name, fused and ready for export, on the CPU.

    Args:
        model: As :func:`mmpose_batch.models.names.load_config` takes it.
        weights: Checkpoint; None takes that of the name; ``'none'`` leaves it random.
        scope: ``'mmpose'`` or ``'mmdet'``.

    Returns:
        The network, and height and width of its inputs as its pipeline makes them.

    Raises:
        ValueError: An unknown model, or no weights.
        CheckpointError: Weights that cannot be loaded.
        ExportError: The network of the model cannot be replaced.
    """
    cfg, own_weights = load_config(model, scope)
    weights = weights or own_weights
    if weights is None:
        raise ValueError("weights: the config names none; name a file, or 'none' for random ones")
    init_default_scope(scope)
    network = build_model(cfg, weights, 'cpu', lambda *_: None)
    if not is_replaceable(network):
        raise ExportError(f'{type(network).__name__}: no single network that could be exported')
    fuse_layers(network)
    return Network(network).eval(), input_size(cfg)


def input_size(cfg: Config) -> tuple[int, int]:
    """Height and width of what a config's test pipeline makes of a square image."""
    pipeline = Compose(cfg.test_dataloader.dataset.pipeline[1:])
    image = np.zeros((640, 640, 3), np.uint8)
    data = {'img': image, 'img_id': 0, 'img_path': '', 'ori_shape': (640, 640)}
    data |= {'img_shape': (640, 640), 'bbox': np.array([[0, 0, 640, 640]], np.float32)}
    data |= {'bbox_score': np.ones(1, np.float32), 'instances': []}
    return tuple(pipeline(data)['inputs'].shape[-2:])


def check_onnx(network: Network, path: Path, size: tuple[int, int], batch_size: int) -> float:
    """Run a file and its network on one batch.

    Returns:
        The largest difference of an output, as a fraction of the largest value of it.

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
    return float(torch.stack(differences).max())  # NaN, if there is one, unlike Python's max
