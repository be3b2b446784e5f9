"""ONNX Runtime: runs an ONNX file with the requested execution providers."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import EngineError, is_out_of_memory
from .base import Engine, EngineOptions, EngineSpec
from .int8 import quantize_onnx
from .network import Normalization
from .registry import AUTO, register

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from .builder import NetworkSource

# Limit of open sessions: rectangular inputs may have hundreds of sizes.
MAX_SESSIONS = 16


class OnnxRuntimeEngine(Engine):
    """Runs an ONNX file with ONNX Runtime.

    Args:
        onnx_for: Returns the ONNX file for a height and width of the inputs.
        normalization: Converts uint8 pixels to the inputs of the file.
        providers: Names of execution providers, the preferred one first.

    Raises:
        ValueError: This build of ONNX Runtime lacks a provider.
    """

    def __init__(
        self,
        onnx_for: Callable[[tuple[int, int]], Path],
        normalization: Normalization,
        providers: Sequence[str] = ('CPUExecutionProvider',),
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
        name = session.get_inputs()[0].name
        outputs = session.run(None, {name: inputs.cpu().contiguous().numpy()})
        return [torch.from_numpy(output).to(device) for output in outputs]

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
            session = InferenceSession(path, options, providers=self._providers)
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


def _build(source: 'NetworkSource', options: EngineOptions) -> OnnxRuntimeEngine:
    files, _ = source.onnx_files(options.precision, quantize_onnx, 'network.int8.onnx')
    providers = options.device or default_provider(options, source.on_cuda)
    return OnnxRuntimeEngine(
        files, source.normalization, [name.strip() for name in providers.split(',')]
    )


def default_provider(options: EngineOptions, on_cuda: bool) -> str:
    """Return the execution provider for a run that names none.

    It is CUDA's if the engine is ``auto``, the model is on a GPU and this build of ONNX Runtime
    has the provider; otherwise it is the CPU's.
    """
    import onnxruntime

    cuda = 'CUDAExecutionProvider'
    allowed = options.engine == AUTO and on_cuda
    available = allowed and cuda in onnxruntime.get_available_providers()
    return cuda if available else 'CPUExecutionProvider'


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
    )
)
