"""Keeps a GPU busy: further batches are prepared and decoded while the engine computes one."""

import threading
from collections.abc import Sequence

from torch import Tensor

from .base import Engine, WrappedEngine

# Test steps at once, for each batch that the engine computes at once: one is computed, one waits
# for the engine, and one is decoded. With two, a GPU would wait from the end of one batch until
# the outputs of the batch before are decoded and the next inputs are uploaded.
IN_FLIGHT = 3


class Turn:
    """A lock that one thread holds while it uses a GPU; a copy is another lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Turn, ()


class OverlappedEngine(WrappedEngine):
    """An engine that does not compute on the CPU, and that other test steps wait for.

    Only the network waits for its turn. Decoding, which waits for the GPU several times, and
    uploads run concurrently with the network of other batches.

    Args:
        engine: The engine, which is called by as many threads at once as it computes batches.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.parallel = IN_FLIGHT * engine.parallel
        self._turns = threading.Semaphore(engine.parallel)

    def __call__(self, inputs: Tensor) -> Sequence[Tensor]:
        """Compute one batch; see :class:`mmpose_batch.engines.base.Engine`."""
        with self._turns:
            return self.engine(inputs)
