"""Batches of inputs of one shape, collected over many images, whose order is kept."""

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch
from mmpose.structures import PoseDataSample

from .errors import is_fatal, is_out_of_memory, one_line
from .results import ImageResult
from .workers import Marker, WorkerPool


@dataclass(slots=True)
class ImageInFlight:
    """One image between reading and its result.

    Attributes:
        result: The result, which the stages fill in.
        pixels: The decoded image (H, W, 3), uint8, BGR, while it is needed.
        detector_inputs: The packed input of the detector, in a list; empty without a detector.
        detections: The detector's output for each of these inputs: boxes (N, 5), or (N, 6) with
            labels.
        persons: Boxes (N, 5): x1, y1, x2, y2 in pixels and a score; None while they are unknown.
        labels: Category label of each person, (N,); None unless labels are requested.
        crops: Packed inputs of the pose network: one for each person, or one for the complete
            image.
        poses: The pose network's data sample for each of these inputs.
        in_buckets: Number of inputs that wait for their batch to fill.
    """

    result: ImageResult
    pixels: np.ndarray | None = None
    detector_inputs: list[dict[str, Any]] = field(default_factory=list)
    detections: list[np.ndarray] = field(default_factory=list)
    persons: np.ndarray | None = None
    labels: np.ndarray | None = None
    crops: list[dict[str, Any]] = field(default_factory=list)
    poses: list[PoseDataSample] = field(default_factory=list)
    in_buckets: int = 0

    def fail(self, error: str) -> None:
        """Record the error; batches that still hold inputs of the image ignore their outputs."""
        self.result.error = error
        self.pixels = self.persons = self.labels = None
        self.detector_inputs, self.detections, self.crops, self.poses = [], [], [], []


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One network input, and the index of its output among those of its image."""

    image: ImageInFlight
    slot: int
    packed: dict[str, Any]


class BatchCollector:
    """Collects instances of the same input shape in a bucket until a batch is full.

    Padding inputs of different shapes into one batch would change the outputs,
    since the network sees the padding, so every shape has a separate bucket.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._buckets: defaultdict[Hashable, list[Instance]] = defaultdict(list)

    def add(self, instance: Instance) -> list[Instance] | None:
        """Add one instance; returns its batch if it is full now, else None."""
        shape = _input_shape(instance.packed['inputs'])
        self._buckets[shape].append(instance)
        instance.image.in_buckets += 1
        return self._take(shape) if len(self._buckets[shape]) >= self.batch_size else None

    def flush(self) -> Iterator[list[Instance]]:
        """Yield the batches that are not full, in the order of their first instances."""
        while self._buckets:
            yield self._take(next(iter(self._buckets)))

    def _take(self, shape: Hashable) -> list[Instance]:
        batch = self._buckets.pop(shape)
        for instance in batch:
            instance.image.in_buckets -= 1
        return batch


@dataclass(slots=True)
class Step:
    """A batch to run, and the images that are complete once it and all earlier ones have run."""

    batch: list[Instance]
    images: deque[ImageInFlight]


