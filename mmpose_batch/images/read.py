"""Reading and decoding images as MMCV's and MMPose's loaders do, with checks of the files."""

import os
import re
import stat
from threading import Lock

import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose
from mmpose.datasets.transforms import LoadImage

from ..errors import ImageError
from ..sources import heif
from ..sources.base import Frame, Pixels
from ..sources.video_names import is_video_name
from ..speedups.base import apply_changes
from ..speedups.registry import PIPELINE
from .native_messages import decoding
from .orientation import is_turned_beyond_opencv

# OpenCV counts the bytes of an encoded image in a signed 32-bit integer.
MAX_FILE_BYTES = 2**31 - 1


class DecodedFrames:
    """Pixels of files that the warm-up has decoded, so that the run need not decode them again.

    Args:
        max_bytes: Memory limit in bytes; images that exceed it are decoded again.
    """

    def __init__(self, max_bytes: int = 2**28) -> None:
        self._free = self._max_bytes = max_bytes
        self._pixels: dict[Frame, np.ndarray] = {}
        self._lock = Lock()

    def put(self, frame: Frame, pixels: np.ndarray) -> None:
        """Store a copy of the pixels (H, W, 3) of a file; pipelines may change the original."""
        if not isinstance(frame.data, str):
            return  # an array, which is not decoded
        with self._lock:
            if frame not in self._pixels and pixels.nbytes <= self._free:
                self._pixels[frame] = pixels.copy()
                self._free -= pixels.nbytes

    def take(self, frame: Frame) -> np.ndarray | None:
        """Remove and return the pixels of a frame; None if they are not stored."""
        with self._lock:
            pixels = self._pixels.pop(frame, None)
            self._free += 0 if pixels is None else pixels.nbytes
            return pixels

    def clear(self) -> None:
        """Release all stored pixels."""
        with self._lock:
            self._pixels.clear()
            self._free = self._max_bytes


def image_loader(pipeline: Compose) -> LoadImage | None:
    """Return the loader of a test pipeline, if :func:`read_image` is equivalent to it.

    MMCV's ``LoadImageFromFile`` as the first step is replaced by MMPose's ``LoadImage``, which
    loads files in the same way and also takes arrays.

    Returns:
        The loader; None for a loader of another class, or a pipeline that begins with another
        step.
    """
    apply_changes(pipeline, PIPELINE)
    first = pipeline.transforms[0]
    return first if type(first) is LoadImage else None


def detector_loader(pipeline: Compose) -> LoadImageFromFile | None:
    """Return the file loader in the pipeline of an MMDetection inferencer; None if it has none."""
    loaders = (getattr(step, 'from_file', None) for step in pipeline.transforms)
    return next(filter(None, loaders), None)


def plain_loader(pipeline: Compose) -> LoadImage:
    """Return a loader with default settings and the file backend of a pipeline's own loader."""
    plain, first = LoadImage(), pipeline.transforms[0]
    if isinstance(first, LoadImageFromFile):
        plain.backend_args = first.backend_args
        plain.file_client_args = first.file_client_args
    return plain


def load_image(frame: Frame, loader: LoadImageFromFile | None, pixels: np.ndarray) -> np.ndarray:
    """Return the image that a loader outputs, and decode it again only if needed.

    Args:
        frame: As for :func:`read_image`.
        loader: Loader of a pose model or a detector; None for a default loader.
        pixels: Result of :func:`read_image` for a default loader.

    Returns:
        As for :func:`read_image`; float32 if the loader converts to it.

    Raises:
        ImageError: As for :func:`read_image`.
    """
    if loader is None or not isinstance(frame.data, str):
        return pixels
    if (loader.color_type, loader.imdecode_backend) != ('color', 'cv2'):
        pixels = read_image(frame, loader)
    return pixels.astype(np.float32) if loader.to_float32 else pixels


