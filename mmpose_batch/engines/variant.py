"""A second build of the selected engine: for latency instead of throughput, or the reverse.

An engine that runs several batches concurrently gives each of them a share of the cores. A single
batch is fastest on all cores, for which the network has to be compiled separately.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace

from mmengine.structures import BaseDataElement

from ..errors import EngineError
from ..tf32 import convolves_in_tf32
from .base import EngineOptions
from .builder import EngineBuilder
from .verification import Run, Samples, verify

logger = logging.getLogger('mmpose_batch')


class EngineVariant:
    """A second build of a selected engine.

    Args:
        builder: Builds engines; the selected engine is active in its network swap.
        name: Name of the selected engine.
        options: Options that the selected engine was built with.

    Attributes:
        engine: The second build.

    Raises:
        EngineError, ValueError: The second build fails.
    """

    def __init__(self, builder: EngineBuilder, name: str, options: EngineOptions) -> None:
        self._name = name
        self._options = replace(options, latency=not options.latency)
        self._swap = builder.swap
        self._tf32 = convolves_in_tf32(builder.device)
        self.engine = builder.build(self._name, self._options)
        self._turns = threading.Semaphore(self.engine.parallel)

    def test_step(self, run: Run) -> Sequence[BaseDataElement]:
        """Run one batch with this engine; other threads may use the selected one."""
        with self._turns, self._swap.computed_by(self.engine):
            return run()

    def check(self, run: Run, outputs: Sequence[BaseDataElement]) -> None:
        """Check that the outputs match those of the selected engine, which passed verification.

        Args:
            run: The model's ``test_step`` on a batch.
            outputs: Outputs of the selected engine for this batch.

        Raises:
            OutputsDeviate: They deviate beyond the tolerance of the precision.
            EngineError: The engine cannot run the batch.
        """
        samples = Samples()
        samples.add(lambda: self.test_step(run), outputs)
        verify(self._name, self.engine, samples, self._options, self._tf32)


def build_variant(
    builder: EngineBuilder,
    name: str,
    options: EngineOptions,
    run: Run,
    outputs: Sequence[BaseDataElement],
) -> EngineVariant | None:
    """Build and check the second build of a selected engine with its first batch.

    Args:
        builder: As for :class:`EngineVariant`.
        name: Name of the selected engine.
        options: Options that the selected engine was built with.
        run: The model's ``test_step`` on a batch.
        outputs: Outputs of the selected engine for this batch.

    Returns:
        The second build; None, after a warning, if it cannot be built or its outputs deviate
        beyond tolerance. The selected engine then runs all batches.
    """
    try:
        variant = EngineVariant(builder, name, options)
        if options.self_check:
            variant.check(run, outputs)
    except (EngineError, ValueError) as error:
        aim = 'throughput' if options.latency else 'latency'
        logger.warning('%s; no second build for %s', error, aim)
        return None
    return variant
