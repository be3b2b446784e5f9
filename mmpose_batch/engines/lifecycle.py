"""The lifecycle of an engine: from the first batch of a network to the selected engine."""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mmengine.structures import BaseDataElement

from ..errors import is_out_of_memory
from .base import EngineOptions
from .registry import needs_samples, parallel_batches
from .selection import Phase, Selection, State
from .selector import EngineSelector
from .verification import Run, Samples

logger = logging.getLogger('mmpose_batch')


class EngineLifecycle:
    """Moves a network from phase NEW through SAMPLING to SELECTED.

    The engine is selected with batches of the run: those after :meth:`start_sampling`, or else
    the first batch.

    Args:
        options: Requested options.
        selector: Selects the engine; None if the network is not replaced.
        selection: The selection if the network is not replaced.

    Attributes:
        turns: Semaphore that admits as many concurrent test steps as the engine runs.
    """

    def __init__(
        self,
        options: EngineOptions,
        selector: EngineSelector | None = None,
        selection: Selection | None = None,
    ) -> None:
        self._options = options
        self._selector = selector
        self._lock = threading.Lock()
        self._state = State()
        self._batch_size: int | None = None  # measured, or restored from an earlier run
        self._rates: Mapping[int, float] | None = None
        self.turns = threading.Semaphore()
        if selection is not None:
            self._enter(Phase.SELECTED, selection=selection)

    def _enter(
        self, phase: Phase, samples: Samples | None = None, selection: Selection | None = None
    ) -> None:
        if selection is not None:
            measured = {'batch_size': self._batch_size, 'instances_per_second': self._rates}
            selection = replace(selection, **measured)
            if self.phase is not Phase.SELECTED:
                self.turns = threading.Semaphore(selection.parallel)
        self._state = self._state.to(phase, samples, selection)

    @property
    def options(self) -> EngineOptions:
        """The requested options, with precision fp32 after a fallback to it."""
        return self._options if self._selector is None else self._selector.options

    @property
    def phase(self) -> Phase:
        """The current phase of the selection."""
        return self._state.phase

    @property
    def selection(self) -> Selection | None:
        """The selection; None before an engine is selected."""
        return self._state.selection

    @property
    def batch_size(self) -> int | None:
        """The batch size for ``auto``; None before it is measured or restored."""
        return self._batch_size

    @property
    def wants_samples(self) -> bool:
        """Whether the engine is still to be selected with inputs of the run."""
        return self.phase is not Phase.SELECTED and needs_samples(self.options)

    def restore(self, selection: Selection) -> None:
        """Prefer the engine and precision of the resumed run where the user named none."""
        if self._selector is not None and self.phase is not Phase.SELECTED:
            self._selector.restore(selection)

    def prefer_latency(self) -> None:
        """Build the engine for latency, one batch at a time; no effect once it is selected."""
        with self._lock:
            if self.phase is not Phase.SELECTED and parallel_batches(self.options) > 1:
                self._selector.prefer_latency()

    def set_batch_size(self, size: int, rates: Mapping[int, float] | None = None) -> None:
        """Set the batch size for ``auto``, measured or restored from an earlier run.

        Args:
            size: Inputs per batch.
            rates: Instances per second for each measured batch size, if there are any.
        """
        with self._lock:
            self._batch_size, self._rates = size, rates
            if self.selection is not None:
                self._enter(Phase.SELECTED, selection=self.selection)

    def start_sampling(self, batch_size: int | str | None = None) -> None:
        """Let PyTorch compute the next batches, with which an engine is then selected.

        Args:
            batch_size: Requested batch size, on which the fastest engine depends.
        """
        with self._lock:
            if self.phase is Phase.NEW:  # another call may have selected an engine already
                self._enter(Phase.SAMPLING, samples=Samples(batch_size))

    def stop_sampling(self) -> None:
        """End sampling. If no engine is selected yet, the next batch selects one."""
        with self._lock:
            if self.phase is Phase.SAMPLING:
                self._enter(Phase.NEW)

    def run_first(self, run: Run) -> Sequence[BaseDataElement] | None:
        """Run a batch with PyTorch in phase SAMPLING, or select an engine with it in phase NEW.

        Args:
            run: The model's ``test_step`` on the batch.

        Returns:
            PyTorch's outputs; None if an engine is selected now, which has to run the batch.

        Raises:
            EngineError: The engine cannot run the network, or its outputs deviate from
                PyTorch's beyond tolerance.
        """
        with self._lock:
            if self.phase is Phase.SAMPLING:
                return self._selector.sample(run, self._state.samples)
            if self.phase is Phase.NEW:
                self._enter(Phase.SAMPLING, samples=Samples())
                self._select(run)
        return None

    def select(self) -> None:
        """Select an engine with the samples. Without samples, the next batch selects one.

        Raises:
            EngineError: As for :meth:`run_first`.
        """
        with self._lock:
            if self.phase is not Phase.SAMPLING or not self._state.samples:
                return
            try:
                self._select()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning(
                    'engine: first batch does not fit into memory; selecting with a smaller one'
                )

    def _select(self, run: Run | None = None) -> None:
        """Select with the samples and, if it is given, one more batch."""
        samples = self._state.samples
        try:
            if run is not None:
                self._selector.sample(run, samples)
            selection = self._selector.select(samples)
        except BaseException:
            self._enter(Phase.NEW)  # releases the samples
            raise
        self._enter(Phase.SELECTED, selection=selection)

    def select_known(self) -> bool:
        """Select an engine that passed verification before, if it passes with the samples so far.

        If it does not pass, nothing is selected yet, since a few samples do not justify rejecting
        an engine.

        Returns:
            Whether such an engine may exist but more samples are needed to verify it.
        """
        with self._lock:
            if self.phase is not Phase.SAMPLING:
                return False
            samples = self._state.samples
            if not samples:
                return self._selector.uses_history
            name = self._selector.known(samples)
            if name is None or not samples.enough_points:
                return name is not None
            selection = self._selector.select_known(name, samples)
            if selection is not None:
                self._enter(Phase.SELECTED, selection=selection)
            return False