def read_image(frame: Frame, loader: LoadImageFromFile) -> np.ndarray:
    """Read and decode one image as a loader of MMCV or MMPose does, after checking the file.

    Args:
        frame: Frame with the path or URL of a file, an array, or pixels of a video.
        loader: Loader with the settings for reading and decoding a file. An array is used
            unchanged, except that an alpha channel is removed.

    Returns:
        For a default loader, an array (H, W, 3), uint8, BGR, oriented as displayed. Other loaders
        may decode to (H, W), (H, W, 4), uint16, or the orientation as stored. An array of a frame
        may be float32.

    Raises:
        ImageError: The file is not readable, not an image or truncated, or the array has another
            shape, dtype or range of values.
    """
    if isinstance(frame.data, Pixels):
        return frame.data.read()
    if not isinstance(frame.data, str):
        return _checked_array(frame.data)
    if is_video_name(frame.data):  # before a large file is read
        raise ImageError(
            'expected an image, found a video; a call takes the path of one, or a list of paths '
            'without arrays'
        )
    data = _read_file(frame.data, loader)
    try:
        with decoding(frame.data):
            image = _decode(data, loader)
    except Exception as error:  # each decoding backend raises its own errors
        limit = re.search(r'CV_(IO_MAX_IMAGE_\w+)', str(error))
        found = f'one that exceeds OPENCV_{limit[1]}' if limit else _one_line(error)
        raise ImageError(f'expected an image, found {found}') from error
    if image is None:
        raise ImageError(f'expected an image, found {_describe(data)}')
    return image


def _read_file(path: str, loader: LoadImageFromFile) -> bytes:
    _check_file(path)
    try:
        if loader.file_client_args is not None:
            client = fileio.FileClient.infer_client(loader.file_client_args, path)
            data = client.get(path)
        else:
            data = fileio.get(path, backend_args=loader.backend_args)
    except Exception as error:  # each file backend raises its own errors
        raise ImageError(f'expected a readable file, found {_one_line(error)}') from error
    if not data:
        raise ImageError('expected an image, found an empty file')
    if is_truncated_jpeg(data):
        raise ImageError(f'expected a complete JPEG, found one truncated to {len(data)} bytes')
    return data


def _decode(data: bytes, loader: LoadImageFromFile) -> np.ndarray | None:
    """Decode with the settings of the loader; by Pillow if OpenCV would ignore the orientation."""
    if heif.is_heif(data):
        return heif.decode(data, loader.color_type)
    backend = loader.imdecode_backend
    as_displayed = loader.color_type in ('color', 'grayscale')
    if as_displayed and backend in ('cv2', None) and is_turned_beyond_opencv(data):
        backend = 'pillow'
    image = mmcv.imfrombytes(data, flag=loader.color_type, backend=backend)
    # Pillow's BGR is a view of RGB, which is not contiguous.
    return None if image is None else np.ascontiguousarray(image)


def _check_file(path: str) -> None:
    """Reject files whose reading would block, would not end, or would fill the memory.

    Raises:
        ImageError: ``path`` is a folder, pipe, socket or device, or larger than OpenCV can decode.
    """
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return  # left to the file backend, whose files need not be on this machine
    if stat.S_ISDIR(info.st_mode):
        raise ImageError(
            'expected a file, found a folder, which cannot be listed or is a link to a folder'
        )
    if not stat.S_ISREG(info.st_mode):
        raise ImageError('expected a file, found a pipe, socket or device')
    if info.st_size > MAX_FILE_BYTES:
        raise ImageError(f'expected an image, found a file of {info.st_size} bytes')


def is_truncated_jpeg(data: bytes) -> bool:
    """Return whether a JPEG ends before its end marker; some decoders then make the rest grey.

    The function follows the marker segments (ITU T.81, B.1.1) up to the first scan, so that it
    skips thumbnails in the EXIF segment. In the scan, 0xFFD9 occurs only as end marker.

    Args:
        data: The encoded image. The result is False for other formats.
    """
    if not data.startswith(b'\xff\xd8'):
        return False
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return False  # does not follow the standard: left to the decoder
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
    bgr = array.dtype in (np.uint8, np.float32) and array.ndim == 3 and array.shape[2] in (3, 4)
    if not bgr or 0 in array.shape:
        raise ImageError(
            'expected a uint8 or float32 array (H, W, 3) in BGR or (H, W, 4) in BGRA, '
            f'found {array.dtype} {array.shape}'
        )
    if array.dtype == np.float32:
        low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ImageError('expected finite values, found NaN or infinity')
        if 0 <= low < high <= 1 and (array % 1).any():
            raise ImageError(f'expected values from 0 to 255, found {low:g} to {high:g}')
    return array if array.shape[2] == 3 else np.ascontiguousarray(array[..., :3])


def _describe(data: bytes) -> str:
    head = data[:8].strip()
    if head.isascii() and head.decode('ascii').isprintable():
        return f'{len(data)} bytes that begin with {head.decode("ascii")!r}'
    return f'{len(data)} bytes that are damaged or in a format that OpenCV cannot decode'


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which is in the failure record
    return ' '.join(str(error).split()) or type(error).__name__
