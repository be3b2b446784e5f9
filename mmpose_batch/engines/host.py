"""The engine of one model: chosen, built, checked on its first batch, and then asked."""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import nn

from . import EngineError
from .cache import EngineCache, NoCache, entry_key, network_key
from .check import BOUNDS, Instances, compare, instances_of
from .export import export_onnx
from .fusion import fuse_layers
from .given import FixedBatch, GivenFile, predict_decoded
from .quantization import (
    Calibration,
    ModelFiles,
    Quantize,
    QuantizedFiles,
    quantize_onnx,
    quantize_openvino,
)
from .seam import Engine, Network, Seam, has_seam, head_of
from .torch_eager import prepare_model

ENGINES = ('torch', 'torch-compile', 'onnxruntime', 'openvino', 'auto')

Run = Callable[[], Sequence[BaseDataElement]]

# Batches at a time where an engine can: what decodes one leaves its core to the other.
PARALLEL = 2

logger = logging.getLogger('mmpose_batch')


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """What computes a network.

    Attributes:
        engine: One of :data:`ENGINES`.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        device: OpenVINO's device or ONNX Runtime's provider; None takes the CPU.
        file: An ONNX file of the network, from elsewhere; None has it exported.
        cache: Whether built engines are kept on disk.
        self_check: Whether answers that differ too much from PyTorch's are refused.
        latency: Whether one batch at a time is run, as fast as it can be, rather than
            as many in a second as can be.
    """

    engine: str = 'torch'
    precision: str = 'fp32'
    device: str | None = None
    file: str | None = None
    cache: bool = True
    self_check: bool = True
    latency: bool = False


@dataclass(frozen=True, slots=True)
class FirstBatch:
    """What an engine is checked with: a batch, and PyTorch's answers to it."""

    run: Run
    answers: list[Instances]


