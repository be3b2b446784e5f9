"""ONNX Runtime: an ONNX file by the execution providers that were asked for."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime as ort
import torch
from torch import Tensor

from ..runtime import is_out_of_memory
from . import EngineError
from .network import Normalization

# With rectangular inputs there may be hundreds.
KEPT_SIZES = 16


class OnnxRuntimeEngine:
    """Runs an ONNX file by ONNX Runtime.

    Args:
        onnx_for: Gives the ONNX file for height and width of the inputs.
        normalization: Turns pixels into what the file takes.
        providers: Names of execution providers, the preferred one first.

    Raises:
        ValueError: This build of ONNX Runtime lacks a provider.
    """

    name = 'onnxruntime'
    parallel = 1

    def __init__(
        self,
        onnx_for: Callable[[tuple[int, int]], Path],
        normalization: Normalization,
        providers: Sequence[str] = ('CPUExecutionProvider',),
    ) -> None:
        missing = [name for name in providers if name not in ort.get_available_providers()]
        if missing:
            raise ValueError(
                f'providers: expected some of {", ".join(ort.get_available_providers())}, '
                f'found {", ".join(missing)}'
            )
        self._onnx_for = onnx_for
        self._normalization = normalization
        self._providers = list(providers)
        self._sessions: OrderedDict[tuple[int, int], ort.InferenceSession] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def description(self) -> str:
        """Version, and the providers really in use."""
        used = next(iter(self._sessions.values())).get_providers() if self._sessions else []
        return f'ONNX Runtime {ort.__version__} by {", ".join(used or self._providers)}'

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Compute one batch; see :class:`mmpose_batch.engines.network.Engine`."""
        device = inputs.device
        if inputs.dtype == torch.uint8:
            inputs = self._normalization(inputs)
        size = tuple(inputs.shape[2:])
        session = self._for_size(size)
        name = session.get_inputs()[0].name
        outputs = session.run(None, {name: inputs.cpu().contiguous().numpy()})
        return [torch.from_numpy(output).to(device) for output in outputs]

    def _for_size(self, size: tuple[int, int]) -> ort.InferenceSession:
        with self._lock:
            if size not in self._sessions:
                self._sessions[size] = self._open(size)
            self._sessions.move_to_end(size)
            if len(self._sessions) > KEPT_SIZES:
                self._sessions.popitem(last=False)
            return self._sessions[size]

    def _open(self, size: tuple[int, int]) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        path = str(self._onnx_for(size))
        try:
            session = ort.InferenceSession(path, options, providers=self._providers)
        except Exception as error:  # ONNX Runtime's have no class in common
            if is_out_of_memory(error):
                raise  # a smaller batch may do
            raise EngineError(
                f'engine: onnxruntime cannot load this network: {str(error).splitlines()[0]}'
            ) from error
        # ONNX Runtime falls back without a word where a provider does not start, or fails.
        session.disable_fallback()
        if absent := [name for name in self._providers if name not in session.get_providers()]:
            raise EngineError(
                f'providers: {", ".join(absent)} does not start here; ONNX Runtime would run on '
                f'{", ".join(session.get_providers())}'
            )
        return session
