"""Reading images and preparing them beside the network: bounded, in order, decoded once."""

import os
import re
import stat
from threading import Lock

import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile

from .sources import Frame
from .workers import WorkerPool as WorkerPool
from .workers import read_ahead as read_ahead

# OpenCV counts the bytes of an encoded image in a signed 32-bit integer.
MAX_FILE_BYTES = 2**31 - 1


class ImageError(ValueError):
    """An input that cannot be used. Its message is one line: what was expected and found."""


class DecodedFrames:
    """Pixels of files that the warm-up has decoded and the run reads again, within a limit.

    Args:
        max_bytes: Memory for them; what is beyond is decoded again.
    """

    def __init__(self, max_bytes: int = 2**28) -> None:
        self._free = self._max_bytes = max_bytes
        self._pixels: dict[Frame, np.ndarray] = {}
        self._lock = Lock()

    def put(self, frame: Frame, pixels: np.ndarray) -> None:
        """Keep a copy of the pixels (H, W, 3) of a file: a pipeline may change them in place."""
        if not isinstance(frame.source, str):
            return  # there is nothing to decode
        with self._lock:
            if frame not in self._pixels and pixels.nbytes <= self._free:
                self._pixels[frame] = pixels.copy()
                self._free -= pixels.nbytes

    def take(self, frame: Frame) -> np.ndarray | None:
        """Hand out the pixels of a frame, once; None where they are not kept."""
        with self._lock:
            pixels = self._pixels.pop(frame, None)
            self._free += 0 if pixels is None else pixels.nbytes
            return pixels

    def clear(self) -> None:
        """Let go of all that was not taken."""
        with self._lock:
            self._pixels.clear()
            self._free = self._max_bytes


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