class EngineHost:
    """Runs a model's test steps with an engine at its seam.

    An engine is built, and checked against PyTorch, with inputs of the run: those
    that come while :attr:`sampling` is set, else the first batch.

    Args:
        model: In eval mode; changed in place.
        options: What is asked for.

    Attributes:
        parallel: Test steps that may run at a time.
        report: Engine, precision, and how the check went, for ``run.json``.
        sampling: Whether batches are collected, and PyTorch computes them.

    Raises:
        EngineError: The engine is not installed, or the model has no seam.
        ValueError: It lacks the device, or the device the precision.
    """

    def __init__(self, model: nn.Module, options: EngineOptions) -> None:
        self.options = options
        alone = options.latency or options.engine in ('torch', 'torch-compile')
        self.parallel = 1 if alone else PARALLEL
        self.report: dict[str, Any] = {'engine': 'torch', 'precision': options.precision}
        self.sampling = False
        self._settled = threading.Event()
        self._lock = threading.Lock()
        self._first: FirstBatch | None = None
        self._model = model
        if options.engine == 'torch' or (options.engine == 'auto' and not has_seam(model)):
            prepare_model(model, options.precision)
            self._take('torch', None)
            return
        if not has_seam(model):
            raise EngineError(
                f'engine: {type(model).__name__} with this head has ways of its own through the '
                'network; only torch runs it'
            )
        fuse_layers(model)
        self._seam = Seam(model)
        self._files = OnnxFiles(self._seam.network, self._key, self._cache)
        self._calibration = Calibration(self._seam.normalization)
        self._given = None if options.file is None else self._take_file(model)
        if options.engine != 'auto':
            self._import(options.engine)
            if options.precision != 'int8':  # that wants inputs first
                self._seam.engine = self._build(options.engine)
                if not options.self_check:
                    self._take(options.engine, self._seam.engine)

    @cached_property
    def _key(self) -> str:
        return network_key(self._model)

    @cached_property
    def _cache(self) -> EngineCache:
        return EngineCache() if self.options.cache else NoCache()

    @property
    def settled(self) -> bool:
        """Whether the engine is chosen, built and checked."""
        return self._settled.is_set()

    def test_step(self, run: Run) -> Sequence[BaseDataElement]:
        """Run one batch.

        Args:
            run: The model's ``test_step`` on the batch.

        Raises:
            EngineError: The engine cannot run the network, or its answers differ
                too much from PyTorch's.
        """
        if not self.settled:
            with self._lock:
                if not self.settled:
                    samples = self._sample(run)
                    if self.sampling:
                        return samples
                    self._settle(self._first)
        with self._turns:
            return run()

    def settle(self) -> None:
        """Build, check and choose with what was sampled; without that, the first batch does.

        Raises:
            EngineError: As :meth:`test_step`.
        """
        with self._lock:
            if not self.settled and self._first is not None:
                self._settle(self._first)

    def note_memory(self, batch_size: int) -> None:
        """Say, and report, that the memory holds no larger batches."""
        self.report['largest_batch'] = batch_size
        logger.warning('out of memory: going on with batches of %d at most', batch_size)

    def _sample(self, run: Run) -> Sequence[BaseDataElement]:
        """Have PyTorch compute a batch, and keep its inputs."""
        record = self._calibration.add if self.options.precision == 'int8' else None
        with self._seam.reference(record):
            samples = run()
        if self._first is None:
            self._first = FirstBatch(run, instances_of_all(samples))
        return samples

    def _settle(self, first: FirstBatch) -> None:
        self._calibration.thin()
        if self.options.engine == 'auto':
            self._choose(first)
        else:
            if self.options.precision == 'int8':
                self._seam.engine = self._build(self.options.engine)
            self._check(self.options.engine, first)
            self._take(self.options.engine, self._seam.engine)
        self._first = None

    def _candidates(self) -> tuple[str, ...]:
        others = ('openvino', 'onnxruntime')
        own = self.options.precision == 'int8' or self.options.file is not None
        return others if own else ('torch', *others)

    def _choose(self, first: FirstBatch) -> None:
        """Take the fastest engine of those that are there and answer as PyTorch does."""
        seconds = self.remember('engines', lambda: self._time_engines(first))
        for name in sorted(seconds, key=seconds.__getitem__):
            try:
                self._seam.engine = self._engine(name)
                self._check(name, first)
            except (EngineError, ValueError) as error:
                logger.warning('%s; passed over', error)
                continue
            self.report['seconds_of_a_batch'] = seconds
            self._take(name, self._seam.engine)
            return
        asked = self.options.file or self.options.precision
        logger.warning('engine: none does %s here; torch in fp32', asked)
        self._seam.engine = self._seam.by_torch
        self.report['precision'] = 'fp32'
        self._take('torch', None)

    def _time_engines(self, first: FirstBatch) -> dict[str, float]:
        """Seconds of a batch for each engine that is there and answers as PyTorch does."""
        seconds = {}
        for name in self._candidates():
            try:
                self._seam.engine = self._engine(name)
                self._check(name, first)
            except (EngineError, ValueError) as error:
                logger.warning('%s; passed over', error)
                continue
            seconds[name] = shortest(first.run)
        return seconds

    def _engine(self, name: str) -> Engine:
        return self._seam.by_torch if name == 'torch' else self._build(name)

    def remember(
        self, kind: str, measure: Callable[[], dict[str, Any]], **settings: Any
    ) -> dict[str, Any]:
        """What was measured on this machine with this network and these settings, once.

        Args:
            kind: Of the measurement.
            measure: Gives the outcome, as JSON has it.
            settings: That it depends on, beside engine, precision and device.
        """
        asked = {'engine': self.options.engine, 'precision': self.options.precision}
        asked |= {'device': self.options.device, 'threads': torch.get_num_threads(), **settings}
        key = entry_key(self._key, kind=kind, **asked)

        def build(folder: Path) -> None:
            (folder / 'measured.json').write_text(json.dumps(measure()))

        return json.loads((self._cache.entry(key, build) / 'measured.json').read_text())

    def _check(self, name: str, first: FirstBatch) -> None:
        """See that an engine runs and answers as PyTorch does."""
        try:
            answers = instances_of_all(first.run())
        except EngineError:
            raise
        except Exception as error:  # PyTorch has run this batch, so it is the engine's fault
            text = (str(error).splitlines() or [''])[0]
            raise EngineError(
                f'engine: {name} cannot run this model: {type(error).__name__}: {text}'
            ) from error
        difference = compare(first.answers, answers)
        self.report['self_check'] = difference.as_dict()
        if self.options.self_check and not difference.within(BOUNDS[self.options.precision]):
            raise EngineError(
                f'engine: {name} in {self.options.precision} answers differently: {difference}. '
                'This is beyond the bound of that precision; without the self-check it runs'
            )

    def _take(self, name: str, engine: Engine | None) -> None:
        self._turns = threading.Semaphore(getattr(engine, 'parallel', 1))
        self.report['engine'] = name
        self.report['description'] = getattr(engine, 'description', f'PyTorch {torch.__version__}')
        self._settled.set()

    # ------------------------------------------------------------------ building

    def _build(self, name: str) -> Engine:
        self._import(name)
        return _BUILDERS[name](self)

    def _import(self, name: str) -> None:
        """See that what an engine needs is installed.

        Raises:
            EngineError: It is not.
        """
        int8 = self.options.precision == 'int8'
        modules = [*_MODULES[name], *(['nncf'] if int8 and name == 'openvino' else [])]
        for module in modules:
            try:
                import_module(module)
            except ImportError as error:
                extra = 'int8' if module == 'nncf' else name
                raise EngineError(
                    f'engine: {name} needs {module}, which is not installed: '
                    f"pip install 'mmpose-batch[{extra}]' ({error})"
                ) from error

    def _take_file(self, model: nn.Module) -> GivenFile:
        """Look through the file that is to be run instead of an export of the model."""
        if self.options.precision == 'int8':
            raise ValueError('engine_file: int8 is for networks that are exported here')
        given = GivenFile(self.options.file)
        if given.decoded:
            head = head_of(model)
            head.predict = predict_decoded(self._seam, head)
        elif given.size is not None:
            given.check_outputs(self._seam.network, given.size)
        self._files, self._key = given, f'file {given.key}'
        return given

    def _fixed(self, engine: Engine) -> Engine:
        """The engine for a file that takes batches of one size."""
        size = self._given and self._given.batch_size
        return FixedBatch(engine, size) if size else engine

    def _network_files(self, quantize: Quantize, name: str) -> tuple[ModelFiles, str]:
        """Files of the network in the precision that is asked for, and what names them."""
        if self.options.precision != 'int8':
            return self._files, self._key
        calibration = self._calibration
        key = f'{self._key} {calibration.key}'
        self.report['calibrated_with'] = len(calibration)
        return QuantizedFiles(self._files, calibration, key, self._cache, quantize, name), key

    def _openvino(self) -> Engine:
        files, key = self._network_files(quantize_openvino, 'network.xml')
        engine = import_module('.openvino', __package__).OpenVINOEngine(
            files,
            key,
            self._seam.normalization,
            self.options.precision,
            self._cache,
            device=self.options.device or 'CPU',
            parallel=self.parallel,
            fixed=bool(self._given and self._given.batch_size),
        )
        return self._fixed(engine)

    def _onnxruntime(self) -> Engine:
        files, _ = self._network_files(quantize_onnx, 'network.int8.onnx')
        engine = import_module('.onnx_runtime', __package__).OnnxRuntimeEngine(
            files,
            self._seam.normalization,
            [self.options.device or 'CPUExecutionProvider'],
        )
        return self._fixed(engine)

    def _torch_compile(self) -> Engine:
        return import_module('.torch_compile', __package__).TorchCompileEngine(
            self._seam.network, self._seam.normalization, self.options.precision
        )


_BUILDERS = {
    'openvino': EngineHost._openvino,
    'onnxruntime': EngineHost._onnxruntime,
    'torch-compile': EngineHost._torch_compile,
}


# What must be there to export, run, and quantise.
_MODULES = {
    'openvino': ('openvino', 'onnx'),
    'onnxruntime': ('onnxruntime', 'onnx'),
    'torch-compile': (),
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