class BatchRunner:
    """Runs a network over the inputs of a stream of images, in batches.

    Which instances share a batch depends only on the images, so that a run can be repeated
    bitwise. When ``2 * batch_size`` images wait for others, the batches that are not full run
    too.

    Args:
        run: Maps a list of packed inputs to a list of one output for each.
        batch_size: Number of instances in a full batch.
        stage: Name of ``run`` in error messages.
        fields: Attributes of :class:`ImageInFlight` with the inputs and the outputs.
        pool: Threads that run batches concurrently; without threads each batch runs in the
            calling thread.
        on_memory: Called with the new maximum when a batch does not fit into memory;
            later batches are not larger.
    """

    def __init__(
        self,
        run: Callable[[list[dict[str, Any]]], list[Any]],
        batch_size: int,
        stage: str = 'network',
        fields: tuple[str, str] = ('crops', 'poses'),
        pool: WorkerPool | None = None,
        on_memory: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._run = run
        self._on_memory = on_memory
        self._largest = batch_size
        self._shrinking = Lock()
        self._collector = BatchCollector(batch_size)
        self._stage = stage
        self._inputs, self._outputs = fields
        self._pool = pool or WorkerPool(0)

    @property
    def batch_size(self) -> int:
        """Number of instances in a full batch."""
        return self._collector.batch_size

    def stream(self, images: Iterator[ImageInFlight | Marker]) -> Iterator[ImageInFlight | Marker]:
        """Yield the images in order, each once all its inputs have outputs.

        A marker also runs the batches that are not full, and is yielded after their images.
        """
        steps = self._pool.map(self._run_step, self._steps(images), self._pool.num_workers)
        with closing(steps):
            for step in steps:
                if isinstance(step, Marker):
                    yield step
                    continue
                while step.images:  # no reference to a yielded image may stay
                    yield step.images.popleft()

    def _steps(self, images: Iterator[ImageInFlight | Marker]) -> Iterator[Step | Marker]:
        waiting: deque[ImageInFlight] = deque()
        for image in images:
            if isinstance(image, Marker):
                ready, waiting = waiting, deque()
                yield from _in_steps([*self._collector.flush()], ready)
                yield image
                continue
            waiting.append(image)
            batches = self._collect(image)
            del image  # no reference may stay until the next image
            if len(waiting) >= 2 * self._collector.batch_size:
                batches += self._collector.flush()
            ready = deque()
            while waiting and not waiting[0].in_buckets:
                ready.append(waiting.popleft())
            yield from _in_steps(batches, ready)
        yield from _in_steps([*self._collector.flush()], waiting)

    def _collect(self, image: ImageInFlight) -> list[list[Instance]]:
        """Distribute the inputs of one image to buckets; returns the batches that are full."""
        inputs = getattr(image, self._inputs)
        setattr(image, self._inputs, [])
        setattr(image, self._outputs, [None] * len(inputs))
        instances = (Instance(image, slot, packed) for slot, packed in enumerate(inputs))
        return [batch for instance in instances if (batch := self._collector.add(instance))]

    def _run_step(self, step: Step) -> Step:
        if step.batch:
            self._run_batch(step.batch)
            step.batch.clear()  # the list may still be referenced, its images not
        return step

    def _run_batch(self, batch: list[Instance]) -> None:
        """Run one batch; if it fails, run its halves, so that only bad instances fail."""
        outputs = self._try_batch(batch) if len(batch) <= self._largest else None
        if outputs is None:
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]) if middle else ():
                self._run_batch(half)
            return
        for instance, output in zip(batch, outputs, strict=True):
            of_image = getattr(instance.image, self._outputs)
            if of_image:  # empty if another batch of the image has failed
                of_image[instance.slot] = output

    def _try_batch(self, batch: list[Instance]) -> list[Any] | None:
        """The outputs of a batch; None if it must be halved or its only instance failed."""
        try:
            return self._run([instance.packed for instance in batch])
        except Exception as error:
            if is_fatal(error):
                raise
            if len(batch) == 1:
                batch[0].image.fail(f'{self._stage}: {one_line(error)}')
            too_large = len(batch) > 1 and is_out_of_memory(error)
        if too_large:  # only here is the error gone, whose traceback holds the batch's tensors
            self._shrink(len(batch) // 2)
        return None

    def _shrink(self, size: int) -> None:
        with self._shrinking:
            if size < self._largest:
                self._largest = size
                self._on_memory(size)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _in_steps(batches: list[list[Instance]], ready: deque[ImageInFlight]) -> Iterator[Step]:
    """One step per batch; the images are complete after the last one."""
    for batch in batches[:-1]:
        yield Step(batch, deque())
    if batches or ready:
        yield Step(batches[-1] if batches else [], ready)


def _input_shape(inputs: Any) -> Hashable:
    if isinstance(inputs, list | tuple):  # a pyramid of scales
        return tuple(tuple(level.shape) for level in inputs)
    # uint8 and float inputs are normalised differently: in one batch, uint8 would become float.
    return tuple(inputs.shape), getattr(inputs, 'dtype', None)
