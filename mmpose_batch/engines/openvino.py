"""OpenVINO: compiles a network for Intel processors, separately for each shape of inputs."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import EngineError, is_out_of_memory
from .base import Engine, EngineOptions, EngineSpec
from .cache import EngineCache, entry_key
from .int8 import quantize_openvino
from .network import Normalization
from .optional import without_telemetry
from .padding import next_power_of_two, pad_batch
from .registry import register

if TYPE_CHECKING:
    import openvino as ov

    from .builder import NetworkSource

_first_array = threading.Lock()
# Number of batches that run concurrently, each on its own share of the cores.
PARALLEL = 2
_TYPES = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}
_BLOB = 'compiled.blob'
# Limit of compiled shapes: rectangular inputs may have hundreds of shapes, and each compiled
# shape takes as much memory as the network.
MAX_SHAPES = 16


def import_openvino() -> ModuleType:
    """Import OpenVINO without telemetry, and trigger its lookup of NumPy's types.

    OpenVINO looks them up when it first uses an array, and releases the GIL meanwhile. Two
    threads that do so concurrently deadlock (in some of the trials with OpenVINO 2026.4), so only
    one thread does so here.
    """
    with _first_array:
        with without_telemetry():
            import openvino

        _ = openvino.Tensor(np.zeros(1, np.float32)).data
    return openvino


class OpenVINOEngine(Engine):
    """Runs an ONNX file on an OpenVINO device.

    Every shape of inputs is compiled separately, since constant shapes are faster. A batch size
    that is not a power of two is padded to the next one, so that fewer shapes are compiled.

    Args:
        onnx_for: Returns the ONNX file for a height and width of the inputs.
        key: Identifies the network in the cache.
        normalization: Normalization that is compiled into the network, which then takes uint8
            pixels.
        precision: ``fp32``, ``bf16``, ``fp16``, or ``int8`` for quantised files.
        cache: Cache of compiled networks.
        device: OpenVINO's name of the device: ``CPU``, ``GPU``, ``NPU``, ...
        parallel: Number of calls that run concurrently; with 1, each call uses all cores.
        fixed: Whether the file has a fixed batch size. Batches must then have this size, and
            are not padded.

    Raises:
        ValueError: OpenVINO finds no such device, or the device does not support the precision.
    """

    def __init__(
        self,
        onnx_for: Callable[[tuple[int, int]], Path],
        key: str,
        normalization: Normalization,
        precision: str,
        cache: EngineCache,
        device: str = 'CPU',
        parallel: int = 1,
        fixed: bool = False,
    ) -> None:
        self._openvino = ov = import_openvino()
        properties = ov.properties
        self.core = ov.Core()
        self._fixed = fixed
        check_device(self.core, device, precision)
        self._onnx_for = onnx_for
        self._key = key
        self._normalization = normalization
        self._cache = cache
        self._device = device
        self.parallel = parallel
        hint = properties.hint.PerformanceMode
        self.settings = {
            properties.hint.performance_mode: hint.THROUGHPUT if parallel > 1 else hint.LATENCY,
            properties.hint.inference_precision: self._type(precision),
            properties.num_streams: parallel,
        }
        if device == 'CPU':
            self.settings[properties.inference_num_threads] = torch.get_num_threads()
            if parallel > 1:  # streams of several shapes or networks would share pinned cores
                self.settings[properties.hint.enable_cpu_pinning] = False
        self.shapes: OrderedDict[Any, CompiledShape] = OrderedDict()
        self._lock = threading.Lock()

    def _type(self, precision: str) -> 'ov.Type':
        """Element type of the computation; for int8, of the layers that are not quantised."""
        if precision == 'int8':
            supported = capabilities(self.core, self._device)
            on_cpu = self._device == 'CPU' and 'BF16' in supported
            precision = 'bf16' if on_cpu else 'fp32' if 'FP32' in supported else 'fp16'
        return getattr(self._openvino.Type, _TYPES[precision])

    @property
    def description(self) -> str:
        """Version of OpenVINO, and the full name of the device."""
        full_name = self._openvino.properties.device.full_name
        device = self.core.get_property(self._device, full_name)
        return f'OpenVINO {self._openvino.__version__.split("-")[0]} on {device}'

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Compute one batch; see :class:`mmpose_batch.engines.base.Engine`."""
        count = len(inputs)
        padded = count if self._fixed else next_power_of_two(count)
        array = pad_batch(inputs, padded).cpu().contiguous().numpy()
        outputs = self._for_shape(array.shape, array.dtype == np.uint8).infer(array)
        return [torch.from_numpy(output[:count]).to(inputs.device) for output in outputs]

    def _for_shape(self, shape: tuple[int, ...], pixels: bool) -> 'CompiledShape':
        with self._lock:
            if (shape, pixels) not in self.shapes:
                self.shapes[shape, pixels] = CompiledShape(self._compile(shape, pixels))
            self.shapes.move_to_end((shape, pixels))
            if len(self.shapes) > MAX_SHAPES:
                self.shapes.popitem(last=False)
            return self.shapes[shape, pixels]

    def _compile(self, shape: tuple[int, ...], pixels: bool) -> 'ov.CompiledModel':
        settings = {str(name): str(value) for name, value in self.settings.items()}
        settings |= {'engine': 'openvino', 'device': self._device}
        key = entry_key(self._key, shape=shape, pixels=pixels, **settings)
        for _ in range(2):
            entry = self._cache.entry(key, lambda folder: self._build(shape, pixels, folder))
            try:
                blob = (entry / _BLOB).read_bytes()
                # The settings are those of this import, not of the compilation.
                return self.core.import_model(blob, self._device, self.settings)
            except FileNotFoundError as error:  # another process is replacing this entry
                cause = error
            except RuntimeError as error:  # for instance compiled for another driver
                if is_out_of_memory(error):
                    raise
                self._cache.drop(key)
                cause = error
        raise EngineError(
            f'engine: openvino cannot load the network that it has compiled, {entry}'
        ) from cause

    def _build(self, shape: tuple[int, ...], pixels: bool, folder: Path) -> None:
        path = str(self._onnx_for(shape[2:]))
        try:
            model = self.core.read_model(path)
            model.reshape(list(shape))
            if pixels:
                model = take_pixels(model, self._normalization)
            compiled = self.core.compile_model(model, self._device, self.settings)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise  # a smaller batch may fit
            raise EngineError(
                f'engine: openvino cannot compile this network for inputs of {shape}: '
                f'{str(error).splitlines()[-1].strip()}'
            ) from error
        (folder / _BLOB).write_bytes(compiled.export_model().getbuffer())


