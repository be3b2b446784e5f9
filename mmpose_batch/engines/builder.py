"""From a model to engines of its network: exported, quantised, or of a file from elsewhere."""

import logging
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from .cache import EngineCache, entry_key, network_key, open_cache
from .external_onnx import FixedBatch, GivenFile, predict_decoded
from .fusion import fuse_layers
from .int8 import (
    Calibration,
    ModelFiles,
    Quantize,
    QuantizedFiles,
    quantize_onnx,
    quantize_openvino,
)
from .network import Engine, Network, Normalization, Seam, head_of
from .onnx_export import ExportError, export_onnx
from .optional import require
from .options import EngineOptions
from .torch_eager import TorchEngine

# Inputs with which int8 is calibrated badly.
FEW_INPUTS = 16
logger = logging.getLogger('mmpose_batch')


class EngineBuilder:
    """Opens a model at its seam, and builds engines that fit there.

    Args:
        model: In eval mode, with a seam; changed in place.
        options: What is asked for; ``precision`` and ``latency`` may be others when an
            engine is built.
        report: Is told what is built from.

    Attributes:
        seam: Of the model, computed by PyTorch so far.
        key: Tells the network from others.
        model_key: Tells the model; the network may be of a file.
        calibration: Inputs that int8 is calibrated with; to be filled before.

    Raises:
        EngineError: The engine is not installed, or the file does not fit the model.
        ValueError: There is no such file, or it is to be quantised.
    """

    def __init__(self, model: nn.Module, options: EngineOptions, report: dict[str, Any]) -> None:
        self._model = model
        self._wanted = options
        self._report = report
        fuse_layers(model)
        self.key = self.model_key = network_key(model)  # before anything of the model is another
        normalization = Normalization(model.data_preprocessor)
        self.calibration = Calibration(normalization)
        if options.engine != 'auto':
            require(options.engine, options.precision)
        self._given = None if options.file is None else self._read_file(normalization)
        self.seam = Seam(model)
        if self._given is not None:
            self._fit_file(self._given)

    def build(self, name: str, options: EngineOptions) -> Engine:
        """An engine of the network.

        Raises:
            EngineError: It is not installed, or cannot be built.
            ValueError: It lacks the device, or the device the precision.
        """
        require(name, options.precision)
        return _BUILDERS[name](self, options)

    @cached_property
    def cache(self) -> EngineCache:
        """Where built files are kept."""
        return open_cache(self._wanted.cache)

    @property
    def on_cuda(self) -> bool:
        """Whether the model is on an NVIDIA GPU."""
        return next(self._model.parameters()).device.type == 'cuda'

    @cached_property
    def _files(self) -> ModelFiles:
        return self._given or OnnxFiles(self.seam.network, self.key, self.cache)

    def _read_file(self, normalization: Normalization) -> GivenFile:
        """The file that is to be run instead of an export of the model."""
        if self._wanted.precision == 'int8':
            raise ValueError('engine_file: int8 is for networks that are exported here')
        given = GivenFile(self._wanted.file)
        self.key = f'file {given.key} {vars(normalization)}'
        self._report['file'] = given.key
        return given

    def _fit_file(self, given: GivenFile) -> None:
        """Have the head take what the file gives, or see that it does."""
        if given.decoded:
            head = head_of(self._model)
            head.predict = predict_decoded(self.seam, head, given)
        elif given.size is not None:
            given.check_outputs(self.seam.network, given.size)

    def _fixed(self, engine: Engine) -> Engine:
        """The engine for a file that takes batches of one size."""
        size = self._given and self._given.batch_size
        return FixedBatch(engine, size) if size else engine

    def _network_files(
        self, options: EngineOptions, quantize: Quantize, name: str
    ) -> tuple[ModelFiles, str]:
        """Files of the network in the precision that is asked for, and what names them."""
        if options.precision != 'int8':
            return self._files, self.key
        calibration = self.calibration
        self._report |= {'calibrated_with': len(calibration), 'calibration': calibration.key}
        if len(calibration) < FEW_INPUTS:
            logger.warning('int8: calibrated with %d inputs only', len(calibration))
        key = f'{self.key} {calibration.key}'
        return QuantizedFiles(self._files, calibration, key, self.cache, quantize, name), key

    def _openvino(self, options: EngineOptions) -> Engine:
        files, key = self._network_files(options, quantize_openvino, 'network.xml')
        engine = import_module('.openvino', __package__).OpenVINOEngine(
            files,
            key,
            self.seam.normalization,
            options.precision,
            self.cache,
            device=options.device or 'CPU',
            parallel=options.parallel,
            fixed=bool(self._given and self._given.batch_size),
        )
        return self._fixed(engine)

    def _onnxruntime(self, options: EngineOptions) -> Engine:
        files, _ = self._network_files(options, quantize_onnx, 'network.int8.onnx')
        providers = options.device or self._provider(options)
        engine = import_module('.onnx_runtime', __package__).OnnxRuntimeEngine(
            files, self.seam.normalization, [name.strip() for name in providers.split(',')]
        )
        return self._fixed(engine)

    def _provider(self, options: EngineOptions) -> str:
        """The GPU's, where the model is on one and the choice is free."""
        available = import_module('onnxruntime').get_available_providers()
        cuda = 'CUDAExecutionProvider'
        free = options.engine == 'auto' and self.on_cuda
        return cuda if free and cuda in available else 'CPUExecutionProvider'

    def _torch(self, options: EngineOptions) -> Engine:
        return TorchEngine(self.seam.network, self.seam.normalization, options.precision)

    def _torch_compile(self, options: EngineOptions) -> Engine:
        return import_module('.torch_compile', __package__).TorchCompileEngine(
            self.seam.network, self.seam.normalization, options.precision
        )


_BUILDERS = {
    'torch': EngineBuilder._torch,
    'openvino': EngineBuilder._openvino,
    'onnxruntime': EngineBuilder._onnxruntime,
    'torch-compile': EngineBuilder._torch_compile,
}


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
        if size in self._failed:  # the engine before has tried, for half a minute maybe
            raise ExportError(self._failed[size])
        key = entry_key(self._key, kind='onnx', size=size)
        try:
            return self._cache.entry(key, partial(self._export, size)) / 'network.onnx'
        except ExportError as error:
            self._failed[size] = str(error)
            raise

    def _export(self, size: tuple[int, int], folder: Path) -> None:
        export_onnx(self._network, folder / 'network.onnx', size)
