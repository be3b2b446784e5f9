"""Reading images and preparing them beside the network: bounded, in order, decoded once."""

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
from ..sources.base import Frame
from ..speedups.base import apply_changes
from ..speedups.registry import PIPELINE
from .native_messages import decoding
from .orientation import is_turned_beyond_opencv

# OpenCV counts the bytes of an encoded image in a signed 32-bit integer.
MAX_FILE_BYTES = 2**31 - 1


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
        if not isinstance(frame.data, str):
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


def image_loader(pipeline: Compose) -> LoadImage | None:
    """The loader of a test pipeline, if all it does is what :func:`read_image` does by it.

    MMCV's ``LoadImageFromFile`` in the first place becomes MMPose's ``LoadImage``, which does
    the same to files and takes arrays too.

    Returns:
        None for a loader with code of its own, or a pipeline that begins with something else.
    """
    apply_changes(pipeline, PIPELINE)
    first = pipeline.transforms[0]
    return first if type(first) is LoadImage else None


def detector_loader(pipeline: Compose) -> LoadImageFromFile | None:
    """What an MMDetection inferencer's pipeline loads files by, None if it has no loader."""
    loaders = (getattr(step, 'from_file', None) for step in pipeline.transforms)
    return next(filter(None, loaders), None)


def plain_loader(pipeline: Compose) -> LoadImage:
    """A default loader that reads from where a pipeline's own does."""
    plain, first = LoadImage(), pipeline.transforms[0]
    if isinstance(first, LoadImageFromFile):
        plain.backend_args = first.backend_args
        plain.file_client_args = first.file_client_args
    return plain


def load_image(frame: Frame, loader: LoadImageFromFile | None, pixels: np.ndarray) -> np.ndarray:
    """The image that a loader hands on.

    Args:
        frame: As for :func:`read_image`.
        loader: Of a pose model or a detector; None for a default one.
        pixels: What :func:`read_image` returned for a default loader.
    """
    if loader is None or not isinstance(frame.data, str):
        return pixels
    if (loader.color_type, loader.imdecode_backend) != ('color', 'cv2'):
        pixels = read_image(frame, loader)
    return pixels.astype(np.float32) if loader.to_float32 else pixels


def read_image(frame: Frame, loader: LoadImageFromFile) -> np.ndarray:
    """Read and decode one image as a loader of MMCV or MMPose does, after checking the file.

    Args:
        frame: Names a file or URL, or holds an array.
        loader: Says how to read and decode a file; an array is used as it is, without alpha.

    Returns:
        Array (H, W, 3), uint8, BGR, as displayed: what a default loader makes of a file. Others
        may give (H, W), (H, W, 4), uint16, or pixels as stored, and an array may be float32.

    Raises:
        ImageError: Not readable, not an image, truncated, or an array of another kind.
    """
    if not isinstance(frame.data, str):
        return _checked_array(frame.data)
    data = _read_file(frame.data, loader)
    try:
        with decoding(frame.data):
            image = _decode(data, loader)
    except Exception as error:  # each decoding backend has errors of its own
        limit = re.search(r'CV_(IO_MAX_IMAGE_\w+)', str(error))
        found = f'one over OPENCV_{limit[1]}' if limit else _one_line(error)
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
    except Exception as error:  # each file backend has errors of its own
        raise ImageError(f'expected a readable file, found {_one_line(error)}') from error
    if not data:
        raise ImageError('expected an image, found an empty file')
    if is_truncated_jpeg(data):
        raise ImageError(f'expected a whole JPEG, found one cut off after {len(data)} bytes')
    return data


def _decode(data: bytes, loader: LoadImageFromFile) -> np.ndarray | None:
    """Decode as the loader says, and what OpenCV does not turn by Pillow, which does."""
    if heif.is_heif(data):
        return heif.decode(data, loader.color_type)
    backend = loader.imdecode_backend
    as_displayed = loader.color_type in ('color', 'grayscale')
    if as_displayed and backend in ('cv2', None) and is_turned_beyond_opencv(data):
        backend = 'pillow'
    image = mmcv.imfrombytes(data, flag=loader.color_type, backend=backend)
    return None if image is None else np.ascontiguousarray(image)  # Pillow's is a view of RGB


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
    return f'{len(data)} bytes in no format that OpenCV can decode, or damaged'


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which the record names
    return ' '.join(str(error).split()) or type(error).__name__