class CompiledShape:
    """A network that is compiled for one shape of inputs.

    Idle requests are reused by later calls, so that their memory is allocated and paged in
    only once, whichever thread comes next.

    Args:
        compiled: The compiled network.
    """

    def __init__(self, compiled: 'ov.CompiledModel') -> None:
        self.compiled = compiled
        self.idle: list[ov.InferRequest] = []

    def infer(self, array: np.ndarray) -> tuple[np.ndarray, ...]:
        """Compute one batch and return copies of the outputs; safe in concurrent threads."""
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        # Copied into the request, which would otherwise keep the caller's tensor alive.
        outputs = request.infer({0: array}).to_tuple()
        self.idle.append(request)
        return outputs


def take_pixels(model: 'ov.Model', normalization: Normalization) -> 'ov.Model':
    """Compile the normalisation of uint8 pixels (N, 3, H, W) into a model, which is returned."""
    ov = import_openvino()
    steps = ov.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout('NCHW'))
    steps.input().model().set_layout(ov.Layout('NCHW'))
    preprocess = steps.input().preprocess()
    if normalization.reverse_channels:
        preprocess.reverse_channels()
    preprocess.convert_element_type(ov.Type.f32)
    if normalization.mean is not None:
        preprocess.mean(normalization.mean).scale(normalization.std)
    return steps.build()


def check_device(core: 'ov.Core', device: str, precision: str) -> None:
    """Check that OpenVINO has a device and that the device supports a precision.

    Raises:
        ValueError: OpenVINO finds no such device, or the device does not support the precision.
    """
    available = core.available_devices
    kinds = {name.split('.')[0] for name in available}
    if device not in available and device not in kinds:
        raise ValueError(
            f'device: expected one that OpenVINO finds ({", ".join(available)}), found {device!r}'
        )
    supported = capabilities(core, device)
    if precision.upper() not in supported:
        names = [name for name in ('FP32', 'BF16', 'FP16', 'INT8') if name in supported]
        raise ValueError(
            f'precision: {device} supports {", ".join(names).lower()} in OpenVINO, not {precision}'
        )


def capabilities(core: 'ov.Core', device: str) -> list[str]:
    """Return the capabilities of a device in OpenVINO's spelling: ``FP32``, ``INT8``, ..."""
    return core.get_property(device, import_openvino().properties.device.capabilities)


def _build(source: 'NetworkSource', options: EngineOptions) -> OpenVINOEngine:
    files, key = source.onnx_files(options.precision, quantize_openvino, 'network.xml')
    return OpenVINOEngine(
        files,
        key,
        source.normalization,
        options.precision,
        source.cache,
        device=options.device or 'CPU',
        parallel=1 if options.latency else PARALLEL,
        fixed=source.fixed_batch is not None,
    )


def _computes_on(engine_device: str | None, kind: str) -> str:
    return 'cpu' if engine_device in (None, '', 'CPU') else 'cuda'


register(
    EngineSpec(
        name='openvino',
        build=_build,
        precisions=('fp32', 'fp16', 'bf16', 'int8'),
        modules=('openvino',),
        build_modules=('onnx',),
        precision_modules={'int8': ('nncf',)},
        extra='openvino',
        takes_device=True,
        takes_file=True,
        parallel=PARALLEL,
        computes_on=_computes_on,
    )
)
