"""Builds engines of one model's network: of its export, or of an external ONNX file."""

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
from .registry import AUTO, get

# Inputs with which int8 is calibrated badly.
FEW_INPUTS = 16
logger = logging.getLogger('mmpose_batch')


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSource:
    """What an engine is built from: one network, in PyTorch and as ONNX files.

    Attributes:
        network: From normalised float32 inputs to what the head decodes.
        normalization: From pixels to these inputs.
        key: Tells the network from others, in the cache.
        files: Height and width of the inputs to the ONNX file in fp32.
        calibration: Inputs that int8 is calibrated with.
        cache: Keeps what is built.
        fixed_batch: The only batch size that the files take; None for any.
        on_cuda: Whether the model is on an NVIDIA GPU.
    """

    network: Network
    normalization: Normalization
    key: str
    files: ModelFiles
    calibration: Calibration
    cache: EngineCache
    fixed_batch: int | None
    on_cuda: bool

    def onnx_files(self, precision: str, quantize: Quantize, name: str) -> tuple[ModelFiles, str]:
        """Files of the network for a precision, and what tells them from others in the cache.

        Args:
            precision: With ``int8`` the files are quantised; else they are in fp32.
            quantize: Quantises one.
            name: Of a quantised file.
        """
        if precision != 'int8':
            return self.files, self.key
        if len(self.calibration) < FEW_INPUTS:
            logger.warning('int8: calibrated with %d inputs only', len(self.calibration))
        key = f'{self.key} {self.calibration.key}'
        files = QuantizedFiles(self.files, self.calibration, key, self.cache, quantize, name)
        return files, key


class EngineBuilder:
    """Makes a model's network replaceable, and builds engines that replace it.

    Args:
        model: In eval mode, see :func:`mmpose_batch.engines.network.is_replaceable`;
            changed in place.
        options: What is asked for; ``precision`` and ``latency`` may be others when an
            engine is built.

    Attributes:
        swap: Of the model, computed by PyTorch so far.
        external: The file that is run instead of an export, if there is one.
        calibration: Inputs that int8 is calibrated with; to be filled before.
        key: Tells the network from others.
        model_key: Tells the model; the network may be of a file.

    Raises:
        EngineError: The engine is not installed, or the file does not fit the model.
        ValueError: There is no such file, or it is to be quantised.
    """

    def __init__(self, model: nn.Module, options: EngineOptions) -> None:
        self._cached = options.cache
        fuse_layers(model)
        self.key = self.model_key = network_key(model)  # before anything of the model is another
        normalization = Normalization(model.data_preprocessor)
        self.calibration = Calibration(normalization)
        if options.engine != AUTO:
            require(get(options.engine), options.precision)
        self.external = None if options.file is None else _read_file(options)
        if self.external is not None:
            self.key = f'file {self.external.key} {vars(normalization)}'
        self.swap = NetworkSwap(model)
        if self.external is not None:
            self._fit_head(head_of(model), self.external)

    def build(self, name: str, options: EngineOptions) -> Engine:
        """Build an engine of the network.

        Raises:
            EngineError: It is not installed, or cannot be built.
            ValueError: It lacks the device, or the device the precision.
        """
        spec = get(name)
        require(spec, options.precision)
        engine = spec.build(self._source, options)
        fixed = self._source.fixed_batch
        return FixedBatch(engine, fixed) if fixed and spec.takes_file else engine

    @cached_property
    def cache(self) -> EngineCache:
        """Where built files are cached."""
        return open_cache(self._cached)

    @cached_property
    def measurements(self) -> Measurements:
        """What was measured with this network on this machine."""
        return Measurements(self.cache, self.key, self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
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
            on_cuda=self.on_cuda,
        )

    def _fit_head(self, head: nn.Module, external: ExternalFile) -> None:
        """Have the head take what the file gives, or check that it does."""
        if external.decoded:
            self.swap.replace_predict(predict_decoded(self.swap, head, external))
        elif external.size is not None:
            external.check_outputs(self.swap.network, external.size)


def _read_file(options: EngineOptions) -> ExternalFile:
    if options.precision == 'int8':
        raise ValueError('engine_file: int8 is for networks that are exported here')
    return ExternalFile(options.file)
