"""Batching: buckets, order, chunk ends and isolation of failures, with a function as network."""

import random
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from support.factories import ToolProcess

from mmpose_batch.batching import BatchCollector, BatchRunner, ImageInFlight, Instance
from mmpose_batch.errors import one_line
from mmpose_batch.results import ImageResult
from mmpose_batch.sources.base import Frame
from mmpose_batch.workers import CHUNK_END, FLUSH, Marker, WorkerPool

SHAPES = ((3, 4, 4), (3, 4, 6), (3, 8, 4))


class Packed(dict):
    """A packed input, as a dict that supports weak references."""


def image(index: int, *shapes: tuple[int, ...], error: str | None = None) -> ImageInFlight:
    """An image with one network input of each shape, each labelled with image and position."""
    inputs = [
        Packed(inputs=torch.empty(shape), place=(index, slot)) for slot, shape in enumerate(shapes)
    ]
    result = ImageResult(Frame(index, f'{index}.jpg', f'{index}.jpg'), error=error)
    return ImageInFlight(result, crops=inputs)


class Network:
    """Outputs the label of each input, and records all batches.

    Args:
        bad: Labels of inputs that make their batch fail.
    """

    def __init__(self, bad: Sequence[tuple[int, int]] = ()) -> None:
        self.bad = frozenset(bad)
        self.batches: list[list[tuple[int, int]]] = []
        self.shapes: list[list[tuple[int, ...]]] = []

    def __call__(self, packed: list[dict[str, Any]]) -> list[Any]:
        places = [item['place'] for item in packed]
        if self.bad.intersection(places):
            raise RuntimeError(f'cannot run {sorted(self.bad.intersection(places))[0]}')
        self.batches.append(places)
        self.shapes.append([tuple(item['inputs'].shape) for item in packed])
        return [('output of', place) for place in places]


def outcome(images: Iterator[ImageInFlight]) -> list[tuple[int, list[Any], str | None]]:
    return [(i.result.frame.index, i.poses, i.result.error) for i in images]


def naive(images: Sequence[ImageInFlight]) -> list[tuple[int, list[Any], str | None]]:
    """Expected outcome, computed input by input."""
    return [
        (i.result.frame.index, [('output of', item['place']) for item in i.crops], i.result.error)
        for i in images
    ]


def random_images(rng: random.Random, count: int) -> list[ImageInFlight]:
    images = []
    for index in range(count):
        persons = rng.choice((0, 0, 1, 1, 1, 2, 5, 40))
        failed = rng.random() < 0.1
        shapes = [rng.choice(SHAPES) for _ in range(0 if failed else persons)]
        images.append(image(index, *shapes, error='cannot be read' if failed else None))
    return images


class Watched:
    """Iterates images and counts those that were consumed but not yielded yet."""

    def __init__(self, images: Sequence[ImageInFlight]) -> None:
        self._images = images
        self.inside = 0

    def __iter__(self) -> Iterator[ImageInFlight]:
        for item in self._images:
            self.inside += 1
            yield item

    def through(
        self, stage: Callable[[Iterator[ImageInFlight]], Iterator[ImageInFlight]], maximum: int
    ) -> Iterator[ImageInFlight]:
        for item in stage(iter(self)):
            assert self.inside <= maximum
            yield item
            self.inside -= 1


def divided(
    items: Iterator[ImageInFlight], chunk: int, marker: Marker
) -> Iterator[ImageInFlight | Marker]:
    for number, item in enumerate(items, 1):
        yield item
        if chunk and number % chunk == 0:
            yield marker


@pytest.mark.parametrize('seed', range(60))
def test_batched_outputs_equal_those_of_single_inputs(seed):
    rng = random.Random(seed)
    batch_size = rng.choice((1, 2, 3, 4, 8, 16, 64))
    images = random_images(rng, rng.randrange(40))
    expected = naive(images)
    network = Network()
    chunk, marker = rng.choice((0, 0, 1, 3, 7)), rng.choice((FLUSH, CHUNK_END))

    def stage(items: Iterator[ImageInFlight]) -> Iterator[ImageInFlight]:
        found = BatchRunner(network, batch_size).stream(divided(items, chunk, marker))
        return (item for item in found if not isinstance(item, Marker))

    assert outcome(Watched(images).through(stage, 2 * batch_size)) == expected
    assert all(len(set(shapes)) == 1 for shapes in network.shapes)  # neither mixed nor padded
    assert all(len(batch) <= batch_size for batch in network.batches)
    run = Counter(place for batch in network.batches for place in batch)
    assert run == Counter(place for _, outputs, _ in expected for _, place in outputs)


