"""Builds engines for the network of a model, from its export or from an external ONNX file."""

import logging
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from ..speedups.fusion import fuse_layers
from .base import Engine, EngineOptions
from .cache import EngineCache, Measurements, network_key, open_cache
from .external_onnx import ExternalFile, FixedBatch, predict_decoded
from .int8 import Calibration, ModelFiles, Quantize, QuantizedFiles
from .network import Network, NetworkSwap, Normalization, head_of
from .onnx_export import OnnxFiles
from .optional import require
from .overlap import OverlappedEngine
from .registry import AUTO, get

# Calibration with fewer inputs than this is unreliable.
FEW_INPUTS = 16
logger = logging.getLogger('mmpose_batch')


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSource:
    """A network from which an engine is built, in PyTorch and as ONNX files.

    Attributes:
        network: Computes the outputs that the head decodes from normalised float32 inputs
            (N, 3, H, W).
        normalization: Converts uint8 pixels to these inputs.
        key: Identifies the network in the cache.
        files: Returns the fp32 ONNX file for a height and width of the inputs.
        calibration: Inputs for the calibration of int8.
        cache: Cache of built files.
        fixed_batch: The only batch size that the files support; None for any.
        device: Device of the model.
    """

    network: Network
    normalization: Normalization
    key: str
    files: ModelFiles
    calibration: Calibration
    cache: EngineCache
    fixed_batch: int | None
    device: torch.device

    @property
    def on_cuda(self) -> bool:
        """Whether the model is on an NVIDIA GPU."""
        return self.device.type == 'cuda'

    def onnx_files(self, precision: str, quantize: Quantize, name: str) -> tuple[ModelFiles, str]:
        """Return the ONNX files of the network in a precision, and their key in the cache.

        Args:
            precision: ``int8`` for quantised files; files of all other precisions are in fp32.
            quantize: Quantises one file.
            name: Name of a quantised file.
        """
        if precision != 'int8':
            return self.files, self.key
        if len(self.calibration) < FEW_INPUTS:
            logger.warning('int8: calibrated with only %d inputs', len(self.calibration))
        key = f'{self.key} {self.calibration.key}'
        files = QuantizedFiles(self.files, self.calibration, key, self.cache, quantize, name)
        return files, key


class EngineBuilder:
    """Makes the network of a model replaceable, and builds engines that replace it.

    Args:
        model: Model in eval mode that :func:`mmpose_batch.engines.network.is_replaceable`
            accepts; it is changed in place.
        options: Requested options. Engines may be built with another ``precision`` and
            ``latency``.

    Attributes:
        swap: Network swap of the model; at first PyTorch is active.
        external: External ONNX file that replaces the export, if there is one.
        calibration: Inputs for the calibration of int8; the caller fills it before an int8
            engine is built.
        key: Identifies the network in the cache.
        model_key: Identifies the model; differs from ``key`` if the network is that of an
            external file.

    Raises:
        EngineError: The engine is not installed, or the file does not fit the model.
        ValueError: The file does not exist or is not a valid ONNX file, or int8 was requested
            for it.
    """

    def __init__(self, model: nn.Module, options: EngineOptions) -> None:
        self._cached = options.cache
        fuse_layers(model)
        self.key = self.model_key = network_key(model)  # before the network swap changes the model
        normalization = Normalization(model.data_preprocessor)
        self.calibration = Calibration(normalization)
        if options.engine != AUTO:
            require(get(options.engine), options.precision)
        self.external = None if options.file is None else _read_file(options)
        if self.external is not None:
            self.key = f'file {self.external.key} {normalization.settings}'
        self.swap = NetworkSwap(model)
        if self.external is not None:
            self._fit_head(head_of(model), self.external)

    def build(self, name: str, options: EngineOptions) -> Engine:
        """Build an engine for the network.

        Args:
            name: Name of the engine.
            options: Options of the engine.

        Raises:
            EngineError: The engine is not installed or cannot be built.
            ValueError: The engine does not have the device, or the device does not support
                the precision.
        """
        spec = get(name)
        require(spec, options.precision)
        engine = spec.build(self._source, options)
        fixed = self._source.fixed_batch
        if fixed and spec.takes_file:
            engine = FixedBatch(engine, fixed)
        # Not on other kinds of devices, where PyTorch's threads may not be safe.
        on_gpu = spec.computes_on(options.device, self.device.type) == 'cuda'
        return OverlappedEngine(engine) if on_gpu and not options.latency else engine

    @cached_property
    def cache(self) -> EngineCache:
        """The cache of built files."""
        return open_cache(self._cached)

    @cached_property
    def measurements(self) -> Measurements:
        """Measurements with this network on this machine."""
        return Measurements(self.cache, self.key, self.device)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.swap.network.parameters()).device

    @property
    def on_cuda(self) -> bool:
        """Whether the model is on an NVIDIA GPU."""
        return self.device.type == 'cuda'

    @cached_property
    def _source(self) -> NetworkSource:
        network, external = self.swap.network, self.external
        return NetworkSource(
            network=network,
            normalization=self.swap.normalization,
            key=self.key,
            files=external or OnnxFiles(network, self.key, self.cache),
            calibration=self.calibration,
            cache=self.cache,
            fixed_batch=None if external is None else external.batch_size,
            device=self.device,
        )

    def _fit_head(self, head: nn.Module, external: ExternalFile) -> None:
        """Adapt the head to the outputs of the file, or check that they fit it."""
        if external.decoded:
            self.swap.replace_predict(predict_decoded(self.swap, head, external))
        elif external.size is not None:
            external.check_outputs(self.swap.network, external.size)


def _read_file(options: EngineOptions) -> ExternalFile:
    if options.precision == 'int8':
        raise ValueError('engine_file cannot be combined with int8')
    return ExternalFile(options.file)
