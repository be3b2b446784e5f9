"""OpenVINO: networks compiled for Intel's processors, for batches of one shape each."""

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
from .padding import next_power_of_two, pad_batch
from .registry import register

if TYPE_CHECKING:
    import openvino as ov

    from .builder import NetworkSource

_first_array = threading.Lock()
# Batches that run concurrently, each on a part of the cores.
PARALLEL = 2
_TYPES = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}
_BLOB = 'compiled.blob'
# With rectangular inputs there may be hundreds; each takes as much memory as the network.
KEPT_SHAPES = 16


def import_openvino() -> ModuleType:
    """Import OpenVINO, and have it look up NumPy's types in one thread.

    It does so at its first use of an array, in the middle of which it releases the GIL:
    two threads that come first concurrently deadlock (half of the processes that tried,
    OpenVINO 2026.4).
    """
    import openvino

    with _first_array:
        _ = openvino.Tensor(np.zeros(1, np.float32)).data
    return openvino


class OpenVINOEngine(Engine):
    """Runs an ONNX file on an OpenVINO device.

    Every input shape is compiled by itself, since constant shapes are faster; a
    batch that is not a power of two is padded to the next one, or a run would
    compile one for each remainder.

    Args:
        onnx_for: Gives the ONNX file for height and width of the inputs.
        key: Names the network in the cache.
        normalization: Compiled into the network, so that pixels go in.
        precision: ``fp32``, ``bf16``, ``fp16``, or ``int8`` for files that are
            quantised.
        cache: Keeps what is compiled.
        device: OpenVINO's name: ``CPU``, ``GPU``, ``NPU``, ...
        parallel: Calls that run concurrently; 1 uses all cores for each.
        fixed: Whether the file takes batches of one size, which then come.

    Raises:
        ValueError: There is no such device, or it cannot do the precision.
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
            if parallel > 1:  # streams of several shapes, or networks, would meet on a core
                self.settings[properties.hint.enable_cpu_pinning] = False
        self.shapes: OrderedDict[Any, CompiledShape] = OrderedDict()
        self._lock = threading.Lock()

    def _type(self, precision: str) -> 'ov.Type':
        """What is computed in; of an int8 network, what is not quantised, as SiLU and the head."""
        if precision == 'int8':
            able = capabilities(self.core, self._device)
            on_cpu = self._device == 'CPU' and 'BF16' in able
            precision = 'bf16' if on_cpu else 'fp32' if 'FP32' in able else 'fp16'
        return getattr(self._openvino.Type, _TYPES[precision])

    @property
    def description(self) -> str:
        """Version and device, as they are."""
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
            if len(self.shapes) > KEPT_SHAPES:
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
            except FileNotFoundError as error:  # another process mends this entry
                refused = error
            except RuntimeError as error:  # compiled for another driver, say
                if is_out_of_memory(error):
                    raise
                self._cache.drop(key)
                refused = error
        raise EngineError(
            f'engine: openvino cannot read what it has compiled, {entry}'
        ) from refused

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
                raise  # a smaller batch may do
            raise EngineError(
                f'engine: openvino cannot compile this network for inputs of {shape}: '
                f'{str(error).splitlines()[-1].strip()}'
            ) from error
        (folder / _BLOB).write_bytes(compiled.export_model().getbuffer())


class CompiledShape:
    """A network compiled for one shape of inputs.

    What a request needs of memory is given out, and touched, once: threads come and go
    with every call of an inferencer, requests stay.
    """

    def __init__(self, compiled: 'ov.CompiledModel') -> None:
        self.compiled = compiled
        self.idle: list[ov.InferRequest] = []

    def infer(self, array: np.ndarray) -> tuple[np.ndarray, ...]:
        """Compute one batch; the outputs are copies. Several threads may ask concurrently."""
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        # Copied into the request, or it would hold the batch, and with it the caller's tensor.
        outputs = request.infer({0: array}).to_tuple()
        self.idle.append(request)
        return outputs


def take_pixels(model: 'ov.Model', normalization: Normalization) -> 'ov.Model':
    """Fold the normalisation of uint8 pixels (N, 3, H, W) into a model."""
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
    """Check that a device is there and can do a precision.

    Raises:
        ValueError: It is not, or cannot.
    """
    there = core.available_devices
    kinds = {name.split('.')[0] for name in there}
    if device not in there and device not in kinds:
        raise ValueError(
            f'device: expected one that OpenVINO finds ({", ".join(there)}), found {device!r}'
        )
    able = capabilities(core, device)
    if precision.upper() not in able:
        names = [name for name in ('FP32', 'BF16', 'FP16', 'INT8') if name in able]
        raise ValueError(
            f'precision: {device} does {", ".join(names).lower()} in OpenVINO, not {precision}'
        )


def capabilities(core: 'ov.Core', device: str) -> list[str]:
    """What a device computes, as OpenVINO spells it: ``FP32``, ``BF16``, ``INT8``, ..."""
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