def test_batches_are_filled_across_images():
    network = Network()
    images = [image(i, *[SHAPES[0]] * count) for i, count in enumerate((3, 0, 4, 1, 2))]
    list(BatchRunner(network, 4).stream(iter(images)))
    assert [len(batch) for batch in network.batches] == [4, 4, 2]
    assert network.batches[0] == [(0, 0), (0, 1), (0, 2), (2, 0)]


def test_a_full_batch_runs_immediately():
    taken = []

    def source() -> Iterator[ImageInFlight]:
        for index in range(8):
            taken.append(index)
            yield image(index, SHAPES[0])

    stream = BatchRunner(Network(), 2).stream(source())
    next(stream)
    assert taken == [0, 1]


def test_an_image_does_not_wait_indefinitely_for_others_of_its_shape():
    # Every input has a different shape, so no batch is ever full.
    taken = []

    def source() -> Iterator[ImageInFlight]:
        for index in range(20):
            taken.append(index)
            yield image(index, (3, 1, index + 1))

    stream = BatchRunner(Network(), 4).stream(source())
    next(stream)
    assert len(taken) == 2 * 4


def test_an_image_pyramid_is_bucketed_by_all_its_levels():
    collector = BatchCollector(2)

    def add(*levels: tuple[int, ...]) -> list[Instance] | None:
        packed = {'inputs': [torch.empty(level) for level in levels]}
        return collector.add(Instance(image(0), 0, packed))

    assert add((3, 4, 4), (3, 8, 8)) is None
    assert add((3, 4, 4), (3, 8, 6)) is None
    assert len(add((3, 4, 4), (3, 8, 8))) == 2
    assert [len(batch) for batch in collector.flush()] == [1]
    assert list(collector.flush()) == []


def test_remaining_batches_run_in_the_order_of_their_first_inputs():
    collector = BatchCollector(4)
    for index, shape in enumerate((SHAPES[1], SHAPES[0], SHAPES[2], SHAPES[0])):
        item = image(index, shape)
        collector.add(Instance(item, 0, item.crops[0]))
    left = [[instance.packed['place'][0] for instance in batch] for batch in collector.flush()]
    assert left == [[0], [1, 3], [2]]


