"""ONNX Runtime: runs an ONNX file with the requested execution providers."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import EngineError, is_out_of_memory
from ..tf32 import tf32_is_allowed
from .base import AutoCase, Engine, EngineOptions, EngineSpec
from .int8 import quantize_onnx
from .network import Normalization
from .registry import register

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from .builder import NetworkSource

# Limit of open sessions: rectangular inputs may have hundreds of sizes.
MAX_SESSIONS = 16
CPU, CUDA = 'CPUExecutionProvider', 'CUDAExecutionProvider'
# Providers that compute on an NVIDIA GPU, which their option ``device_id`` selects.
_ON_CUDA = (CUDA, 'TensorrtExecutionProvider')


class OnnxRuntimeEngine(Engine):
    """Runs an ONNX file with ONNX Runtime.

    Args:
        onnx_for: Returns the ONNX file for a height and width of the inputs.
        normalization: Converts uint8 pixels to the inputs of the file.
        providers: Names of execution providers, the preferred one first.
        device: Device of the model. If it is an NVIDIA GPU, providers for NVIDIA GPUs use the same.

    Raises:
        ValueError: This build of ONNX Runtime lacks a provider.
    """

    def __init__(
        self,
        onnx_for: Callable[[tuple[int, int]], Path],
        normalization: Normalization,
        providers: Sequence[str] = (CPU,),
        device: torch.device = torch.device('cpu'),  # noqa: B008 - immutable
    ) -> None:
        import onnxruntime

        available = onnxruntime.get_available_providers()
        if missing := [name for name in providers if name not in available]:
            raise ValueError(
                f'providers: expected some of {", ".join(available)}, found {", ".join(missing)}'
            )
        self._version = onnxruntime.__version__
        self._onnx_for = onnx_for
        self._normalization = normalization
        self._providers = list(providers)
        self._device_id = device.index or 0 if device.type == 'cuda' else None
        # Outputs are passed on by DLPack, which older versions of ONNX Runtime do not support.
        known = hasattr(onnxruntime.OrtValue, '__dlpack__')
        self._binds = known and self._device_id is not None and self._providers[0] in _ON_CUDA
        self.sessions: OrderedDict[tuple[int, int], InferenceSession] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def description(self) -> str:
        """Version of ONNX Runtime, and the execution providers in use."""
        used = next(iter(self.sessions.values())).get_providers() if self.sessions else []
        return f'ONNX Runtime {self._version} by {", ".join(used or self._providers)}'

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Compute one batch; see :class:`mmpose_batch.engines.base.Engine`."""
        device = inputs.device
        if inputs.dtype == torch.uint8:
            inputs = self._normalization(inputs)
        size = tuple(inputs.shape[2:])
        session = self._for_size(size)
        if self._binds and device.type == 'cuda':
            return self._run_bound(session, inputs.contiguous())
        name = session.get_inputs()[0].name
        outputs = session.run(None, {name: inputs.cpu().contiguous().numpy()})
        return [torch.from_numpy(output).to(device) for output in outputs]

    def _run_bound(self, session: 'InferenceSession', inputs: Tensor) -> list[Tensor]:
        """Compute a batch on the GPU of the inputs, without copies to and from the CPU."""
        place = {'device_type': 'cuda', 'device_id': inputs.device.index}
        stream = torch.cuda.current_stream(inputs.device)
        binding = session.io_binding()
        binding.bind_input(
            session.get_inputs()[0].name,
            **place,
            element_type=np.float32,
            shape=tuple(inputs.shape),
            buffer_ptr=inputs.data_ptr(),
        )
        # ONNX Runtime allocates the outputs, since files do not declare all their dimensions.
        for output in session.get_outputs():
            binding.bind_output(output.name, **place)
        # ONNX Runtime computes in a stream of its own, which does not wait for that of PyTorch.
        stream.synchronize()
        session.run_with_iobinding(binding)  # returns when its stream is idle
        outputs = [torch.from_dlpack(value).clone() for value in binding.get_outputs()]
        # The memory returns to ONNX Runtime's allocator, which does not wait for the copies.
        stream.synchronize()
        return outputs

    def _for_size(self, size: tuple[int, int]) -> 'InferenceSession':
        with self._lock:
            if size not in self.sessions:
                self.sessions[size] = self._open(size)
            self.sessions.move_to_end(size)
            if len(self.sessions) > MAX_SESSIONS:
                self.sessions.popitem(last=False)
            return self.sessions[size]

    def _open(self, size: tuple[int, int]) -> 'InferenceSession':
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        path = str(self._onnx_for(size))
        try:
            session = InferenceSession(path, options, providers=self._with_options())
        except Exception as error:  # ONNX Runtime's errors have no common class
            if is_out_of_memory(error):
                raise  # a smaller batch may fit
            raise EngineError(
                f'engine: onnxruntime cannot load this network: {str(error).splitlines()[0]}'
            ) from error
        # ONNX Runtime falls back silently if a provider does not start, or fails later.
        session.disable_fallback()
        if absent := [name for name in self._providers if name not in session.get_providers()]:
            raise EngineError(
                f'providers: {", ".join(absent)} cannot be started; ONNX Runtime would fall back '
                f'to {", ".join(session.get_providers())}'
            )
        return session

    def _with_options(self) -> list[str | tuple[str, dict[str, Any]]]:
        """The execution providers; those for NVIDIA GPUs with the device of the model."""
        if self._device_id is None:
            return self._providers
        options = {name: {'device_id': self._device_id} for name in _ON_CUDA}
        if not tf32_is_allowed():
            options[CUDA]['use_tf32'] = 0  # which older versions of ONNX Runtime do not have
        return [(name, options[name]) if name in options else name for name in self._providers]


def _build(source: 'NetworkSource', options: EngineOptions) -> OnnxRuntimeEngine:
    providers = options.device or default_provider(source.device)
    files, _ = source.onnx_files(options.precision, quantize_onnx, 'network.int8.onnx')
    names = [name.strip() for name in providers.split(',')]
    return OnnxRuntimeEngine(files, source.normalization, names, source.device)


def default_provider(device: torch.device) -> str:
    """Return the execution provider for a run that names none: that of the model's device.

    Raises:
        ValueError: The model is on an NVIDIA GPU, and this build of ONNX Runtime does not support
            them.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if device.type == 'cuda' and CUDA not in available:
        raise ValueError(
            f'engine: onnxruntime: the model is on {device}, but this build of ONNX Runtime only '
            f'has {", ".join(available)}; install onnxruntime-gpu instead of onnxruntime, or '
            f'compute on the CPU with --engine-device {CPU}'
        )
    return CUDA if device.type == 'cuda' else CPU


def _in_auto(case: AutoCase) -> bool:
    if not case.on_cuda:
        return True
    try:
        import onnxruntime
    except ImportError:
        return False
    return CUDA in onnxruntime.get_available_providers()


register(
    EngineSpec(
        name='onnxruntime',
        build=_build,
        precisions=('fp32', 'int8'),
        modules=('onnxruntime',),
        build_modules=('onnx',),
        extra='onnxruntime',
        takes_device=True,
        takes_file=True,
        in_auto=_in_auto,
    )
)
