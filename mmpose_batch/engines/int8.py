"""int8: post-training quantisation, calibrated with inputs of the run itself."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import EngineError
from ..hardware import cpu_has_vnni
from .cache import EngineCache, entry_key
from .network import Normalization
from .onnx_export import INPUT_NAME
from .optional import import_nncf, import_onnx

# Returns the file of a network for a height and width of its inputs.
ModelFiles = Callable[[tuple[int, int]], Path]
# Quantises the first file into the second one, calibrated with the inputs.
Quantize = Callable[[Path, Path, Sequence[np.ndarray]], None]

# Part of the keys in the cache, so that files that were quantised differently are not used.
METHOD = 'MIXED TRANSFORMER / QDQ per channel / heads in float'
# Scopes of the quantised nodes, and of those of the head, which stay in floating point:
# docs/accuracy.md shows the accuracy that this saves.
_INSIDE = r'^/(backbone|neck)/.*'
_OUTSIDE = r'^/(?!backbone/|neck/).*'
# More calibration inputs do not improve the ranges. This is NNCF's default.
MAX_INPUTS = 300


class Calibration:
    """Network inputs from which the range of every activation is estimated.

    Args:
        normalization: Normalization of the model.

    Attributes:
        given: Whether the inputs are those of another calibration, so that none are added.
    """

    def __init__(self, normalization: Normalization) -> None:
        self._normalization = normalization
        self._inputs: list[Tensor] = []
        self.given = False

    def __len__(self) -> int:
        return len(self._inputs)

    def add(self, inputs: Tensor) -> None:
        """Add the inputs of one batch, (N, 3, H, W), uint8 or normalised float32."""
        if not self.given:
            self._inputs.extend(inputs.cpu())

    @property
    def inputs(self) -> list[Tensor]:
        """All inputs, each (3, H, W)."""
        return list(self._inputs)

    def give(self, inputs: list[Tensor]) -> None:
        """Use exactly the :attr:`inputs` of another calibration."""
        self._inputs, self.given = list(inputs), True

    def thin(self) -> None:
        """Reduce the inputs to at most :data:`MAX_INPUTS`, evenly spaced."""
        selected = self._inputs[:: -(-len(self._inputs) // MAX_INPUTS) or 1]
        # Cloned, since a view would hold the memory of its complete batch.
        self._inputs = [image.clone() for image in selected]

    def for_size(self, size: tuple[int, int]) -> list[np.ndarray]:
        """Return normalised float32 inputs (1, 3, H, W) of one height and width.

        If no input has this size, all inputs are resized to it.
        """
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
        """Key that identifies the inputs and the quantisation method."""
        digest = hashlib.sha256(f'{METHOD} {cpu_has_vnni()}'.encode())
        for image in self._inputs:
            digest.update(image.numpy().tobytes())
        return digest.hexdigest()


class QuantizedFiles:
    """The quantised files of a network, one for each size of inputs.

    Args:
        files: Returns the fp32 files.
        calibration: Inputs for the calibration.
        key: Identifies network and calibration in the cache.
        cache: Cache of the quantised files.
        quantize: Quantises one file.
        name: Name of a quantised file.
    """

    def __init__(
        self,
        files: ModelFiles,
        calibration: Calibration,
        key: str,
        cache: EngineCache,
        quantize: Quantize,
        name: str,
    ) -> None:
        self._files, self._calibration, self._key = files, calibration, key
        self._cache, self._quantize, self._name = cache, quantize, name

    def __call__(self, size: tuple[int, int]) -> Path:
        """Return the file for inputs of one height and width, and quantise it first if needed."""
        key = entry_key(self._key, kind=self._name, size=size)
        return self._cache.entry(key, partial(self._build, size)) / self._name

    def _build(self, size: tuple[int, int], folder: Path) -> None:
        inputs = self._calibration.for_size(size)
        self._quantize(self._files(size), folder / self._name, inputs)


def quantize_openvino(source: Path, target: Path, inputs: Sequence[np.ndarray]) -> None:
    """Quantise an ONNX file with NNCF, and save it in OpenVINO's format.

    The head stays in floating point. Weights are quantised symmetrically and activations
    asymmetrically, since outputs of SiLU have a short negative range. NNCF's model type
    ``TRANSFORMER`` suits the attention in the neck of RTMO; docs/accuracy.md compares the
    accuracy of several settings.

    Args:
        source: ONNX file in fp32.
        target: OpenVINO file to write.
        inputs: Normalised float32 inputs (1, 3, H, W) for the calibration.

    Raises:
        EngineError: NNCF cannot be imported, or the head cannot be identified in the file.
    """
    nncf = import_nncf()
    import openvino as ov

    _outside(source)
    logging.getLogger('nncf').setLevel(logging.ERROR)
    with redirect_stdout(StringIO()):  # hides NNCF's progress bars
        model = nncf.quantize(
            ov.Core().read_model(str(source)),
            nncf.Dataset(inputs),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(patterns=[_OUTSIDE], validate=False),
        )
    ov.save_model(model, str(target), compress_to_fp16=False)


def quantize_onnx(source: Path, target: Path, inputs: Sequence[np.ndarray]) -> None:
    """Quantise an ONNX file with ONNX Runtime, to pairs of QuantizeLinear and DequantizeLinear.

    The head stays in floating point. A processor without VNNI adds pairs of int8 products in
    16 bits, which saturates; weights then have 7 bits, as ONNX Runtime's documentation on
    quantisation advises.

    Args:
        source: ONNX file in fp32.
        target: ONNX file to write.
        inputs: Normalised float32 inputs (1, 3, H, W) for the calibration.

    Raises:
        EngineError: The package ``onnx`` cannot be imported, or the head cannot be identified
            in the file.
    """
    import_onnx()  # raises a clearer error than ONNX Runtime if the package is missing
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
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
            reduce_range=not cpu_has_vnni(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=['Conv', 'MatMul', 'Gemm'],
            nodes_to_exclude=_outside(prepared),
        )
    finally:
        prepared.unlink()


def _outside(path: Path) -> list[str]:
    """Names of the nodes that stay in floating point.

    Raises:
        EngineError: The head cannot be identified by the names of the nodes.
    """
    graph = import_onnx().load(path, load_external_data=False).graph
    names = [node.name for node in graph.node]
    outside = [name for name in names if re.match(_OUTSIDE, name)]
    if not outside or not any(re.match(_INSIDE, name) for name in names):
        raise EngineError('int8: the head cannot be identified in the exported file')
    return outside
