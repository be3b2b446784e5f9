"""Warm-up: the first images select the engines of an inferencer and measure its batch sizes."""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from ..errors import FATAL, EngineError, one_line
from ..progress import Clock
from .batch_size import choose_size, measure_rates
from .runner import EngineRunner
from .selection import Selection

# Images that engines are verified and batch sizes measured with.
SAMPLES = 8

Runners = Mapping[str, EngineRunner]
# Network to the batch size that is asked for: a number, or 'auto'.
Sizes = Mapping[str, int | str]
# Runs packed inputs through a network.
RunBatch = Callable[[list[dict[str, Any]]], Any]

Item = TypeVar('Item')

logger = logging.getLogger('mmpose_batch')


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Evenly spaced items, from the first to the last; all where there are fewer."""
    indices = np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)
    return [items[index] for index in indices]


def outcome(runners: Runners) -> dict[str, dict[str, Any]]:
    """What the output depends on and the warm-up decided, as ``run.json`` stores it."""
    selected = {name: runner.selection for name, runner in runners.items() if runner.selection}
    return {
        'engines': {name: selection.engine for name, selection in selected.items()},
        'precisions': {name: selection.precision for name, selection in selected.items()},
        'calibrations': {name: selection.calibration for name, selection in selected.items()},
        'batch_sizes': batch_sizes(runners),
    }


def restore(runners: Runners, stored: Mapping[str, Mapping[str, Any]]) -> None:
    """Have the warm-up of a resumed run decide as that of the run before.

    Args:
        runners: Network to its engine.
        stored: As :func:`outcome` gave it.
    """
    for name, engine in stored['engines'].items():
        runners[name].lifecycle.restore(
            Selection(engine=engine, precision=stored['precisions'][name])
        )
    for name, size in stored['batch_sizes'].items():
        runners[name].lifecycle.set_batch_size(size)


def batch_sizes(runners: Runners) -> dict[str, int]:
    """Network to the batch size that was measured or restored for ``auto``."""
    sizes = {name: runner.lifecycle.batch_size for name, runner in runners.items()}
    return {name: size for name, size in sizes.items() if size is not None}


class Warmup:
    """Warms an inferencer up, once, and again where a later call needs a batch size.

    Args:
        samples: Images for that.
        clock: What batch sizes are timed with.
    """

    def __init__(self, samples: int = SAMPLES, clock: Clock = time.perf_counter) -> None:
        self._samples = samples
        self._clock = clock
        self._done = False
        self._inputs: dict[str, dict[str, Any]] | None = None  # the first of each network
        self._warm: dict[str, int] = {}  # batch sizes that engines were compiled for

    def wanted(self, runners: Runners, asked: Sizes) -> int:
        """Images that are to be seen before the first result; 0 for none."""
        select = not self._done and any(_is_open(runner) for runner in runners.values())
        return self._samples if select or _to_measure(runners, asked) else 0

    def prepare(self, runners: Runners, asked: Sizes) -> None:
        """Have engines pad no batch to the size of an earlier call."""
        for name, size in list(self._warm.items()):
            if batch_size(runners[name], asked[name]) != size:
                runners[name].cool_down()
                del self._warm[name]

    def note(self, name: str, inputs: list[dict[str, Any]]) -> None:
        """Keep the first input of a network to measure with, while the warm-up runs."""
        if self._inputs is not None and name not in self._inputs:
            self._inputs[name] = copy.deepcopy(inputs[0])

    def run(
        self,
        images: Sequence[Item],
        runners: Runners,
        asked: Sizes,
        infer: Callable[[Sequence[Item]], None],
        run_batch: Mapping[str, RunBatch],
        **settings: Any,
    ) -> None:
        """Select engines, measure batch sizes, and compile what is compiled for one.

        Args:
            images: Some of the run; of these no more are inferred than are needed.
            runners: Network to its engine.
            asked: Network to its batch size.
            infer: Infers some images, and calls :meth:`note` with all inputs of networks.
            run_batch: Network to what runs it.
            settings: What the rates depend on, besides the network and its inputs.

        Raises:
            EngineError: An engine cannot run its network, or its outputs deviate too
                much from PyTorch's.
        """
        with self._sampling(runners, asked) as inputs:
            self._sample(images, runners, asked, infer)
            for runner in runners.values():
                runner.lifecycle.select()
        trials = {name: _Trial(packed, run_batch[name]) for name, packed in inputs.items()}
        for name in _to_measure(runners, asked):
            self._measure(runners[name], trials.get(name), settings)
        for name, trial in trials.items():
            size = batch_size(runners[name], asked[name])
            runners[name].warm_up(partial(trial, size))
            self._warm[name] = size
        self._done = True

    @contextmanager
    def _sampling(self, runners: Runners, asked: Sizes) -> Iterator[dict[str, dict[str, Any]]]:
        """In this block PyTorch computes what no engine is selected for."""
        self._inputs = inputs = {}
        for name, runner in runners.items():
            if _is_open(runner):
                runner.lifecycle.start_sampling(asked[name])
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
        asked: Sizes,
        infer: Callable[[Sequence[Item]], None],
    ) -> None:
        """Infer images batch by batch until nothing is open: engines that passed need few."""
        name = 'detector' if 'detector' in runners else 'pose'
        step, rest = batch_size(runners[name], asked[name]), images
        while rest:
            infer(rest[:step])
            rest = rest[step:]
            open_ = [runner for runner in runners.values() if _is_open(runner)]
            waiting = [runner.lifecycle.select_known() for runner in open_] if rest else []
            open_ = [runner for runner in open_ if _is_open(runner)]
            unseen = set(_to_measure(runners, asked)) - self._inputs.keys()
            if not open_ and not unseen:
                return
            if sum(waiting) < len(open_):  # one of them takes all images
                step = len(rest)

    def _measure(
        self, runner: EngineRunner, trial: '_Trial | None', settings: dict[str, Any]
    ) -> None:
        """Find the fastest batch size of a network, for inputs like the first one."""
        if trial is None:
            logger.warning(
                'batch size: no detections in the first images to measure with; %d', SAMPLES
            )
            runner.lifecycle.set_batch_size(SAMPLES)
            return
        try:
            measured = runner.measure(
                'batch sizes',
                lambda: (measure_rates(trial, runner.parallel, self._clock), True),
                shape=trial.shape,
                parallel=runner.parallel,
                **settings,
            )
        except FATAL:
            raise
        except Exception as error:
            raise EngineError(f'batch size: cannot be measured: {one_line(error)}') from error
        rates = {int(size): rate for size, rate in measured.items()}
        runner.lifecycle.set_batch_size(choose_size(rates), rates)


class _Trial:
    """Runs batches of inputs like one that was seen."""

    def __init__(self, packed: dict[str, Any], run_batch: RunBatch) -> None:
        self._inputs, self._sample = packed['inputs'], packed['data_samples']
        self._run_batch = run_batch

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, H, W) of the inputs; empty where they are a pyramid of scales."""
        return tuple(self._inputs.shape) if isinstance(self._inputs, torch.Tensor) else ()

    def __call__(self, size: int) -> None:
        samples = (copy.deepcopy(self._sample) for _ in range(size))
        self._run_batch([{'inputs': self._inputs, 'data_samples': each} for each in samples])


def batch_size(runner: EngineRunner, asked: int | str) -> int:
    """The number of inputs in a batch of one network."""
    return (runner.lifecycle.batch_size or SAMPLES) if asked == 'auto' else asked


def _is_open(runner: EngineRunner) -> bool:
    """Whether images are to be seen to select its engine."""
    return runner.lifecycle.wants_samples


def _to_measure(runners: Runners, asked: Sizes) -> list[str]:
    names = [name for name in runners if asked[name] == 'auto']
    return [name for name in names if runners[name].lifecycle.batch_size is None]
