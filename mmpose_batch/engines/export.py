"""From a PyTorch network to an ONNX file."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from .seam import Network

# The newest one that TorchScript's exporter writes without conversion.
OPSET = 17
INPUT_NAME = 'input'


class ExportError(RuntimeError):
    """A network that cannot be written as ONNX."""


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
    """
    device = next(network.parameters()).device
    # Two, since a network may take an axis of length one for one to drop.
    inputs = torch.zeros(batch_size or 2, 3, *size, device=device)
    outputs = network(inputs)  # position codes and priors are computed here, and constants then
    names = [f'output_{i}' for i in range(len(outputs))]
    axes = None if batch_size else {name: {0: 'batch'} for name in (INPUT_NAME, *names)}
    try:
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
    except Exception as error:  # torch.onnx has no common class for what it raises
        raise ExportError(f'cannot be exported to ONNX: {_first_line(error)}') from error


def _first_line(error: Exception) -> str:
    return f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'


def difference(reference: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> float:
    """The largest difference between outputs, as a part of the largest value of each."""
    return max(
        float((ours - stock).abs().max() / stock.abs().max().clamp(min=1e-12))
        for ours, stock in zip(outputs, reference, strict=True)
    )
