"""What is open until the first images are seen: engines to build and check, batch sizes."""

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from ..batching import FATAL, one_line
from . import EngineError
from .batch_size import Clock, choose_size, measure_rates
from .host import EngineHost

# Images that engines are checked and batch sizes measured with.
SAMPLES = 8

Hosts = Mapping[str, EngineHost]
# Network to the batch size that is asked for: a number, or 'auto'.
Sizes = Mapping[str, int | str]
# Runs packed inputs through a network.
Step = Callable[[list[dict[str, Any]]], Any]

Item = TypeVar('Item')

logger = logging.getLogger('mmpose_batch')


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """So many of some items, from the first to the last; all where there are fewer."""
    indices = np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)
    return [items[index] for index in indices]


class Settling:
    """Settles an inferencer's engines and its batch sizes of ``'auto'``, once.

    Args:
        samples: Images to see for that.
        clock: What batch sizes are timed with.

    Attributes:
        batch_sizes: Network to its measured batch size.
    """

    def __init__(self, samples: int = SAMPLES, clock: Clock = time.perf_counter) -> None:
        self.batch_sizes: dict[str, int] = {}
        self._samples = samples
        self._clock = clock
        self._sampled = False
        self._sampling = False
        self._seen: dict[str, dict[str, Any]] = {}
        self._warm: dict[str, int] = {}  # sizes that were met before the first result

    def wanted(self, hosts: Hosts, asked: Sizes) -> int:
        """Images that are to be seen before the first result; 0 for none."""
        engines = not self._sampled and any(host.wants_samples for host in hosts.values())
        return self._samples if engines or self._to_measure(hosts, asked) else 0

    def batch_size(self, name: str, asked: int | str) -> int:
        """The number of inputs in a batch of one network."""
        return self.batch_sizes.get(name, SAMPLES) if asked == 'auto' else asked

    def prepare(self, hosts: Hosts, asked: Sizes) -> None:
        """Have engines fill up no batch to the size of an earlier call."""
        for name, size in list(self._warm.items()):
            if self.batch_size(name, asked[name]) != size:
                hosts[name].cool_down()
                del self._warm[name]

    def adopt(self, hosts: Hosts, settled: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what ``auto`` came to in the run that goes on.

        Args:
            hosts: Network to its engine.
            settled: ``engines``, ``precisions`` and ``batch_sizes``, each by network.
        """
        for name, engine in settled['engines'].items():
            hosts[name].adopt(engine, settled['precisions'][name])
        self.batch_sizes.update(settled['batch_sizes'])

    @contextmanager
    def sampling(self, hosts: Hosts, asked: Sizes) -> Iterator[None]:
        """In this block the batches that run are samples."""
        sampled = [host for host in hosts.values() if host.wants_samples]
        self._sampling = True
        for name, host in hosts.items():
            if host in sampled:
                host.sampling, host.batch_size = True, asked[name]
        try:
            yield
        finally:
            self._sampling = False
            for host in sampled:
                host.sampling = False

    def parts(self, images: Sequence[Item], hosts: Hosts, asked: Sizes) -> Iterator[Sequence[Item]]:
        """What is to be run as samples: batch by batch, until it settles all that is open.

        Engines that have passed before need few of the images.
        """
        name = 'detector' if 'detector' in hosts else 'pose'
        step, rest = self.batch_size(name, asked[name]), images
        while rest:
            yield rest[:step]
            rest = rest[step:]
            unsettled = [host for host in hosts.values() if host.wants_samples]
            waiting = [host.confirm() for host in unsettled] if rest else []
            unsettled = [host for host in unsettled if host.wants_samples]
            unseen = any(name not in self._seen for name in self._to_measure(hosts, asked))
            if not unsettled and not unseen:
                return
            if sum(waiting) < len(unsettled):  # one of them is settled by all images only
                step = len(rest)

    def note(self, name: str, inputs: list[dict[str, Any]]) -> None:
        """Keep one input of a network to measure with, while samples run."""
        if self._sampling and name not in self._seen:
            self._seen[name] = copy.deepcopy(inputs[0])

    def settle(
        self, hosts: Hosts, asked: Sizes, steps: Mapping[str, Step], **settings: Any
    ) -> None:
        """Settle with what was sampled.

        Args:
            hosts: Network to its engine.
            asked: Network to its batch size.
            steps: Network to what runs it.
            settings: Beside the network and its inputs, what the rate depends on.

        Raises:
            EngineError: An engine cannot run its network, or its answers differ
                too much from PyTorch's.
        """
        for host in hosts.values():
            host.settle()
        for name in self._to_measure(hosts, asked):
            self.batch_sizes[name] = self._measure(hosts[name], name, steps[name], settings)
        for name in self._seen:
            run, size = self._run_of(name, steps[name]), self.batch_size(name, asked[name])
            hosts[name].warm_up(partial(run, size))
            self._warm[name] = size
        self._sampled = True
        self._seen = {}

    def _to_measure(self, hosts: Hosts, asked: Sizes) -> list[str]:
        names = [name for name in hosts if asked[name] == 'auto']
        return [name for name in names if name not in self.batch_sizes]

    def _run_of(self, name: str, step: Step) -> Callable[[int], None]:
        """Runs a batch of so many inputs like the first that was seen."""
        inputs, sample = self._seen[name]['inputs'], self._seen[name]['data_samples']

        def run(size: int) -> None:
            step([{'inputs': inputs, 'data_samples': copy.deepcopy(sample)} for _ in range(size)])

        return run

    def _measure(self, host: EngineHost, name: str, step: Step, settings: dict[str, Any]) -> int:
        """The fastest batch size of a network, for inputs like the first that was seen."""
        packed = self._seen.get(name)
        if packed is None:
            logger.warning('batch size: nobody in the first images to measure with; %d', SAMPLES)
            return SAMPLES
        inputs, run = packed['inputs'], self._run_of(name, step)
        shape = tuple(inputs.shape) if isinstance(inputs, torch.Tensor) else ()
        try:
            measured = host.remember(
                'batch sizes',
                lambda: (measure_rates(run, host.at_a_time, self._clock), True),
                shape=shape,
                at_a_time=host.at_a_time,
                **settings,
            )
        except FATAL:
            raise
        except Exception as error:
            raise EngineError(f'batch size: cannot be measured: {one_line(error)}') from error
        rates = {int(size): rate for size, rate in measured.items()}
        host.report |= {'batch_size': choose_size(rates), 'instances_per_second': rates}
        return host.report['batch_size']
