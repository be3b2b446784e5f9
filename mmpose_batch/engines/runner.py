"""The engine runner: runs the test steps of a model with an engine that replaces its network."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..errors import EngineError, is_fatal, is_out_of_memory, one_line
from ..progress import Clock
from .base import Engine, EngineOptions
from .builder import EngineBuilder
from .cache import Measurements, network_key, open_cache
from .lifecycle import EngineLifecycle
from .network import is_replaceable
from .overlap import IN_FLIGHT, OverlappedEngine
from .registry import AUTO, get, parallel_batches
from .selection import Phase, Selection
from .selector import EngineSelector
from .torch_eager import prepare_model
from .variant import EngineVariant, build_variant
from .verification import Run

logger = logging.getLogger('mmpose_batch')


class EngineRunner:
    """Runs the test steps of one model.

    Args:
        model: Model in eval mode; it is changed in place.
        options: Requested options.
        clock: Returns a time in seconds, for timing engines.

    Attributes:
        lifecycle: Lifecycle of the engine, with its phase and selection.

    Raises:
        EngineError: The engine is not installed, or the model's network cannot be replaced.
        ValueError: The engine does not have the device, or the device does not support the
            precision.
    """

    def __init__(
        self, model: nn.Module, options: EngineOptions, clock: Clock = time.perf_counter
    ) -> None:
        self._model = model
        self._for_latency_only = options.latency
        self._variant: EngineVariant | None = None
        self._variant_is_built = False
        self._lock = threading.Lock()
        self._largest_batch: int | None = None
        self._builder: EngineBuilder | None = None
        replaceable = is_replaceable(model)
        upstream = options.engine == 'torch' and options.precision == 'fp32'
        if upstream or (options.engine in ('torch', AUTO) and not replaceable):
            selection = _prepare(model, options)
            # The test steps of other classes may not be safe in concurrent threads.
            if replaceable and next(model.parameters()).device.type == 'cuda':
                selection = replace(selection, parallel=IN_FLIGHT)
            self.lifecycle = EngineLifecycle(options, selection=selection)
            return
        if not replaceable:
            raise EngineError(
                f'engine: the network of {type(model).__name__} with this head cannot be replaced; '
                'only engine torch supports it'
            )
        self._builder = EngineBuilder(model, options)
        self.lifecycle = EngineLifecycle(options, EngineSelector(self._builder, options, clock))

    @property
    def options(self) -> EngineOptions:
        """The requested options, with precision fp32 after a fallback to it."""
        return self.lifecycle.options

    @property
    def selection(self) -> Selection | None:
        """The selection; None before an engine is selected."""
        return self.lifecycle.selection

    @property
    def engine(self) -> Engine | None:
        """The active engine; None if the network is not replaced."""
        return None if self._builder is None else self._builder.swap.engine

    @property
    def parallel(self) -> int:
        """Number of test steps that may be submitted concurrently, except for single batches."""
        if self.selection is None:
            planned = parallel_batches(self.options)
            # A named engine is active already, except in int8.
            return planned if self.options.engine == AUTO else max(planned, self.engine.parallel)
        return get(self.selection.engine).parallel if self._has_variant else self.selection.parallel

    @property
    def _has_variant(self) -> bool:
        """Whether the selected engine differs between builds for throughput and for latency."""
        if self._builder is None or self._for_latency_only:
            return False
        if isinstance(self.engine, OverlappedEngine):  # there are no cores to split
            return False
        selection = self.selection
        return max(selection.parallel, get(selection.engine).parallel * self.options.latency) > 1

    @property
    def report(self) -> dict[str, Any]:
        """Engine, precision and result of the verification, for ``run.json``."""
        if self.selection is not None:
            report = self.selection.report()
        else:
            report = {'engine': self.options.engine, 'precision': self.options.precision}
            if self._builder is not None and self._builder.external is not None:
                report['file'] = self._builder.external.key
        if self._largest_batch is not None:
            report['largest_batch'] = self._largest_batch
        return report

    @property
    def calibration(self) -> list[Tensor] | None:
        """Inputs that int8 was, or will be, calibrated with; None if there are none yet."""
        if self._builder is None:
            return None
        calibrated = self.selection is not None and self.selection.calibration is not None
        calibration = self._builder.calibration
        return calibration.inputs if calibrated or calibration.given else None

    def calibrate_with(self, inputs: list[Tensor]) -> None:
        """Calibrate int8 with the :attr:`calibration` of another runner, not with first batches."""
        self._builder.calibration.give(inputs)

    @property
    def bytes_on_disk(self) -> int:
        """Size in bytes of the files that the engine is loaded from."""
        return 0 if self._builder is None else self._builder.cache.bytes_used

    def test_step(self, run: Run, alone: bool = False) -> Sequence[BaseDataElement]:
        """Run one batch.

        Args:
            run: The model's ``test_step`` on the batch.
            alone: Whether no other batch runs concurrently, so that this one can use all cores.
                An engine that is built for throughput is also built for latency at the first
                such batch, and the reverse.

        Returns:
            The data samples of the batch.

        Raises:
            EngineError: The engine cannot run the network, or its outputs deviate from
                PyTorch's beyond tolerance.
        """
        if self.lifecycle.phase is not Phase.SELECTED:
            outputs = self.lifecycle.run_first(run)
            if outputs is not None:
                return outputs
        if self._has_variant and alone != self.options.latency:
            return self._run_variant(run)
        return self._run_selected(run)

    def _run_selected(self, run: Run) -> Sequence[BaseDataElement]:
        with self.lifecycle.turns:
            return run()

    def _run_variant(self, run: Run) -> Sequence[BaseDataElement]:
        with self._lock:
            if not self._variant_is_built:
                outputs = self._run_selected(run)
                args = self._builder, self.selection.engine, self.options, run, outputs
                self._variant = build_variant(*args)
                self._variant_is_built = True
        return self._run_selected(run) if self._variant is None else self._variant.test_step(run)

    def by_reference(self) -> AbstractContextManager[None]:
        """Let PyTorch compute the network in this block, for the current thread."""
        return nullcontext() if self._builder is None else self._builder.swap.by_reference()

    def warm_up(self, run: Callable[[], object]) -> None:
        """Compile the engine for the batch size of this run, if it compiles for batch sizes.

        Args:
            run: Runs a batch of this size.

        Raises:
            EngineError: The engine fails, except for lack of memory.
        """
        if self.selection is None or self.engine is None:
            return
        try:
            self.engine.warm_up(run)
        except Exception as error:
            if is_fatal(error):
                raise
            if not is_out_of_memory(error):  # out of memory is handled by smaller batches
                raise EngineError(f'engine: {one_line(error)}') from error

    def cool_down(self) -> None:
        """Discard the batch size of the warm-up, because the next run uses another."""
        if self.engine is not None:
            self.engine.cool_down()

    def note_memory(self, batch_size: int) -> None:
        """Record and report the size that batches are reduced to after running out of memory."""
        self._largest_batch = batch_size
        logger.warning('out of memory: batch size reduced to %d', batch_size)

    def measure(
        self, kind: str, measure: Callable[[], tuple[dict[str, Any], bool]], **settings: Any
    ) -> dict[str, Any]:
        """Return the cached result of a measurement with this engine, or measure now.

        Args:
            kind: Name of the measurement.
            measure: Returns the result, which JSON can represent, and whether to cache it.
            settings: Further settings that the result depends on, besides the engine and the
                device.
        """
        report = self.report
        settings |= {'engine': report['engine'], 'calibration': report.get('calibration')}
        return self._measurements.get(kind, self.options, measure, **settings)

    @cached_property
    def _measurements(self) -> Measurements:
        if self._builder is not None:
            return self._builder.measurements
        device = next(self._model.parameters()).device
        return Measurements(open_cache(self.options.cache), network_key(self._model), device)


def _prepare(model: nn.Module, options: EngineOptions) -> Selection:
    """Prepare a model whose network is not replaced; int8 falls back to fp32."""
    precision = options.precision
    if precision == 'int8':
        logger.warning('engine: no engine supports int8 for this model; using torch in fp32')
        precision = 'fp32'
    prepare_model(model, precision)
    return Selection(
        engine='torch', precision=precision, description=f'PyTorch {torch.__version__}'
    )
