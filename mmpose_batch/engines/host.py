"""The engine of one model: chosen, built, checked on its first batch, and then asked."""

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.structures import BaseDataElement
from torch import nn

from . import EngineError
from .cache import EngineCache, NoCache, entry_key, network_key
from .check import BOUNDS, Instances, compare, instances_of
from .export import export_onnx
from .fusion import fuse_layers
from .seam import Engine, Network, Seam, has_seam
from .torch_eager import prepare_model

ENGINES = ('torch', 'torch-compile', 'onnxruntime', 'openvino', 'auto')

Run = Callable[[], Sequence[BaseDataElement]]

# Batches at a time where an engine can: what decodes one leaves its core to the other.
PARALLEL = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """What computes a network.

    Attributes:
        engine: One of :data:`ENGINES`.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        device: OpenVINO's device or ONNX Runtime's provider; None takes the CPU.
        cache: Whether built engines are kept on disk.
        self_check: Whether answers that differ too much from PyTorch's are refused.
    """

    engine: str = 'torch'
    precision: str = 'fp32'
    device: str | None = None
    cache: bool = True
    self_check: bool = True


class EngineHost:
    """Runs a model's test steps with an engine at its seam.

    Args:
        model: In eval mode; changed in place.
        options: What is asked for.

    Attributes:
        parallel: Test steps that may run at a time.
        report: Engine, precision, and how the check went, for ``run.json``.

    Raises:
        EngineError: The engine is not installed, or the model has no seam.
        ValueError: It lacks the device, or the device the precision.
    """

    def __init__(self, model: nn.Module, options: EngineOptions) -> None:
        self.options = options
        self.parallel = 1 if options.engine in ('torch', 'torch-compile') else PARALLEL
        self.report: dict[str, Any] = {'engine': 'torch', 'precision': options.precision}
        self._settled = threading.Event()
        self._lock = threading.Lock()
        if options.engine == 'torch' or (options.engine == 'auto' and not has_seam(model)):
            prepare_model(model, options.precision)
            self._settled.set()
            self._take('torch', None)
            return
        if not has_seam(model):
            raise EngineError(
                f'engine: {type(model).__name__} with this head has ways of its own through the '
                'network; only torch runs it'
            )
        fuse_layers(model)
        self._key = network_key(model)
        self._cache = EngineCache() if options.cache else NoCache()
        self._seam = Seam(model)
        self._files = OnnxFiles(self._seam.network, self._key, self._cache)
        if options.engine != 'auto':
            self._seam.engine = self._build(options.engine)
            self._take(options.engine, self._seam.engine)

    def test_step(self, run: Run) -> Sequence[BaseDataElement]:
        """Run one batch; the first one settles and checks the engine.

        Args:
            run: The model's ``test_step`` on the batch.

        Raises:
            EngineError: The engine cannot run the network, or its answers differ
                too much from PyTorch's.
        """
        if not self._settled.is_set():
            with self._lock:
                if not self._settled.is_set():
                    self._settle(run)
                    self._settled.set()
        with self._turns:
            return run()

    def _settle(self, run: Run) -> None:
        with self._seam.reference():
            reference = instances_of_all(run())
        if self.options.engine != 'auto':
            self._check(self.options.engine, run, reference)
            return
        candidates: dict[str, Engine] = {'torch': self._seam.by_torch}
        seconds: dict[str, float] = {}
        for name in ('torch', 'openvino', 'onnxruntime'):
            try:
                engine = candidates.get(name) or self._build(name)
                self._seam.engine = engine
                self._check(name, run, reference)
            except (EngineError, ValueError) as error:
                warnings.warn(f'engine: {error}; passed over', stacklevel=2)
                continue
            candidates[name] = engine
            seconds[name] = shortest(run)
        fastest = min(seconds, key=seconds.__getitem__)
        self._seam.engine = candidates[fastest]
        self.report['seconds_of_a_batch'] = seconds
        self._take(fastest, candidates[fastest])

    def _check(self, name: str, run: Run, reference: Sequence[Instances]) -> None:
        """See that an engine runs and answers as PyTorch does."""
        try:
            answers = instances_of_all(run())
        except Exception as error:  # PyTorch has run this batch, so it is the engine's fault
            text = (str(error).splitlines() or [''])[0]
            raise EngineError(
                f'engine: {name} cannot run this model: {type(error).__name__}: {text}'
            ) from error
        difference = compare(reference, answers)
        self.report['self_check'] = difference.as_dict()
        if self.options.self_check and not difference.within(BOUNDS[self.options.precision]):
            raise EngineError(
                f'engine: {name} in {self.options.precision} answers differently: {difference}. '
                'This is beyond the bound of that precision; without the self-check it runs'
            )

    def _take(self, name: str, engine: Engine | None) -> None:
        self._turns = threading.Semaphore(getattr(engine, 'parallel', 1))
        self.report['engine'] = name

    def _build(self, name: str) -> Engine:
        try:
            return _BUILDERS[name](self)
        except ImportError as error:
            raise EngineError(
                f"engine: {name} is not installed: pip install 'mmpose-batch[{name}]' ({error})"
            ) from error

    def _openvino(self) -> Engine:
        return import_module('.openvino', __package__).OpenVINOEngine(
            self._files,
            self._key,
            self._seam.normalization,
            self.options.precision,
            self._cache,
            device=self.options.device or 'CPU',
            parallel=PARALLEL,
        )

    def _onnxruntime(self) -> Engine:
        return import_module('.onnx_runtime', __package__).OnnxRuntimeEngine(
            self._files,
            self._seam.normalization,
            [self.options.device or 'CPUExecutionProvider'],
        )

    def _torch_compile(self) -> Engine:
        return import_module('.torch_compile', __package__).TorchCompileEngine(
            self._seam.network, self._seam.normalization, self.options.precision
        )


_BUILDERS = {
    'openvino': EngineHost._openvino,
    'onnxruntime': EngineHost._onnxruntime,
    'torch-compile': EngineHost._torch_compile,
}


class OnnxFiles:
    """The ONNX files of a network, one for each size of inputs, exported at the first use."""

    def __init__(self, network: Network, key: str, cache: EngineCache) -> None:
        self._network = network
        self._key = key
        self._cache = cache

    def __call__(self, size: tuple[int, int]) -> Path:
        """The file for inputs of one height and width.

        Raises:
            ExportError: The network cannot be exported.
        """
        key = entry_key(self._key, kind='onnx', size=size)
        return self._cache.entry(key, partial(self._export, size)) / 'network.onnx'

    def _export(self, size: tuple[int, int], folder: Path) -> None:
        export_onnx(self._network, folder / 'network.onnx', size)


def instances_of_all(samples: Sequence[BaseDataElement]) -> list[Instances]:
    """The answers to one batch, image by image."""
    return [instances_of(sample) for sample in samples]


def shortest(run: Run, times: int = 3) -> float:
    """Seconds that a call takes at its best, when everything is built."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
