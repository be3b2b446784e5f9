"""Threads that read ahead: in order, bounded, gone afterwards; and what a file must be.

Whether things happen at the same time is decided by events and barriers, never by a
clock: `PATIENCE` only ends a test that would hang.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import cv2
import mmcv
import numpy as np
import pytest
from mmpose.datasets.transforms import LoadImage
from support.factories import our_threads
from support.tiny import picture, save

from mmpose_batch.loading import ImageError, WorkerPool, is_truncated_jpeg, read_ahead, read_image
from mmpose_batch.sources import Frame, open_source

pytestmark = pytest.mark.usefixtures('no_thread_is_left')

PATIENCE = 120.0
CUT_OFF = cv2.imencode('.jpg', picture(64, 64))[1].tobytes()[:-20]


class Counted:
    """Iterates numbers and knows how many were taken."""

    def __init__(self, length: int = 1_000_000) -> None:
        self.taken = 0
        self._length = length

    def __iter__(self) -> Iterator[int]:
        for number in range(self._length):
            self.taken += 1
            yield number


# ------------------------------------------------------------------------ WorkerPool


@pytest.mark.parametrize('num_workers', [0, 1, 2, 7])
@pytest.mark.parametrize('ahead', [0, 1, 5, 100])
def test_results_come_in_the_order_of_the_items(num_workers, ahead):
    with WorkerPool(num_workers) as pool:
        assert list(pool.map(lambda n: n * n, range(40), ahead)) == [n * n for n in range(40)]


@pytest.mark.parametrize('ahead', [1, 5])
def test_what_is_finished_first_comes_in_its_place(ahead):
    done = [threading.Event() for _ in range(40)]

    def overtaken(number: int) -> int:
        if number % 2 == 0:
            assert done[number + 1].wait(PATIENCE)
        done[number].set()
        return number

    with WorkerPool(2) as pool:
        assert list(pool.map(overtaken, range(40), ahead)) == list(range(40))


@pytest.mark.parametrize(
    ('num_workers', 'ahead', 'beyond'),
    [
        pytest.param(0, 9, 0, id='no workers read nothing ahead'),
        pytest.param(1, 0, 0, id='one at a time'),
        pytest.param(2, 3, 3, id='ahead'),
        pytest.param(7, 2, 2, id='more workers than ahead'),
    ],
)
def test_no_more_items_are_taken_than_asked_for_and_ahead(num_workers, ahead, beyond):
    items = Counted()
    with WorkerPool(num_workers) as pool:
        results = pool.map(lambda number: number, items, ahead)
        for asked in range(1, 20):
            next(results)
            assert items.taken == asked + beyond


@pytest.mark.parametrize('num_workers', [0, 1, 3])
def test_what_a_worker_raises_arrives_at_its_items_place(num_workers):
    def fail_at_five(number: int) -> int:
        if number == 5:
            raise LookupError('five')
        return number

    got = []
    with WorkerPool(num_workers) as pool, pytest.raises(LookupError, match='five'):
        got.extend(pool.map(fail_at_five, range(10), 4))
    # `extend` keeps what came before the error.
    assert got == [0, 1, 2, 3, 4]


def test_workers_run_at_the_same_time():
    together = threading.Barrier(3)
    with WorkerPool(3) as pool:
        # Each waits until all three are there; one after the other would never end.
        places = list(pool.map(lambda _: together.wait(PATIENCE), range(3), 3))
    assert sorted(places) == [0, 1, 2]


def test_workers_go_on_while_the_consumer_is_busy():
    began = [threading.Event() for _ in range(4)]
    items = Counted(4)
    with WorkerPool(1) as pool:
        results = pool.map(lambda number: began[number].set(), items, 2)
        next(results)
        assert began[1].wait(PATIENCE)
        assert began[2].wait(PATIENCE)
        assert items.taken == 3  # the last is not asked for and not ahead


def test_without_workers_everything_runs_in_the_callers_thread_when_asked_for():
    threads = []
    results = WorkerPool(0).map(lambda _: threads.append(threading.current_thread()), range(3), 9)
    assert threads == []
    next(results)
    assert threads == [threading.main_thread()]


def test_one_pool_serves_two_stages_that_feed_each_other():
    # With one worker, a stage that waited for the other inside a worker would hang.
    with WorkerPool(1) as pool:
        inner = pool.map(lambda number: number + 1, range(20), 3)
        assert list(pool.map(lambda number: 2 * number, inner, 3)) == [
            2 * (number + 1) for number in range(20)
        ]


@pytest.mark.parametrize('error', [None, RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_leaving_early_leaves_no_thread_and_begins_nothing_more(error, monkeypatch):
    release = threading.Event()
    begun = []
    shutdown = ThreadPoolExecutor.shutdown

    def release_at_shutdown(
        executor: ThreadPoolExecutor, wait: bool = True, cancel_futures: bool = False
    ) -> None:
        shutdown(executor, wait=False, cancel_futures=cancel_futures)
        release.set()
        shutdown(executor, wait=wait)

    # Two are at work then and six in the queue: the two must end, the six not begin.
    monkeypatch.setattr(ThreadPoolExecutor, 'shutdown', release_at_shutdown)

    def work(number: int) -> int:
        begun.append(number)
        if number:
            release.wait(PATIENCE)
        return number

    def consume() -> None:
        with WorkerPool(2) as pool:
            for _ in pool.map(work, range(100), 8):
                if error is not None:
                    raise error
                return

    if error is None:
        consume()
    else:
        with pytest.raises(error):
            consume()
    assert our_threads() == []
    assert len(begun) <= 3


# ------------------------------------------------------------------------ read_ahead


def test_read_ahead_keeps_the_order():
    assert list(read_ahead(range(100), 3)) == list(range(100))


def test_read_ahead_is_bounded():
    ahead, rounds, asked = 3, 200, 0
    read = [threading.Event() for _ in range(rounds + ahead + 1)]
    too_many = []

    def source() -> Iterator[int]:
        for number, event in enumerate(read):
            # Beside what was asked for, `ahead` in the queue, and one that the reader holds.
            if number + 1 > asked + ahead + 1:
                too_many.append(number)
            event.set()
            yield number

    items = read_ahead(source(), ahead)
    for number in range(rounds):
        asked += 1
        assert next(items) == number
        assert read[asked + ahead].wait(PATIENCE)
    items.close()
    assert too_many == []


def test_read_ahead_reads_while_the_consumer_is_busy():
    read = [threading.Event() for _ in range(3)]

    def source() -> Iterator[int]:
        for number in range(3):
            read[number].set()
            yield number

    items = read_ahead(source(), 2)
    next(items)
    assert read[1].wait(PATIENCE)
    assert read[2].wait(PATIENCE)
    items.close()


@pytest.mark.parametrize('error', [LookupError, KeyboardInterrupt])
def test_what_the_source_raises_arrives_at_its_place(error):
    def source() -> Iterator[int]:
        yield from range(3)
        raise error('three')

    got = []
    with pytest.raises(error, match='three'):
        got.extend(read_ahead(source(), 10))
    assert got == [0, 1, 2]


@pytest.mark.parametrize('ahead', [1, 5])
def test_closing_ends_the_thread_and_closes_the_source(ahead):
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from count()
        finally:
            closed.set()

    items = read_ahead(source(), ahead)
    next(items)
    assert len(our_threads()) == 1
    items.close()
    assert our_threads() == []
    del items  # a camera is released when nothing refers to its frames any more
    assert closed.is_set()


def test_closing_waits_for_a_source_that_is_slow_for_the_moment(monkeypatch):
    in_source, go_on = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield 0
        in_source.set()
        go_on.wait(PATIENCE)
        yield 1

    items = read_ahead(source(), 1)
    next(items)
    assert in_source.wait(PATIENCE)
    join = threading.Thread.join
    monkeypatch.setattr(threading.Thread, 'join', lambda thread: go_on.set() or join(thread))
    items.close()
    assert go_on.is_set()
    assert our_threads() == []


def test_the_thread_ends_with_the_source():
    assert list(read_ahead(iter(()), 2)) == []
    assert our_threads() == []


# ------------------------------------------------------------------------ read_image


def read(source: str | np.ndarray) -> np.ndarray:
    return read_image(Frame(0, source, 'name'), LoadImage())


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.tif', '.webp'])
def test_a_file_is_decoded_as_stock_does(tmp_path, suffix):
    path = save(tmp_path / f'image{suffix}', picture(41, 23))
    np.testing.assert_array_equal(read(path), mmcv.imread(path))


@pytest.mark.parametrize('shape', [(23, 41), (23, 41, 1), (23, 41, 4)])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_every_kind_of_image_becomes_bgr_of_eight_bits(tmp_path, shape, dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    path = save(tmp_path / 'image.png', image)
    decoded = read(path)
    assert (decoded.shape, decoded.dtype) == ((23, 41, 3), np.uint8)
    np.testing.assert_array_equal(decoded, mmcv.imread(path))


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_an_array_is_taken_as_it_is(dtype):
    image = picture(41, 23).astype(dtype)
    assert read(image) is image


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_an_array_loses_its_alpha(dtype):
    image = cv2.cvtColor(picture(41, 23).astype(dtype), cv2.COLOR_BGR2BGRA)
    bgr = read(image)
    assert bgr.flags['C_CONTIGUOUS']
    np.testing.assert_array_equal(bgr, image[..., :3])


@pytest.mark.parametrize(
    'values',
    [
        pytest.param([0, 0, 0], id='black'),
        pytest.param([0, 1, 1], id='nearly black'),
        pytest.param([-3.5, 12.25, 259], id='a little beyond, as resized images are'),
    ],
)
def test_an_array_of_floats_may_be_dark_or_overshoot(values):
    image = np.resize(np.float32(values), (4, 5, 3))
    assert read(image) is image


@pytest.mark.parametrize(
    ('values', 'found'),
    [
        ([0, 0.25, 1], 'expected values from 0 to 255, found 0 to 1'),
        ([0.5, 0.25, 0.75], 'expected values from 0 to 255, found 0.25 to 0.75'),
        ([0, 1, np.nan], 'expected finite values, found NaN or infinity'),
        ([0, -np.inf, 7], 'expected finite values, found NaN or infinity'),
    ],
)
def test_an_array_of_floats_of_another_scale_is_an_error_that_says_so(values, found):
    with pytest.raises(ImageError) as raised:
        read(np.resize(np.float32(values), (4, 5, 3)))
    assert str(raised.value) == found


@pytest.mark.parametrize('num_workers', [0, 1, 3])
def test_images_of_one_buffer_are_read_ahead_unchanged(num_workers):
    def buffered() -> Iterator[np.ndarray]:
        buffer = np.empty((23, 41, 3), np.uint8)
        for value in range(24):
            buffer[:] = value
            yield buffer

    with WorkerPool(num_workers) as pool:
        frames = open_source(buffered()).frames
        images = list(pool.map(lambda frame: read_image(frame, LoadImage()), frames, 8))
    assert [np.unique(image).tolist() for image in images] == [[value] for value in range(24)]


@pytest.mark.parametrize('path', ['x' * 256 + '.jpg', 'd/' * 2100 + 'a.jpg', 'd/' * 2100])
def test_a_path_too_long_for_the_system_is_an_error_of_one_line(path):
    with pytest.raises(ImageError, match='found File name too long'):
        read(path)


@pytest.mark.parametrize(
    ('array', 'found'),
    [
        pytest.param(np.zeros((4, 5)), 'float64 (4, 5)', id='one channel'),
        pytest.param(np.zeros((4, 5, 3)), 'float64 (4, 5, 3)', id='double'),
        pytest.param(np.zeros((4, 5, 3), np.uint16), 'uint16 (4, 5, 3)', id='16 bits'),
        pytest.param(np.zeros((4, 5, 2), np.uint8), 'uint8 (4, 5, 2)', id='two channels'),
        pytest.param(np.zeros((2, 4, 5, 3), np.uint8), 'uint8 (2, 4, 5, 3)', id='a batch'),
        pytest.param(np.zeros((0, 5, 3), np.uint8), 'uint8 (0, 5, 3)', id='empty'),
    ],
)
def test_an_array_of_another_kind_is_an_error_that_says_so(array, found):
    expected = 'expected a uint8 or float32 array (H, W, 3) in BGR or (H, W, 4) in BGRA, found '
    with pytest.raises(ImageError) as raised:
        read(array)
    assert str(raised.value) == expected + found


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        pytest.param(b'', 'expected an image, found an empty file', id='empty'),
        pytest.param(b'Not found.', "found 10 bytes that begin with 'Not foun'", id='text'),
        pytest.param(bytes(range(128, 160)), 'found 32 bytes in no format', id='noise'),
        pytest.param(CUT_OFF, 'expected a whole JPEG, found one cut off after', id='cut off'),
    ],
)
def test_a_file_that_is_no_image_is_an_error_of_one_line(tmp_path, data, message):
    path = tmp_path / 'image.jpg'
    path.write_bytes(data)
    with pytest.raises(ImageError) as raised:
        read(str(path))
    assert message in str(raised.value)
    assert '\n' not in str(raised.value)


def test_a_file_that_is_not_there_is_an_error_of_one_line(tmp_path):
    with pytest.raises(ImageError, match='expected a readable file, found') as raised:
        read(str(tmp_path / 'missing.jpg'))
    assert '\n' not in str(raised.value)


# ------------------------------------------------------------------ is_truncated_jpeg


def with_thumbnail(data: bytes) -> bytes:
    """A JPEG whose EXIF segment holds a whole JPEG with an end marker of its own."""
    thumbnail = b'Exif\0\0' + cv2.imencode('.jpg', picture(8, 8))[1].tobytes()
    segment = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    return data[:2] + segment + data[2:]


def encoded(*parameters: int) -> bytes:
    return cv2.imencode('.jpg', picture(48, 40), parameters)[1].tobytes()


JPEGS = {
    'baseline': encoded(),
    'progressive': encoded(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    'restart markers': encoded(cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    'thumbnail': with_thumbnail(encoded()),
    'fill bytes': encoded()[:2] + b'\xff\xff' + encoded()[2:],
}


@pytest.mark.parametrize('data', JPEGS.values(), ids=JPEGS)
def test_a_whole_jpeg_is_told_from_one_cut_off_anywhere(data):
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    assert not is_truncated_jpeg(data)
    assert not is_truncated_jpeg(data + b'\0' * 100)  # cameras pad their files
    whole = [cut for cut in range(2, len(data) - 1) if not is_truncated_jpeg(data[:cut])]
    assert whole == []


@pytest.mark.parametrize(
    'data',
    [
        pytest.param(b'', id='empty'),
        pytest.param(b'\x89PNG\r\n\x1a\n', id='png'),
        pytest.param(b'\xff\xd8 a text that begins like a JPEG', id='another form'),
    ],
)
def test_what_is_no_jpeg_is_left_to_the_decoder(data):
    assert not is_truncated_jpeg(data)
