"""From the first batch of a network to its engine: the states, and what moves between them."""

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
    """Moves a network from NEW by SAMPLING to SELECTED.

    Its engine is selected with batches of the run: those of :meth:`start_sampling`, else
    the first one.

    Args:
        options: What is asked for.
        selector: Selects the engine; None where the network is not replaced.
        selection: What is selected in that case.

    Attributes:
        turns: Admits as many test steps concurrently as the engine runs.
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
        self._batch_size: int | None = None  # that was measured, or restored
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
        """What is asked for; in fp32 where the precision gave way to it."""
        return self._options if self._selector is None else self._selector.options

    @property
    def phase(self) -> Phase:
        """How far the selection is."""
        return self._state.phase

    @property
    def selection(self) -> Selection | None:
        """What was selected; None before."""
        return self._state.selection

    @property
    def batch_size(self) -> int | None:
        """Inputs in a batch where that is ``auto``; None before it was measured."""
        return self._batch_size

    @property
    def wants_samples(self) -> bool:
        """Whether the engine is selected with inputs of the run, and is not yet."""
        return self.phase is not Phase.SELECTED and needs_samples(self.options)

    def restore(self, selection: Selection) -> None:
        """Select what the run that is resumed had, where that was not named."""
        if self._selector is not None and self.phase is not Phase.SELECTED:
            self._selector.restore(selection)

    def prefer_latency(self) -> None:
        """Have batches run one at a time, each as fast as can be; too late once one has run."""
        with self._lock:
            if self.phase is not Phase.SELECTED and parallel_batches(self.options) > 1:
                self._selector.prefer_latency()

    def set_batch_size(self, size: int, rates: Mapping[int, float] | None = None) -> None:
        """Keep the batch size for ``auto``: that of an earlier run, or a measured one.

        Args:
            size: Inputs in a batch.
            rates: Batch size to instances per second, if they were measured.
        """
        with self._lock:
            self._batch_size, self._rates = size, rates
            if self.selection is not None:
                self._enter(Phase.SELECTED, selection=self.selection)

    def start_sampling(self, batch_size: int | str | None = None) -> None:
        """Have PyTorch compute the next batches, to select an engine with them.

        Args:
            batch_size: That is asked for: it decides which engine is fastest.
        """
        with self._lock:
            if self.phase is Phase.NEW:  # another call may have selected meanwhile
                self._enter(Phase.SAMPLING, samples=Samples(batch_size))

    def stop_sampling(self) -> None:
        """Select with the first batch instead, if nothing is selected by now."""
        with self._lock:
            if self.phase is Phase.SAMPLING:
                self._enter(Phase.NEW)

    def run_first(self, run: Run) -> Sequence[BaseDataElement] | None:
        """Run a batch by PyTorch while engines are sampled for, or select with it.

        Returns:
            PyTorch's outputs; None if an engine is selected now, which is to run the batch.

        Raises:
            EngineError: The engine cannot run the network, or its outputs deviate too
                much from PyTorch's.
        """
        with self._lock:
            if self.phase is Phase.SAMPLING:
                return self._selector.sample(run, self._state.samples)
            if self.phase is Phase.NEW:
                self._enter(Phase.SAMPLING, samples=Samples())
                self._select(run)
        return None

    def select(self) -> None:
        """Select with what was sampled; without that, the first batch does.

        Raises:
            EngineError: As :meth:`run_first`.
        """
        with self._lock:
            if self.phase is not Phase.SAMPLING or not self._state.samples:
                return
            try:
                self._select()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning('engine: no memory for the first batch; selected with a smaller one')

    def _select(self, run: Run | None = None) -> None:
        """Select with the samples, and one batch more if there is one."""
        samples = self._state.samples
        try:
            if run is not None:
                self._selector.sample(run, samples)
            selection = self._selector.select(samples)
        except BaseException:
            self._enter(Phase.NEW)  # which lets go of the samples
            raise
        self._enter(Phase.SELECTED, selection=selection)

    def select_known(self) -> bool:
        """Select an engine that has passed before, if it does with what was sampled so far.

        If not, nothing is selected yet: a batch is too little to reject an engine for.

        Returns:
            Whether there may be such an engine, and so far too little to judge it by.
        """
        with self._lock:
            if self.phase is not Phase.SAMPLING:
                return False
            samples = self._state.samples
            if not samples:
                return self._selector.remembers
            name = self._selector.known(samples)
            if name is None or not samples.judges:
                return name is not None
            selection = self._selector.select_known(name, samples)
            if selection is not None:
                self._enter(Phase.SELECTED, selection=selection)
            return False
