"""Warm-up: engines are selected and batch sizes measured with the first images."""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch

from ..errors import EngineError, is_fatal, one_line
from ..progress import Clock
from .batch_size import choose_size, measure_rates
from .registry import get
from .runner import EngineRunner
from .selection import Selection

# Number of images with which engines are verified and batch sizes are measured.
SAMPLES = 8

Runners = Mapping[str, EngineRunner]
# Requested batch size of each network, by its name: a number, or 'auto'.
Sizes = Mapping[str, int | str]
# Runs a batch of packed inputs through a network.
RunBatch = Callable[[list[dict[str, Any]]], Any]

Item = TypeVar('Item')

logger = logging.getLogger('mmpose_batch')


def outcome(runners: Runners) -> dict[str, dict[str, Any]]:
    """Return the decisions of the warm-up that results depend on, in the format of ``run.json``."""
    selected = {name: runner.selection for name, runner in runners.items() if runner.selection}
    return {
        'engines': {name: selection.engine for name, selection in selected.items()},
        'precisions': {name: selection.precision for name, selection in selected.items()},
        'calibrations': {name: selection.calibration for name, selection in selected.items()},
        'batch_sizes': batch_sizes(runners),
    }


def restore(runners: Runners, stored: Mapping[str, Mapping[str, Any]]) -> None:
    """Restore the decisions of an earlier warm-up for a resumed run.

    Args:
        runners: Engine runner of each network, by its name.
        stored: Result of :func:`outcome`.
    """
    for name, engine in stored['engines'].items():
        runners[name].lifecycle.restore(
            Selection(engine=engine, precision=stored['precisions'][name])
        )
    for name, size in stored['batch_sizes'].items():
        runners[name].lifecycle.set_batch_size(size)


def batch_sizes(runners: Runners) -> dict[str, int]:
    """Return the batch sizes that were measured or restored for ``auto``, by network."""
    sizes = {name: runner.lifecycle.batch_size for name, runner in runners.items()}
    return {name: size for name, size in sizes.items() if size is not None}


