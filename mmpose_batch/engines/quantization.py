"""int8: post-training quantisation, calibrated with inputs of the run itself."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .export import INPUT_NAME
from .seam import Normalization


class Calibration:
    """Network inputs that tell the range of every activation.

    Args:
        normalization: Of the model.
    """

    def __init__(self, normalization: Normalization) -> None:
        self._normalization = normalization
        self._inputs: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._inputs)

    def add(self, inputs: Tensor) -> None:
        """Keep the inputs of one batch, uint8 or normalised (N, 3, H, W)."""
        self._inputs.extend(inputs.cpu())

    def for_size(self, size: tuple[int, int]) -> list[np.ndarray]:
        """Normalised float32 inputs (1, 3, H, W) of one size; of others, resized, if need be."""
        fitting = [image for image in self._inputs if tuple(image.shape[1:]) == size]
        return [self._prepare(image, size) for image in fitting or self._inputs]

    def _prepare(self, image: Tensor, size: tuple[int, int]) -> np.ndarray:
        batch = image[None]
        if batch.dtype == torch.uint8:
            batch = self._normalization(batch)
        if tuple(batch.shape[2:]) != size:
            batch = interpolate(batch, size, mode='bilinear', antialias=True)
        return batch.numpy()

    @property
    def key(self) -> str:
        """Tells one set of inputs from another."""
        digest = hashlib.sha256()
        for image in self._inputs:
            digest.update(image.numpy().tobytes())
        return digest.hexdigest()


def quantize_openvino(model: Any, inputs: Sequence[np.ndarray]) -> Any:
    """Quantise an OpenVINO model by NNCF.

    Weights are symmetric and activations are not, since SiLU's have a short
    negative side.
    """
    import nncf

    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(inputs),
    )


def quantize_onnx(source: Path, target: Path, inputs: Sequence[np.ndarray]) -> None:
    """Quantise an ONNX file by ONNX Runtime, to pairs of QuantizeLinear and DequantizeLinear."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._inputs: Iterator[np.ndarray] = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._inputs, None)
            return None if image is None else {INPUT_NAME: image}

    prepared = target.with_suffix('.prepared.onnx')
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    try:
        quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=['Conv', 'MatMul', 'Gemm'],
        )
    finally:
        prepared.unlink()