@pytest.mark.parametrize('seed', range(40))
def test_a_run_that_starts_at_a_chunk_has_the_batches_of_the_complete_run(seed):
    every = random.Random(seed).choice((1, 4, 6))
    batch_size = random.Random(seed).choice((1, 2, 5, 16))

    def batches_from(start: int) -> list[list[tuple[int, int]]]:
        images = random_images(random.Random(seed), 24)[start:]
        network = Network()
        list(BatchRunner(network, batch_size).stream(divided(iter(images), every, CHUNK_END)))
        return network.batches

    whole = batches_from(0)
    for start in range(0, 24, every):
        assert batches_from(start) == [batch for batch in whole if batch[0][0] >= start]
    crossing = [batch for batch in whole if batch[0][0] // every != batch[-1][0] // every]
    assert not crossing


# One bad instance at each position in batches of each size; the last batch is not full.
@pytest.mark.parametrize('batch_size', [1, 2, 3, 4, 8])
@pytest.mark.parametrize('bad', [(0, 0), (2, 1), (3, 0), (5, 2), (6, 0)])
def test_a_bad_instance_fails_its_own_image_only(batch_size, bad):
    images = [image(i, *[SHAPES[0]] * count) for i, count in enumerate((1, 0, 2, 1, 3, 3, 1))]
    expected = naive(images)
    expected[bad[0]] = (bad[0], [], f'network: RuntimeError: cannot run {bad}')
    runner = BatchRunner(Network([bad]), batch_size)
    assert outcome(runner.stream(iter(images))) == expected


def test_if_all_inputs_fail_each_image_gets_a_failure():
    images = [image(i, SHAPES[i % 2], SHAPES[0]) for i in range(7)]
    bad = [(i, slot) for i in range(7) for slot in (0, 1)]
    result = outcome(BatchRunner(Network(bad), 4, stage='detection').stream(iter(images)))
    assert [index for index, _, _ in result] == list(range(7))
    assert all(outputs == [] for _, outputs, _ in result)
    assert all(error.startswith('detection: RuntimeError: cannot run') for _, _, error in result)


def test_instances_of_an_image_that_failed_earlier_are_ignored():
    # The image's first instance fails in the first batch; its others run in later ones.
    images = [image(0, *[SHAPES[0]] * 5), image(1, SHAPES[0])]
    result = outcome(BatchRunner(Network([(0, 0)]), 2).stream(iter(images)))
    assert result == [
        (0, [], 'network: RuntimeError: cannot run (0, 0)'),
        (1, [('output of', (1, 0))], None),
    ]


def test_images_that_failed_before_pass_through_in_order():
    images = [
        image(0, error='cannot be read'),
        image(1, SHAPES[0]),
        image(2, error='is no image'),
        image(3),
        image(4, error='too small'),
    ]
    network = Network()
    assert outcome(BatchRunner(network, 8).stream(iter(images))) == [
        (0, [], 'cannot be read'),
        (1, [('output of', (1, 0))], None),
        (2, [], 'is no image'),
        (3, [], None),
        (4, [], 'too small'),
    ]
    assert network.batches == [[(1, 0)]]


NO_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError('CUDA out of memory'),
    torch.AcceleratorError('CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation`'),
    RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'),
    RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'),
    RuntimeError('cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED'),
    RuntimeError('GET was unable to find an engine to execute this computation'),
]


@pytest.mark.parametrize('threads', [0, 2])
@pytest.mark.parametrize('error', NO_MEMORY, ids=lambda error: str(error)[:40])
def test_batches_that_exceed_memory_are_halved_permanently(error, threads):
    sizes, said = [], []

    def network(packed: list[dict[str, Any]]) -> list[Any]:
        sizes.append(len(packed))
        if len(packed) > 3:
            raise error
        return [part['place'] for part in packed]

    images = [image(i, SHAPES[0]) for i in range(48)]
    with WorkerPool(threads) as pool:
        runner = BatchRunner(network, 16, pool=pool, on_memory=said.append)
        result = outcome(runner.stream(iter(images)))
    assert result == [(i, [(i, 0)], None) for i in range(48)]
    assert said == [8, 4, 2]
    assert set(sizes[6 * max(threads, 1) :]) == {2}


def test_the_cache_is_emptied_after_the_tensors_of_the_failed_batch_are_freed(monkeypatch):
    tensors: list[weakref.ref] = []
    alive: list[bool] = []

    def network(packed: list[dict[str, Any]]) -> list[Any]:
        if len(packed) > 2:
            activations = torch.empty(8)
            tensors.append(weakref.ref(activations))
            raise torch.OutOfMemoryError('CUDA out of memory')
        return [part['place'] for part in packed]

    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: alive.append(tensors[-1]() is not None))
    list(BatchRunner(network, 4).stream(image(i, SHAPES[0]) for i in range(4)))
    assert alive == [False]


def test_no_cache_is_emptied_where_cuda_is_not_used(monkeypatch):
    def network(packed: list[dict[str, Any]]) -> list[Any]:
        raise MemoryError

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: pytest.fail('CUDA is not used'))
    list(BatchRunner(network, 4).stream(image(i, SHAPES[0]) for i in range(4)))


LOST = [
    torch.AcceleratorError('CUDA error: an illegal memory access was encountered'),
    torch.AcceleratorError('CUDA error: unspecified launch failure'),
]


