"""Selects the engine of a network: the named one, or the fastest that passes verification."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from mmengine.structures import BaseDataElement
from torch import Tensor

from ..errors import EngineError, OutputsDeviate, is_device_lost, is_out_of_memory
from ..progress import Clock
from ..tf32 import convolves_in_tf32, without_tf32
from .base import AutoCase, Engine, EngineOptions
from .batch_size import shortest
from .builder import EngineBuilder
from .optional import is_installed
from .registry import AUTO, get, needs_samples, specs
from .selection import Selection
from .verification import Difference, Run, Samples, verify

logger = logging.getLogger('mmpose_batch')


def candidates(options: EngineOptions, on_cuda: bool) -> list[str]:
    """Return the names of the engines that ``auto`` tries; some may not be installed."""
    alternatives = any(spec.modules and is_installed(spec) for spec in specs().values())
    case = AutoCase(on_cuda=on_cuda, alternatives=alternatives)
    return [
        name
        for name, spec in specs().items()
        if options.precision in spec.precisions
        and (spec.takes_file or options.file is None)
        and not (on_cuda and spec.computes_on(None, 'cuda') == 'cpu')
        and spec.in_auto(case)
        and spec.is_available()
    ]


class EngineHistory:
    """Results of earlier verifications and timings of one network's engines, from the cache.

    Args:
        builder: Builds engines of the network.
    """

    def __init__(self, builder: EngineBuilder) -> None:
        self._builder = builder

    def has_passed(self, name: str, options: EngineOptions) -> bool:
        """Return whether an engine has passed verification with these options."""
        known = self._builder.measurements.recall('passed', options, **self._of(name))
        return known is not None

    def remember(self, name: str, options: EngineOptions, difference: Difference) -> None:
        """Cache that an engine has passed verification, and its difference from PyTorch."""
        passed = difference.as_dict()
        measurements = self._builder.measurements
        measurements.get('passed', options, lambda: (passed, True), **self._of(name))

    def _of(self, name: str) -> dict[str, Any]:
        # The same external file may be verified against several models.
        return {'engine': name, 'model': self._builder.model_key}

    def seconds(self, options: EngineOptions, samples: Samples) -> dict[str, float] | None:
        """Return the cached seconds per batch of each engine; None if there are none."""
        return self._builder.measurements.recall('engines', options, **_ranking(samples))

    def time(
        self,
        options: EngineOptions,
        samples: Samples,
        measure: Callable[[], tuple[dict[str, float], bool]],
    ) -> dict[str, float]:
        """Return the seconds per batch of each engine, from the cache or measured now.

        Args:
            options: Options of the engines.
            samples: Batches that engines are timed with.
            measure: Measures them; returns the seconds, and whether to cache them.
        """
        return self._builder.measurements.get('engines', options, measure, **_ranking(samples))


def _ranking(samples: Samples) -> dict[str, Any]:
    """Settings that the fastest engine depends on."""
    installed = [name for name, spec in specs().items() if is_installed(spec)]
    return {'shape': samples.shape, 'batch_size': samples.batch_size, 'installed': installed}


class EngineSelector:
    """Selects the engine of one network.

    A named engine is built immediately, so that errors are reported early, except for int8,
    which is first calibrated with inputs.

    Args:
        builder: Builds engines; the selected engine becomes active in its network swap.
        options: Requested options.
        clock: Returns a time in seconds, for timing engines.

    Attributes:
        options: The requested options, with precision fp32 after a fallback to it.

    Raises:
        EngineError: The named engine cannot be built.
        ValueError: The engine does not have the device, or the device does not support the
            precision.
    """

    def __init__(
        self, builder: EngineBuilder, options: EngineOptions, clock: Clock = time.perf_counter
    ) -> None:
        self.options = options
        self._builder = builder
        self._swap = builder.swap
        self._history = EngineHistory(builder)
        self._clock = clock
        self._previous: str | None = None  # the engine of the resumed run
        # The fastest engine of the timing in progress, so that it is not built again.
        self._fastest: tuple[str, Engine, Difference | None] | None = None
        self._unsupported: set[str] = set()  # engines without the device or the precision
        if options.engine != AUTO and options.precision != 'int8':
            self._install(options.engine)

    def restore(self, previous: Selection) -> None:
        """Prefer the engine and precision of the resumed run where the user named none."""
        self._previous = previous.engine
        free = self.options.engine == AUTO or self.options.precision_is_free
        if free and previous.precision == 'fp32' != self.options.precision:
            self._fall_back_to_fp32()

    def prefer_latency(self) -> None:
        """Build engines for latency, one batch at a time; an active engine is built again."""
        if self.options.engine == AUTO and self._builder.on_cuda:
            return  # a GPU has no cores to split, so these engines would only lose their overlap
        self.options = replace(self.options, latency=True)
        if self.options.engine != AUTO and self._swap.engine is not self._swap.reference:
            self._install(self.options.engine)

    def sample(self, run: Run, samples: Samples) -> Sequence[BaseDataElement]:
        """Let PyTorch compute a batch, add it to the samples and return the outputs.

        Args:
            run: The model's ``test_step`` on the batch.
            samples: Samples to which the batch is added.
        """

        def note(inputs: Tensor) -> None:
            samples.note_shape(inputs)
            if self.options.precision == 'int8':
                self._builder.calibration.add(inputs)

        # The setting is for the process, but this lets engines be compared with fp32.
        exact = without_tf32() if self._builder.on_cuda else nullcontext()
        with exact, self._swap.by_reference(note):
            outputs = run() if needs_samples(self.options) else []
        samples.add(run, outputs)
        return outputs

    def select(self, samples: Samples) -> Selection:
        """Build, verify and select an engine with sampled batches.

        Raises:
            EngineError: No engine can run the network, or the outputs of the named engine
                deviate from PyTorch's beyond tolerance.
        """
        self._builder.calibration.thin()
        try:
            if self.options.engine == AUTO:
                return self._select_fastest(samples)
            return self._select_named(samples)
        except ValueError as error:  # for int8, device errors occur only now
            raise EngineError(str(error)) from error
        finally:
            self._fastest = None

    # ------------------------------------------------- engines that passed in earlier runs

    @property
    def uses_history(self) -> bool:
        """Whether earlier verifications count: not for int8, which depends on the calibration."""
        return self.options.precision != 'int8'

    def known(self, samples: Samples) -> str | None:
        """Return the engine that passed before and would be selected; None if there is none."""
        if not self.uses_history:
            return None
        name = self._previous or self.options.engine
        if name == AUTO:
            seconds = self._history.seconds(self.options, samples) or {}
            name = min(seconds, key=seconds.__getitem__, default=None)
        return name if name and self._history.has_passed(name, self.options) else None

    def select_known(self, name: str, samples: Samples) -> Selection | None:
        """Select an engine that passed before, if it passes with the samples so far.

        Returns:
            The selection; None if the engine does not pass. It is not rejected then, since that
            takes all samples.
        """
        auto = self.options.engine == AUTO
        try:
            if auto:
                self._install(name)
            difference = self._verify(name, samples)
        except Exception as error:  # reported by the verification with all samples
            if is_device_lost(error):
                raise
            logger.debug('engine: %s: %s', name, error)
            if auto:
                self._swap.engine = self._swap.reference
            return None
        timed = auto and self._previous is None
        seconds = self._history.seconds(self.options, samples) if timed else None
        return self._selection(name, difference, seconds)

    # ------------------------------------------------------------------- one engine

    def _install(self, name: str) -> None:
        self._swap.engine = self._builder.build(name, self.options)

    def _verify(self, name: str, samples: Samples) -> Difference | None:
        tf32 = convolves_in_tf32(self._builder.device)
        return verify(name, self._swap.engine, samples, self.options, tf32)

    def _fall_back_to_fp32(self) -> None:
        self.options = replace(self.options, precision='fp32')
        self._fastest = None
        if self.options.engine != AUTO:
            self._install(self.options.engine)

    def _select_named(self, samples: Samples) -> Selection:
        name = self.options.engine
        if self.options.precision == 'int8':
            self._install(name)
        try:
            difference = self._verify(name, samples)
        except OutputsDeviate as error:
            if not self.options.precision_is_free or self.options.precision == 'fp32':
                raise
            logger.warning('%s; falling back to fp32', error)
            self._fall_back_to_fp32()
            difference = self._verify(name, samples)
        self._remember(name, difference, samples)
        return self._selection(name, difference)

    def _remember(self, name: str, difference: Difference | None, samples: Samples) -> None:
        if difference and difference.instances and samples.enough_inputs and self.uses_history:
            self._history.remember(name, self.options, difference)

    def _selection(
        self, name: str, difference: Difference | None, seconds: Mapping[str, float] | None = None
    ) -> Selection:
        calibration = self._builder.calibration if self.options.precision == 'int8' else None
        external = self._builder.external
        return Selection(
            engine=name,
            precision=self.options.precision,
            description=self._swap.engine.description,
            parallel=self._swap.engine.parallel,
            file=external and external.key,
            calibration=None if calibration is None else calibration.key,
            calibrated_with=None if calibration is None else len(calibration),
            self_check=difference,
            seconds_of_a_batch=seconds,
        )

    # ------------------------------------------------------------------ the fastest

    def _select_fastest(self, samples: Samples) -> Selection:
        def measure() -> tuple[dict[str, float], bool]:
            return self._time_engines(samples)

        if self._previous is None:
            seconds = self._history.time(self.options, samples, measure)
        else:  # only the engine of the resumed run is timed, which is not cached
            seconds, _ = measure()
        for name in sorted(seconds, key=seconds.__getitem__):
            if passed := self._try_engine(name, samples):
                self._remember(name, *passed, samples)
                return self._selection(name, *passed, seconds)
        if self.options.precision != 'fp32':
            logger.warning(
                'engine: no engine passed in %s; falling back to fp32', self.options.precision
            )
            self._fall_back_to_fp32()
            return self._select_fastest(samples)
        if self.options.file is not None:
            names = ', '.join(name for name, spec in specs().items() if spec.takes_file)
            raise EngineError(f'engine: none of {names} can run {self.options.file}')
        logger.warning('engine: no engine passed; using eager PyTorch')
        self._swap.engine = self._swap.reference
        return self._selection('torch', None)

    def _time_engines(self, samples: Samples) -> tuple[dict[str, float], bool]:
        """Time all engines that pass; returns seconds per batch and whether to cache them.

        They are cached only if every installed engine that supports the precision was timed, with
        enough samples.
        """
        seconds, complete = {}, samples.enough_inputs or self.options.latency
        previous = self._previous and [self._previous]
        for name in previous or candidates(self.options, self._builder.on_cuda):
            passed = self._try_engine(name, samples)
            spent = passed and self._time_engine(name, samples.largest.run)
            if spent is None:
                complete = complete and (name in self._unsupported or not is_installed(get(name)))
                continue
            seconds[name] = spent
            if spent == min(seconds.values()):  # so that it is not built and verified again
                self._fastest = name, self._swap.engine, *passed
        return seconds, complete and bool(seconds)

    def _time_engine(self, name: str, run: Run) -> float | None:
        """Seconds per batch of the active engine; None, after a warning, if it fails."""
        try:
            return shortest(run, self._swap.engine.parallel, clock=self._clock)
        except Exception as error:  # an error of the engine, since PyTorch has run this batch
            if is_device_lost(error) or is_out_of_memory(error):
                raise  # with too little memory, a smaller batch may fit
            logger.warning('engine: %s: %s; skipped', name, error)
            return None

    def _try_engine(self, name: str, samples: Samples) -> tuple[Difference | None] | None:
        """Make an engine active and verify it.

        Returns:
            A tuple with the difference, which may be None; None, after a warning, if the engine
            fails.
        """
        if self._fastest is not None and self._fastest[0] == name:
            _, self._swap.engine, difference = self._fastest
            return (difference,)
        try:
            self._install(name)
            return (self._verify(name, samples),)
        except (EngineError, ValueError) as error:
            if isinstance(error, ValueError):  # it would be raised again at each start
                self._unsupported.add(name)
            logger.warning('%s; skipped', error)
            return None
