"""Reading images and preparing them beside the network: bounded, in order, decoded once."""

import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Full, Queue
from threading import Event, Thread
from types import TracebackType
from typing import Any, TypeVar

import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile

from .sources import Frame

Item = TypeVar('Item')
Out = TypeVar('Out')

# OpenCV counts the bytes of an encoded image in a signed 32-bit integer.
MAX_FILE_BYTES = 2**31 - 1


class ImageError(ValueError):
    """An input that cannot be used. Its message is one line: what was expected and found."""


class WorkerPool:
    """Threads that run a function over a stream, a bounded number of items ahead.

    OpenCV, NumPy and torch release the interpreter lock while they work, so
    threads overlap with the network and hand arrays over without a copy.

    Args:
        num_workers: Number of threads. 0 runs everything in the caller's thread,
            when an item is asked for.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._executor = (
            ThreadPoolExecutor(num_workers, thread_name_prefix='mmpose_batch')
            if num_workers
            else None
        )

    def map(
        self, function: Callable[[Item], Out], items: Iterable[Item], ahead: int
    ) -> Iterator[Out]:
        """Yield ``function(item)`` in the order of ``items``.

        At most ``ahead`` results are finished or under way before they are
        asked for. What ``function`` raises is raised here, at its item's place.
        """
        if self._executor is None:
            yield from map(function, items)
            return
        running: deque[Future[Out]] = deque()
        for item in items:
            running.append(self._executor.submit(function, item))
            if len(running) > ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def __enter__(self) -> 'WorkerPool':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


def read_ahead(items: Iterable[Item], ahead: int) -> Iterator[Item]:
    """Iterate ``items`` on a thread of its own, ``ahead`` items before they are asked for.

    For sources that must be read one after the other, such as a video. What the
    source raises is raised here at its place; closing this generator ends the
    thread.
    """
    queue: Queue[tuple[str, Any]] = Queue(maxsize=ahead)
    stop = Event()

    def put(kind: str, value: Any) -> bool:
        while not stop.is_set():
            try:
                queue.put((kind, value), timeout=0.1)
                return True
            except Full:
                continue
        return False

    def read() -> None:
        try:
            for item in items:
                if not put('item', item):
                    return
            put('end', None)
        except BaseException as error:  # handed to the consumer, which raises it
            put('error', error)

    thread = Thread(target=read, name='mmpose_batch_reader', daemon=True)
    thread.start()
    try:
        while True:
            kind, value = queue.get()
            if kind == 'end':
                return
            if kind == 'error':
                raise value
            yield value
    finally:
        stop.set()
        while True:  # a reader blocked in put() must see the stop
            try:
                queue.get_nowait()
            except Empty:
                break
        thread.join()


def read_image(frame: Frame, loader: LoadImageFromFile) -> np.ndarray:
    """Read and decode one image as the config's loader would, after checking the file.

    Args:
        frame: Names a file or URL, or holds an array.
        loader: The first transform of the config's test pipeline.

    Returns:
        uint8 array (H, W, 3), BGR, EXIF orientation applied.

    Raises:
        ImageError: Not readable, not an image, truncated, or no (H, W, 3) array.
    """
    if not isinstance(frame.source, str):
        return _checked_array(frame.source)
    _check_file(frame.source)
    try:
        data = fileio.get(frame.source, backend_args=loader.backend_args)
    except Exception as error:  # each file backend has errors of its own
        raise ImageError(f'expected a readable file, found {_one_line(error)}') from error
    if not data:
        raise ImageError('expected an image, found an empty file')
    if is_truncated_jpeg(data):
        raise ImageError(f'expected a whole JPEG, found one cut off after {len(data)} bytes')
    try:
        image = mmcv.imfrombytes(data, flag=loader.color_type, backend=loader.imdecode_backend)
    except Exception as error:  # each decoding backend has errors of its own
        limit = re.search(r'CV_(IO_MAX_IMAGE_\w+)', str(error))
        found = f'one over OPENCV_{limit[1]}' if limit else _one_line(error)
        raise ImageError(f'expected an image, found {found}') from error
    if image is None:
        raise ImageError(f'expected an image, found {_describe(data)}')
    return image


def _check_file(path: str) -> None:
    """Refuse what reading would block on, would not end, or would fill the memory with.

    Raises:
        ImageError: ``path`` is a folder, pipe, socket or device, or longer than OpenCV reads.
    """
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return  # left to the file backend, which need not be of this machine's files
    if stat.S_ISDIR(info.st_mode):
        raise ImageError('expected a file, found a folder, which cannot be listed or is linked')
    if not stat.S_ISREG(info.st_mode):
        raise ImageError('expected a file, found a pipe, socket or device')
    if info.st_size > MAX_FILE_BYTES:
        raise ImageError(f'expected an image, found a file of {info.st_size} bytes')


def is_truncated_jpeg(data: bytes) -> bool:
    """Whether a JPEG ends before its end marker; some decoders make the rest grey.

    Follows the marker segments (ITU T.81, B.1.1) to the first scan, past any
    thumbnail in the EXIF segment; in the scan 0xFFD9 occurs only as end marker.
    """
    if not data.startswith(b'\xff\xd8'):
        return False
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return False  # not in the form of the standard: left to the decoder
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == 0xDA:
            return data.find(b'\xff\xd9', position) < 0
        elif marker == 0xD9:
            return False
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
    return True


def _checked_array(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(
            f'expected a uint8 array (H, W, 3) in BGR, found {array.dtype} {array.shape}'
        )
    return array


def checked_bboxes(bboxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Check a user's boxes and give those without a score the score 1.

    Raises:
        ImageError: A box that is not finite, has no area, or lies outside.
    """
    bboxes = np.asarray(bboxes, dtype=np.float32)
    if bboxes.size == 0:
        return np.zeros((0, 5), np.float32)
    if bboxes.ndim != 2 or bboxes.shape[1] not in (4, 5):
        raise ImageError(f'expected bboxes of shape (N, 4) or (N, 5), found {bboxes.shape}')
    if bboxes.shape[1] == 4:
        bboxes = np.hstack((bboxes, np.ones((len(bboxes), 1), np.float32)))
    x1, y1, x2, y2 = bboxes[:, :4].T
    for bad, what in (
        (~np.isfinite(bboxes).all(axis=1), 'with a value that is not finite'),
        ((x2 <= x1) | (y2 <= y1), 'without area'),
        ((x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height), 'outside the image'),
    ):
        if bad.any():
            number = int(np.argmax(bad))
            values = ', '.join(f'{value:g}' for value in bboxes[number, :4])
            raise ImageError(
                f'expected boxes inside {width} x {height}, found box {number} {what}: {values}'
            )
    return bboxes


def _describe(data: bytes) -> str:
    head = data[:8].strip()
    if head.isascii() and head.decode('ascii').isprintable():
        return f'{len(data)} bytes that begin with {head.decode("ascii")!r}'
    return f'{len(data)} bytes in no format that OpenCV can decode, or damaged'


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which the record names
    return ' '.join(str(error).split()) or type(error).__name__
