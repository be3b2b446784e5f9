"""Inputs of many images become batches of one shape; the images leave in order."""

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .results import ImageResult

# The device is lost, and every later batch with it. torch before 2.8 has no name for that.
DEVICE_LOST = getattr(torch, 'AcceleratorError', ())


@dataclass(slots=True)
class ImageInFlight:
    """One image between reading and its result.

    Attributes:
        result: What will be yielded.
        pixels: The decoded image (H, W, 3), uint8, BGR, while it is needed.
        bboxes: Persons (N, 5): x1, y1, x2, y2 in pixels and a score; None
            where they are not known.
        inputs: Network inputs still to run, as a test pipeline packs them.
        outputs: One output of the network for each of ``inputs``.
    """

    result: ImageResult
    pixels: np.ndarray | None = None
    bboxes: np.ndarray | None = None
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)

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
        bucket = self._buckets[shape]
        bucket.append(instance)
        return self._buckets.pop(shape) if len(bucket) == self.batch_size else None

    def flush(self) -> Iterator[list[Instance]]:
        """Give out what is left, in the order in which the buckets were begun."""
        while self._buckets:
            yield self._buckets.pop(next(iter(self._buckets)))


class BatchRunner:
    """Runs a network over the inputs of a stream of images, in batches.

    Which instances share a batch depends on the images and on nothing else, so
    a run can be repeated to the last bit. An image waits while fewer than
    ``2 * batch_size`` images wait; then batches run that are not full.

    Args:
        run: Maps the packed inputs of a batch to as many outputs.
        batch_size: Instances in a full batch.
        flush_every: No batch spans images on both sides of a multiple of this
            index; 0 for no such boundary.
        stage: What to call ``run`` in an error message.
    """

    def __init__(
        self,
        run: Callable[[list[dict[str, Any]]], list[Any]],
        batch_size: int,
        flush_every: int = 0,
        stage: str = 'network',
    ) -> None:
        self._run = run
        self._collector = BatchCollector(batch_size)
        self._flush_every = flush_every
        self._stage = stage

    def stream(self, images: Iterator[ImageInFlight]) -> Iterator[ImageInFlight]:
        """Yield the images in order, each when all its inputs have their output."""
        waiting: deque[ImageInFlight] = deque()
        for image in images:
            waiting.append(image)
            self._collect(image)
            full = len(waiting) >= 2 * self._collector.batch_size or self._at_boundary(image)
            del image  # nothing may keep what is yielded, not even until the next one comes
            if full:
                self._run_rest()
            while waiting and all(output is not None for output in waiting[0].outputs):
                yield waiting.popleft()
        self._run_rest()
        while waiting:
            yield waiting.popleft()

    def _collect(self, image: ImageInFlight) -> None:
        """Hand out the inputs of one image and run the batches that they fill."""
        image.outputs = [None] * len(image.inputs)
        inputs, image.inputs = image.inputs, []
        for slot, packed in enumerate(inputs):
            batch = self._collector.add(Instance(image, slot, packed))
            if batch:
                self._run_batch(batch)

    def _at_boundary(self, image: ImageInFlight) -> bool:
        return bool(self._flush_every) and (image.result.frame.index + 1) % self._flush_every == 0

    def _run_rest(self) -> None:
        for batch in self._collector.flush():
            self._run_batch(batch)

    def _run_batch(self, batch: list[Instance]) -> None:
        """Run one batch; where it fails it is halved, so that a bad instance fails alone."""
        try:
            outputs = self._run([instance.packed for instance in batch])
        except DEVICE_LOST:
            raise
        except Exception as error:
            if len(batch) == 1:
                batch[0].image.fail(f'{self._stage}: {one_line(error)}')
                return
            middle = len(batch) // 2
            self._run_batch(batch[:middle])
            self._run_batch(batch[middle:])
            return
        for instance, output in zip(batch, outputs, strict=True):
            if instance.image.result.error is None:
                instance.image.outputs[instance.slot] = output


def one_line(error: BaseException) -> str:
    """An error as one line that says something even if its text is empty."""
    text = ' '.join(str(error).split())
    if not text:
        return type(error).__name__
    return text if isinstance(error, ValueError) else f'{type(error).__name__}: {text}'


def _input_shape(inputs: Any) -> Hashable:
    if isinstance(inputs, list | tuple):  # a pyramid of scales
        return tuple(tuple(level.shape) for level in inputs)
    return tuple(inputs.shape)