class Warmup:
    """Warms up an inferencer at its first call, and whenever a batch size must be measured.

    Args:
        samples: Number of images.
        clock: Returns a time in seconds, for timing batches.
    """

    def __init__(self, samples: int = SAMPLES, clock: Clock = time.perf_counter) -> None:
        self._samples = samples
        self._clock = clock
        self._done = False
        self._inputs: dict[str, dict[str, Any]] | None = None  # first packed input of each network
        self._warm: dict[str, int] = {}  # batch sizes that engines were warmed up for

    def wanted(self, runners: Runners, requested: Sizes) -> int:
        """Return the number of images that the warm-up needs before the first result; 0 for none.

        Args:
            runners: Engine runner of each network.
            requested: Requested batch size of each network.
        """
        select = not self._done and any(_is_open(runner) for runner in runners.values())
        return self._samples if select or _to_measure(runners, requested) else 0

    def prepare(self, runners: Runners, requested: Sizes) -> None:
        """Discard the warm-up of engines for a batch size that differs from that of this call.

        Args:
            runners: Engine runner of each network.
            requested: Requested batch size of each network.
        """
        for name, size in list(self._warm.items()):
            if batch_size(runners[name], requested[name]) != size:
                runners[name].cool_down()
                del self._warm[name]

    def note(self, name: str, inputs: list[dict[str, Any]]) -> None:
        """Copy the first packed input of a network during a warm-up, to measure with it later."""
        if self._inputs is not None and name not in self._inputs:
            self._inputs[name] = copy.deepcopy(inputs[0])

    def run(
        self,
        images: Sequence[Item],
        runners: Runners,
        requested: Sizes,
        infer: Callable[[Sequence[Item]], None],
        run_batch: Mapping[str, RunBatch],
        **settings: Any,
    ) -> None:
        """Select engines, measure batch sizes, and warm up the engines for these.

        Args:
            images: Images of the run; only as many as needed are inferred.
            runners: Engine runner of each network.
            requested: Requested batch size of each network.
            infer: Infers images, and calls :meth:`note` with all packed inputs of networks.
            run_batch: For each network, the function that runs a batch.
            settings: Settings that the rates depend on, besides the network and its inputs.

        Raises:
            EngineError: An engine cannot run its network, its outputs deviate from PyTorch's
                beyond tolerance, or batch sizes cannot be measured.
        """
        with self._sampling(runners, requested) as inputs:
            self._sample(images, runners, requested, infer)
            for runner in runners.values():
                runner.lifecycle.select()
        trials = {name: _Trial(packed, run_batch[name]) for name, packed in inputs.items()}
        for name in _to_measure(runners, requested):
            self._measure(runners[name], trials.get(name), settings)
        for name, trial in trials.items():
            size = batch_size(runners[name], requested[name])
            runners[name].warm_up(partial(trial, size))
            self._warm[name] = size
        self._done = True

    @contextmanager
    def _sampling(self, runners: Runners, requested: Sizes) -> Iterator[dict[str, dict[str, Any]]]:
        """Let PyTorch compute all networks without a selected engine in this block."""
        self._inputs = inputs = {}
        for name, runner in runners.items():
            if _is_open(runner):
                runner.lifecycle.start_sampling(requested[name])
        try:
            yield inputs
        finally:
            self._inputs = None
            for runner in runners.values():
                runner.lifecycle.stop_sampling()

    def _sample(
        self,
        images: Sequence[Item],
        runners: Runners,
        requested: Sizes,
        infer: Callable[[Sequence[Item]], None],
    ) -> None:
        """Infer images batch by batch until all is decided; engines that passed before need few."""
        name = 'detector' if 'detector' in runners else 'pose'
        step, rest = batch_size(runners[name], requested[name]), images
        while rest:
            infer(rest[:step])
            rest = rest[step:]
            open_ = [runner for runner in runners.values() if _is_open(runner)]
            waiting = [runner.lifecycle.select_known() for runner in open_] if rest else []
            open_ = [runner for runner in open_ if _is_open(runner)]
            unseen = set(_to_measure(runners, requested)) - self._inputs.keys()
            if not open_ and not unseen:
                return
            if sum(waiting) < len(open_):  # at least one of them needs all images
                step = len(rest)

    def _measure(
        self, runner: EngineRunner, trial: '_Trial | None', settings: dict[str, Any]
    ) -> None:
        """Find the fastest batch size of a network, for inputs like the first one."""
        if trial is None:
            logger.warning(
                'batch size: no detections in the first images; using batch size %d', SAMPLES
            )
            runner.lifecycle.set_batch_size(SAMPLES)
            return
        selected = runner.selection
        compiled = selected is not None and get(selected.engine).compiles_for_batch
        try:
            measured = runner.measure(
                'batch sizes',
                lambda: (measure_rates(trial, runner.parallel, self._clock, compiled), True),
                shape=trial.shape,
                parallel=runner.parallel,
                **settings,
            )
        except Exception as error:
            if is_fatal(error):
                raise
            raise EngineError(f'batch size: cannot be measured: {one_line(error)}') from error
        rates = {int(size): rate for size, rate in measured.items()}
        runner.lifecycle.set_batch_size(choose_size(rates), rates)


class _Trial:
    """Runs batches of copies of one packed input."""

    def __init__(self, packed: dict[str, Any], run_batch: RunBatch) -> None:
        self._inputs, self._sample = packed['inputs'], packed['data_samples']
        self._run_batch = run_batch

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (3, H, W) of the input; empty if it is a list of several scales."""
        return tuple(self._inputs.shape) if isinstance(self._inputs, torch.Tensor) else ()

    def __call__(self, size: int) -> None:
        samples = (copy.deepcopy(self._sample) for _ in range(size))
        self._run_batch([{'inputs': self._inputs, 'data_samples': each} for each in samples])


def batch_size(runner: EngineRunner, requested: int | str) -> int:
    """Return the number of inputs per batch of one network."""
    return (runner.lifecycle.batch_size or SAMPLES) if requested == 'auto' else requested


def _is_open(runner: EngineRunner) -> bool:
    """Whether images are needed to select the engine of a network."""
    return runner.lifecycle.wants_samples


def _to_measure(runners: Runners, requested: Sizes) -> list[str]:
    """Names of the networks whose batch size is to be measured."""
    names = [name for name in runners if requested[name] == 'auto']
    return [name for name in names if runners[name].lifecycle.batch_size is None]
