"""Runs a model's test steps with an engine that replaces its network."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import nn

from ..errors import FATAL, EngineError, is_out_of_memory, one_line
from ..progress import Clock
from .base import Engine, EngineOptions
from .builder import EngineBuilder
from .cache import Measurements, network_key, open_cache
from .lifecycle import EngineLifecycle
from .network import is_replaceable
from .registry import AUTO, parallel_batches
from .selection import Phase, Selection
from .selector import EngineSelector
from .torch_eager import prepare_model
from .verification import Run

logger = logging.getLogger('mmpose_batch')


class EngineRunner:
    """Runs the test steps of one model.

    Args:
        model: In eval mode; changed in place.
        options: What is asked for.
        clock: What engines are timed with.

    Attributes:
        lifecycle: How far the selection of its engine is.

    Raises:
        EngineError: The engine is not installed, or the model's network cannot be replaced.
        ValueError: It lacks the device, or the device the precision.
    """

    def __init__(
        self, model: nn.Module, options: EngineOptions, clock: Clock = time.perf_counter
    ) -> None:
        self._model = model
        self._largest_batch: int | None = None
        self._builder: EngineBuilder | None = None
        replaceable = is_replaceable(model)
        upstream = options.engine == 'torch' and options.precision == 'fp32'
        if upstream or (options.engine in ('torch', AUTO) and not replaceable):
            self.lifecycle = EngineLifecycle(options, selection=_prepare(model, options))
            return
        if not replaceable:
            raise EngineError(
                f'engine: {type(model).__name__} with this head computes its network in a way of '
                'its own; only torch runs it'
            )
        self._builder = EngineBuilder(model, options)
        self.lifecycle = EngineLifecycle(options, EngineSelector(self._builder, options, clock))

    @property
    def options(self) -> EngineOptions:
        """What is asked for; in fp32 where the precision gave way to it."""
        return self.lifecycle.options

    @property
    def selection(self) -> Selection | None:
        """What was selected; None before."""
        return self.lifecycle.selection

    @property
    def engine(self) -> Engine | None:
        """What computes the network now; None where it was not replaced."""
        return None if self._builder is None else self._builder.swap.engine

    @property
    def parallel(self) -> int:
        """Test steps that may be asked for concurrently."""
        selection = self.selection
        return parallel_batches(self.options) if selection is None else selection.parallel

    @property
    def report(self) -> dict[str, Any]:
        """Engine, precision, and how verification went, for ``run.json``."""
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
    def bytes_on_disk(self) -> int:
        """Size of the files that the engine was built to and is loaded from."""
        return 0 if self._builder is None else self._builder.cache.bytes_used

    def test_step(self, run: Run) -> Sequence[BaseDataElement]:
        """Run one batch.

        Args:
            run: The model's ``test_step`` on the batch.

        Raises:
            EngineError: The engine cannot run the network, or its outputs deviate too
                much from PyTorch's.
        """
        if self.lifecycle.phase is not Phase.SELECTED:
            outputs = self.lifecycle.run_first(run)
            if outputs is not None:
                return outputs
        with self.lifecycle.turns:
            return run()

    def by_reference(self) -> AbstractContextManager[None]:
        """In this block, and this thread, PyTorch computes whatever the engine is."""
        return nullcontext() if self._builder is None else self._builder.swap.by_reference()

    def warm_up(self, run: Callable[[], object]) -> None:
        """Have an engine that compiles for every batch size do so now.

        Args:
            run: Runs a batch of the size of this run.

        Raises:
            EngineError: It cannot.
        """
        if self.selection is None or self.engine is None:
            return
        try:
            self.engine.warm_up(run)
        except FATAL:
            raise
        except Exception as error:
            if not is_out_of_memory(error):  # then the run halves its batches
                raise EngineError(f'engine: {one_line(error)}') from error

    def cool_down(self) -> None:
        """Forget the batch size of a warm-up, since the next run has another."""
        if self.engine is not None:
            self.engine.cool_down()

    def note_memory(self, batch_size: int) -> None:
        """Report that the memory holds no larger batches."""
        self._largest_batch = batch_size
        logger.warning('out of memory: batches of %d at most from here on', batch_size)

    def measure(
        self, kind: str, measure: Callable[[], tuple[dict[str, Any], bool]], **settings: Any
    ) -> dict[str, Any]:
        """What is measured on this machine with this engine and these settings, once.

        Args:
            kind: Of the measurement.
            measure: Returns the result, as JSON has it, and whether to cache it.
            settings: That it depends on, besides the engine and the device.
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
    """Leave the network in place, in what PyTorch does of the precision."""
    precision = options.precision
    if precision == 'int8':
        logger.warning('engine: nothing does int8 for this model; torch in fp32')
        precision = 'fp32'
    prepare_model(model, precision)
    return Selection(
        engine='torch', precision=precision, description=f'PyTorch {torch.__version__}'
    )
