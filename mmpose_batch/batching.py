"""Inputs of many images become batches of one shape; the images leave in order."""

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch

from .errors import FATAL, is_out_of_memory, one_line
from .results import ImageResult
from .workers import FLUSH, FlushType, WorkerPool


@dataclass(slots=True)
class ImageInFlight:
    """One image between reading and its result.

    Attributes:
        result: What will be yielded.
        pixels: The decoded image (H, W, 3), uint8, BGR, while it is needed.
        bboxes: Persons (N, 5): x1, y1, x2, y2 in pixels and a score; None
            where they are not known.
        labels: Of each of these the label of its category, (N,), where somebody asks for it.
        inputs: Network inputs still to run, as a test pipeline packs them.
        outputs: One output of the network for each of ``inputs``.
        in_buckets: Inputs that wait for their batch to fill.
    """

    result: ImageResult
    pixels: np.ndarray | None = None
    bboxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    in_buckets: int = 0

    def fail(self, error: str) -> None:
        """Give the image up; what is under way for it is ignored."""
        self.result.error = error
        self.pixels, self.bboxes, self.inputs, self.outputs = None, None, [], []


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One network input and the place its output goes to."""

    image: ImageInFlight
    slot: int
    packed: dict[str, Any]


class BatchCollector:
    """Collects instances in buckets of one input shape until a batch is full.

    Padding inputs of different shape into one batch would change the answer,
    since the network sees the padding, so every shape has a bucket of its own.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._buckets: defaultdict[Hashable, list[Instance]] = defaultdict(list)

    def add(self, instance: Instance) -> list[Instance] | None:
        """Add one instance; returns its batch when that became full."""
        shape = _input_shape(instance.packed['inputs'])
        self._buckets[shape].append(instance)
        instance.image.in_buckets += 1
        return self._take(shape) if len(self._buckets[shape]) >= self.batch_size else None

    def flush(self) -> Iterator[list[Instance]]:
        """Give out what is left, in the order in which the buckets were begun."""
        while self._buckets:
            yield self._take(next(iter(self._buckets)))

    def _take(self, shape: Hashable) -> list[Instance]:
        batch = self._buckets.pop(shape)
        for instance in batch:
            instance.image.in_buckets -= 1
        return batch


@dataclass(slots=True)
class Step:
    """A batch to run, and the images that are ready when it and all before it were run."""

    batch: list[Instance]
    images: deque[ImageInFlight]


class BatchRunner:
    """Runs a network over the inputs of a stream of images, in batches.

    Which instances share a batch depends on the images and on nothing else, so
    a run can be repeated to the last bit. An image waits while fewer than
    ``2 * batch_size`` images wait; then batches run that are not full.

    Args:
        run: Maps the packed inputs of a batch to as many outputs.
        batch_size: Instances in a full batch.
        stage: What to call ``run`` in an error message.
        parallel: Batches that run at a time, each on a thread of its own if
            there are more than one.
        on_memory: Is told the new size when the memory does not hold a batch;
            all later batches are as small.
    """

    def __init__(
        self,
        run: Callable[[list[dict[str, Any]]], list[Any]],
        batch_size: int,
        stage: str = 'network',
        parallel: int = 1,
        on_memory: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._run = run
        self._on_memory = on_memory
        self._largest = batch_size
        self._shrinking = Lock()
        self._collector = BatchCollector(batch_size)
        self._stage = stage
        self._parallel = parallel

    @property
    def batch_size(self) -> int:
        """Instances in a full batch."""
        return self._collector.batch_size

    def stream(
        self, images: Iterator[ImageInFlight | FlushType]
    ) -> Iterator[ImageInFlight | FlushType]:
        """Yield the images in order, each when all its inputs have their output.

        At a FLUSH the batches run that are not full, and it is yielded after their images.
        """
        threads = self._parallel if self._parallel > 1 else 0
        with WorkerPool(threads) as pool:
            for step in pool.map(self._run_step, self._steps(images), ahead=threads):
                if step is FLUSH:
                    yield FLUSH
                    continue
                while step.images:  # nothing may keep what is yielded
                    yield step.images.popleft()

    def _steps(self, images: Iterator[ImageInFlight | FlushType]) -> Iterator[Step | FlushType]:
        waiting: deque[ImageInFlight] = deque()
        for image in images:
            if image is FLUSH:
                ready, waiting = waiting, deque()
                yield from _in_steps([*self._collector.flush()], ready)
                yield FLUSH
                continue
            waiting.append(image)
            batches = self._collect(image)
            del image  # not even until the next one comes
            if len(waiting) >= 2 * self._collector.batch_size:
                batches += self._collector.flush()
            ready = deque()
            while waiting and not waiting[0].in_buckets:
                ready.append(waiting.popleft())
            yield from _in_steps(batches, ready)
        yield from _in_steps([*self._collector.flush()], waiting)

    def _collect(self, image: ImageInFlight) -> list[list[Instance]]:
        """Hand out the inputs of one image; returns the batches that they fill."""
        image.outputs = [None] * len(image.inputs)
        inputs, image.inputs = image.inputs, []
        instances = (Instance(image, slot, packed) for slot, packed in enumerate(inputs))
        return [batch for instance in instances if (batch := self._collector.add(instance))]

    def _run_step(self, step: Step) -> Step:
        if step.batch:
            self._run_batch(step.batch)
            step.batch.clear()  # whoever else holds the list holds no image by it
        return step

    def _run_batch(self, batch: list[Instance]) -> None:
        """Run one batch; where it fails it is halved, so that a bad instance fails alone."""
        outputs = self._try_batch(batch) if len(batch) <= self._largest else None
        if outputs is None:
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]) if middle else ():
                self._run_batch(half)
            return
        for instance, output in zip(batch, outputs, strict=True):
            places = instance.image.outputs
            if places:  # none any more where another batch of the image has failed
                places[instance.slot] = output

    def _try_batch(self, batch: list[Instance]) -> list[Any] | None:
        """The outputs of a batch; None where it must be halved or its only instance failed."""
        try:
            return self._run([instance.packed for instance in batch])
        except FATAL:
            raise
        except Exception as error:
            if len(batch) == 1:
                batch[0].image.fail(f'{self._stage}: {one_line(error)}')
            elif is_out_of_memory(error):
                self._shrink(len(batch) // 2)
        return None

    def _shrink(self, size: int) -> None:
        with self._shrinking:
            if size < self._largest:
                self._largest = size
                self._on_memory(size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _in_steps(batches: list[list[Instance]], ready: deque[ImageInFlight]) -> Iterator[Step]:
    """One step a batch; the images are ready after the last one."""
    for batch in batches[:-1]:
        yield Step(batch, deque())
    if batches or ready:
        yield Step(batches[-1] if batches else [], ready)


def _input_shape(inputs: Any) -> Hashable:
    if isinstance(inputs, list | tuple):  # a pyramid of scales
        return tuple(tuple(level.shape) for level in inputs)
    # Pixels and floats are normalised at different places: in one batch they would become floats.
    return tuple(inputs.shape), getattr(inputs, 'dtype', None)