@pytest.mark.parametrize('error', LOST, ids=str)
def test_a_lost_device_is_not_a_failure_of_an_image(error):
    def network(packed: list[dict[str, Any]]) -> list[Any]:
        raise error

    with pytest.raises(torch.AcceleratorError, match=str(error)):
        list(BatchRunner(network, 4).stream(image(i, SHAPES[0]) for i in range(4)))


def test_a_single_instance_that_exceeds_memory_is_a_failure_of_its_image():
    def network(packed: list[dict[str, Any]]) -> list[Any]:
        raise MemoryError

    result = outcome(BatchRunner(network, 2).stream(iter([image(0, SHAPES[0], SHAPES[0])])))
    assert result == [(0, [], 'network: MemoryError')]


def run_with_little_memory(arguments: list[str], log: str, checkpoint_every: int) -> None:
    """Run 16 images of 200 MB in a process that may allocate 700 MB, and print what happens."""
    import resource

    def network(packed: list[dict[str, Any]]) -> list[float]:
        return torch.empty(len(packed), 50 << 20)[:, 0].tolist()

    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = pages * resource.getpagesize() + (700 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with open(log, 'w') as file, redirect_stdout(file):
        runner = BatchRunner(network, 8, on_memory=print)
        done = list(runner.stream(image(i, SHAPES[0]) for i in range(16)))
        print([each.result.error for each in done] == [None] * 16)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='needs the memory limit of Linux')
def test_a_run_continues_when_memory_is_exhausted(tmp_path):
    done = ToolProcess([], tmp_path / 'log', main=run_with_little_memory).wait()
    assert done.status == 0, done.err
    assert done.err.split() == ['4', '2', 'True']


def test_an_interruption_is_not_a_failure_of_an_image():
    def interrupted(packed: list[dict[str, Any]]) -> list[Any]:
        raise KeyboardInterrupt

    stream = BatchRunner(interrupted, 2).stream(iter([image(0, SHAPES[0], SHAPES[0])]))
    with pytest.raises(KeyboardInterrupt):
        next(stream)


def test_a_wrong_number_of_outputs_is_a_failure():
    stream = BatchRunner(lambda packed: packed[1:], 2).stream(
        iter([image(0, SHAPES[0]), image(1, SHAPES[0])])
    )
    with pytest.raises(ValueError, match='zip'):
        next(stream)


class Output:
    """An output that supports weak references."""


@pytest.mark.parametrize('batch_size', [1, 3])
def test_yielded_images_are_not_referenced_any_more(batch_size):
    inputs: list[weakref.ref] = []
    outputs: list[weakref.ref] = []

    def made(index: int) -> ImageInFlight:
        item = image(index, SHAPES[0], SHAPES[1])
        inputs.extend(weakref.ref(packed) for packed in item.crops)
        return item

    def network(packed: list[dict[str, Any]]) -> list[Output]:
        batch = [Output() for _ in packed]
        outputs.extend(map(weakref.ref, batch))
        return batch

    def alive(references: list[weakref.ref]) -> int:
        return sum(reference() is not None for reference in references)

    maximum, done = 0, 0
    for item in BatchRunner(network, batch_size).stream(map(made, range(30))):
        maximum = max(maximum, alive(inputs))
        own = {id(output) for output in item.poses}
        done += len(own)
        del item
        assert own.isdisjoint(id(output()) for output in outputs)
        assert alive(outputs) <= len(outputs) - done
    assert maximum <= 2 * 2 * batch_size  # two inputs for each image that may wait
    assert (alive(inputs), alive(outputs)) == (0, 0)


@pytest.mark.parametrize(
    ('error', 'text'),
    [
        pytest.param(ValueError('expected a, found b'), 'expected a, found b', id='made for users'),
        pytest.param(ValueError('a\n   b\n'), 'a b', id='several lines'),
        pytest.param(ValueError(), 'ValueError', id='no text'),
        pytest.param(RuntimeError('shape'), 'RuntimeError: shape', id='with its type'),
        pytest.param(KeyError('bbox'), "KeyError: 'bbox'", id='a name for text'),
        pytest.param(MemoryError(), 'MemoryError', id='only a type'),
    ],
)
def test_an_error_becomes_one_line_that_is_not_empty(error, text):
    assert one_line(error) == text
