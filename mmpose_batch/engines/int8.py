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

# Height and width of the inputs to the file of a network that takes them.
ModelFiles = Callable[[tuple[int, int]], Path]
# Reads one file, and writes another with the ranges that the inputs have.
Quantize = Callable[[Path, Path, Sequence[np.ndarray]], None]

# Part of the names in the cache: what was quantised another way is not this.
METHOD = 'MIXED TRANSFORMER / QDQ per channel / heads in float'
# Scopes of nodes that stay in floating point, the head's: docs/accuracy.md has what that saves.
_INSIDE = r'^/(backbone|neck)/.*'
_OUTSIDE = r'^/(?!backbone/|neck/).*'
# Inputs of a kind say no more beyond this; NNCF's default.
MOST_INPUTS = 300


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

    def thin(self) -> None:
        """Keep no more inputs than say something, from first to last."""
        kept = self._inputs[:: -(-len(self._inputs) // MOST_INPUTS) or 1]
        self._inputs = [image.clone() for image in kept]  # not views, which hold whole batches

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
        """Tells one set of inputs, and what is made of it, from another."""
        digest = hashlib.sha256(f'{METHOD} {cpu_has_vnni()}'.encode())
        for image in self._inputs:
            digest.update(image.numpy().tobytes())
        return digest.hexdigest()


class QuantizedFiles:
    """The quantised files of a network, one for each size of inputs.

    Args:
        files: Those in fp32.
        calibration: Inputs of the network.
        key: Names network and calibration in the cache.
        cache: Keeps the files.
        quantize: Writes one.
        name: Of the file that is written.
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
        """The file for inputs of one height and width."""
        key = entry_key(self._key, kind=self._name, size=size)
        return self._cache.entry(key, partial(self._build, size)) / self._name

    def _build(self, size: tuple[int, int], folder: Path) -> None:
        inputs = self._calibration.for_size(size)
        self._quantize(self._files(size), folder / self._name, inputs)


def quantize_openvino(source: Path, target: Path, inputs: Sequence[np.ndarray]) -> None:
    """Quantise an ONNX file by NNCF, to OpenVINO's format.

    The head is left as it is. Weights are symmetric and activations are not, since
    SiLU's have a short negative side. NNCF's way with transformers fits the attention
    of RTMO's neck: docs/accuracy.md has what it and others came to.
    """
    nncf = import_nncf()
    import openvino as ov

    _outside(source)
    logging.getLogger('nncf').setLevel(logging.ERROR)
    with redirect_stdout(StringIO()):  # NNCF draws progress bars on it
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
    """Quantise an ONNX file by ONNX Runtime, to pairs of QuantizeLinear and DequantizeLinear.

    The head is left as it is. Where the processor multiplies int8 without VNNI, pairs of
    products are added in 16 bits, which saturate: weights have 7 bits then, as ONNX Runtime's
    documentation on quantisation advises.
    """
    import_onnx()  # or ONNX Runtime would report its absence in words of its own
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
    """Names of the nodes that stay as they are.

    Raises:
        EngineError: Names do not tell a backbone from a head.
    """
    graph = import_onnx().load(path, load_external_data=False).graph
    names = [node.name for node in graph.node]
    outside = [name for name in names if re.match(_OUTSIDE, name)]
    if not outside or not any(re.match(_INSIDE, name) for name in names):
        raise EngineError('int8: the exported file does not tell what is the head of this network')
    return outside
