"""OpenVINO: networks compiled for Intel's processors, whole batches of one shape at a time."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import properties
from openvino.preprocess import PrePostProcessor
from torch import Tensor

from ..runtime import is_out_of_memory
from . import EngineError
from .cache import EngineCache, entry_key
from .network import Normalization
from .padding import fill_up, next_power_of_two

_TYPES = {'fp32': ov.Type.f32, 'bf16': ov.Type.bf16, 'fp16': ov.Type.f16}
_BLOB = 'compiled.blob'
# With rectangular inputs there may be hundreds; each takes as much memory as the network.
KEPT_SHAPES = 16


def _meet_numpy() -> None:
    """Have OpenVINO look up NumPy's types in one thread.

    It does so at its first use of an array, in the middle of which it lets go of
    Python's lock: two threads that come first at a time wait for each other for ever
    (half of the processes that tried, OpenVINO 2026.4).
    """
    _ = ov.Tensor(np.zeros(1, np.float32)).data


_meet_numpy()


class OpenVINOEngine:
    """Runs an ONNX file on an OpenVINO device.

    Every input shape is compiled by itself, since constant shapes are faster; a
    batch that is not a power of two is filled up to the next one, or a run would
    compile one for each remainder.

    Args:
        onnx_for: Gives the ONNX file for height and width of the inputs.
        key: Names the network in the cache.
        normalization: Compiled into the network, so that pixels go in.
        precision: ``fp32``, ``bf16``, ``fp16``, or ``int8`` for files that are
            quantised.
        cache: Keeps what is compiled.
        device: OpenVINO's name: ``CPU``, ``GPU``, ``NPU``, ...
        parallel: Calls that run at a time; 1 uses all cores for each.
        fixed: Whether the file takes batches of one size, which then come.

    Raises:
        ValueError: There is no such device, or it cannot do the precision.
    """

    name = 'openvino'

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
        self._core = ov.Core()
        self._fixed = fixed
        check_device(self._core, device, precision)
        self._onnx_for = onnx_for
        self._key = key
        self._normalization = normalization
        self._cache = cache
        self._device = device
        self.parallel = parallel
        hint = properties.hint.PerformanceMode
        self._settings = {
            properties.hint.performance_mode: hint.THROUGHPUT if parallel > 1 else hint.LATENCY,
            properties.hint.inference_precision: self._type(precision),
            properties.num_streams: parallel,
        }
        if device == 'CPU':
            self._settings[properties.inference_num_threads] = torch.get_num_threads()
            if parallel > 1:  # streams of several shapes, or networks, would meet on a core
                self._settings[properties.hint.enable_cpu_pinning] = False
        self._shapes: OrderedDict[Any, CompiledShape] = OrderedDict()
        self._lock = threading.Lock()

    def _type(self, precision: str) -> ov.Type:
        """What is computed in; of an int8 network, what is not quantised, as SiLU and the head."""
        if precision == 'int8':
            able = self._core.get_property(self._device, properties.device.capabilities)
            on_cpu = self._device == 'CPU' and 'BF16' in able
            precision = 'bf16' if on_cpu else 'fp32' if 'FP32' in able else 'fp16'
        return _TYPES[precision]

    @property
    def description(self) -> str:
        """Version and device, as they are."""
        device = self._core.get_property(self._device, properties.device.full_name)
        return f'OpenVINO {ov.__version__.split("-")[0]} on {device}'

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Compute one batch; see :class:`mmpose_batch.engines.network.Engine`."""
        count = len(inputs)
        filled = count if self._fixed else next_power_of_two(count)
        array = fill_up(inputs, filled).cpu().contiguous().numpy()
        outputs = self._for_shape(array.shape, array.dtype == np.uint8).infer(array)
        return [torch.from_numpy(output[:count]).to(inputs.device) for output in outputs]

    def _for_shape(self, shape: tuple[int, ...], pixels: bool) -> 'CompiledShape':
        with self._lock:
            if (shape, pixels) not in self._shapes:
                self._shapes[shape, pixels] = CompiledShape(self._compile(shape, pixels))
            self._shapes.move_to_end((shape, pixels))
            if len(self._shapes) > KEPT_SHAPES:
                self._shapes.popitem(last=False)
            return self._shapes[shape, pixels]

    def _compile(self, shape: tuple[int, ...], pixels: bool) -> ov.CompiledModel:
        settings = {str(name): str(value) for name, value in self._settings.items()}
        key = entry_key(
            self._key, engine=self.name, device=self._device, shape=shape, pixels=pixels, **settings
        )
        for _ in range(2):
            entry = self._cache.entry(key, lambda folder: self._build(shape, pixels, folder))
            try:
                blob = (entry / _BLOB).read_bytes()
                # The settings are those of this import, not of the compilation.
                return self._core.import_model(blob, self._device, self._settings)
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
            model = self._core.read_model(path)
            model.reshape(list(shape))
            if pixels:
                model = take_pixels(model, self._normalization)
            compiled = self._core.compile_model(model, self._device, self._settings)
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

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self.compiled = compiled
        self._idle: list[ov.InferRequest] = []

    def infer(self, array: np.ndarray) -> tuple[np.ndarray, ...]:
        """Compute one batch; the outputs are copies. Several threads may ask at a time."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        # Copied into the request, or it would hold the batch, and with it the caller's tensor.
        outputs = request.infer({0: array}).to_tuple()
        self._idle.append(request)
        return outputs


def take_pixels(model: ov.Model, normalization: Normalization) -> ov.Model:
    """Fold the normalisation of uint8 pixels (N, 3, H, W) into a model."""
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout('NCHW'))
    steps.input().model().set_layout(ov.Layout('NCHW'))
    preprocess = steps.input().preprocess()
    if normalization.reverse_channels:
        preprocess.reverse_channels()
    preprocess.convert_element_type(ov.Type.f32)
    if normalization.mean is not None:
        preprocess.mean(normalization.mean).scale(normalization.std)
    return steps.build()


def check_device(core: ov.Core, device: str, precision: str) -> None:
    """See that a device is there and can do a precision.

    Raises:
        ValueError: It is not, or cannot.
    """
    there = core.available_devices
    kinds = {name.split('.')[0] for name in there}
    if device not in there and device not in kinds:
        raise ValueError(
            f'device: expected one that OpenVINO finds ({", ".join(there)}), found {device!r}'
        )
    able = core.get_property(device, properties.device.capabilities)
    if precision.upper() not in able:
        names = [name for name in ('FP32', 'BF16', 'FP16', 'INT8') if name in able]
        raise ValueError(
            f'precision: {device} does {", ".join(names).lower()} in OpenVINO, not {precision}'
        )
