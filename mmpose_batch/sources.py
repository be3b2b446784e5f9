"""What the user names becomes a stream of numbered frames."""

import glob
import mimetypes
import os
import os.path as osp
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlparse

import cv2
import mmcv
import numpy as np

# What OpenCV decodes. Other files in a folder are passed over.
IMAGE_SUFFIXES = frozenset(
    '.' + suffix
    for suffix in (
        *('avif', 'bmp', 'dib', 'gif', 'jfif', 'jp2', 'jpe', 'jpeg', 'jpg', 'pbm'),
        *('pgm', 'png', 'pnm', 'ppm', 'tif', 'tiff', 'webp'),
    )
)


class SourceError(ValueError):
    """Inputs that name nothing usable."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image on its way in.

    Attributes:
        index: Position in the input, from 0.
        source: Path or URL of an image file, or a uint8 array (H, W, 3) in BGR.
        name: Relative path that outputs get; differs for different files. Bytes
            of a file name that are no text are spelt out, as JSON has no other way.
        bboxes: Persons given by the user, (N, 4) or (N, 5): x1, y1, x2, y2 in
            pixels and a score; None leaves them to the detector.
    """

    index: int
    source: str | np.ndarray
    name: str
    bboxes: np.ndarray | None = None

    @property
    def path(self) -> str:
        """The file's path, or MMPose's made-up one (``000000.jpg``) for an array."""
        return self.source if isinstance(self.source, str) else self.name


@dataclass(slots=True)
class Source:
    """A stream of frames and what is known about it.

    Attributes:
        frames: Anything to iterate once.
        length: Number of frames where it is known, for a progress bar.
        sequential: Frames must be read one after the other (video, camera).
        video_name: File name that outputs of a video get, else None.
        fps: Frames per second of a video.
        camera: Frames come from a live camera.
    """

    frames: Iterable[Frame]
    length: int | None = None
    sequential: bool = False
    video_name: str | None = None
    fps: float = 0.0
    camera: bool = False


def open_source(inputs: str | os.PathLike | np.ndarray | Iterable) -> Source:
    """Turn the inferencer's ``inputs`` into frames.

    Args:
        inputs: A folder (walked recursively, sorted), an image file or URL, a
            glob, a video file, ``'webcam:ID'``, an array, or any iterable of
            image paths and arrays.

    Raises:
        SourceError: A path that does not exist, or an input of another type.
    """
    if isinstance(inputs, os.PathLike):
        inputs = os.fspath(inputs)
    if isinstance(inputs, str):
        return _open_string(inputs)
    if isinstance(inputs, np.ndarray):
        inputs = [inputs]
    if not isinstance(inputs, Iterable):
        raise SourceError(
            'inputs: expected a path, an array, or an iterable of these, '
            f'found {type(inputs).__name__}'
        )
    length = len(inputs) if isinstance(inputs, Sequence) else None
    return Source(number(inputs), length)


def _open_string(text: str) -> Source:
    if text.startswith('webcam'):
        return _open_camera(text)
    if (mimetypes.guess_type(text)[0] or '').startswith('video') and osp.isfile(text):
        return _open_video(text)
    if urlparse(text).scheme in ('http', 'https', 's3', 'petrel'):
        paths = [text]
    else:
        paths = list_inputs([text])
    return Source(number(paths), len(paths))


def list_inputs(inputs: Sequence[str], recursive: bool = True) -> list[str]:
    """List the image files that folders, files, globs and list files name.

    Args:
        inputs: Folders, image files, globs (of which only image files count),
            and ``@FILE`` for a text file with one file or folder a line. A file
            that is named twice is listed once.
        recursive: Also walk the folders below a folder.

    Raises:
        SourceError: A path or glob that matches nothing.
    """
    paths: dict[str, str] = {}
    for text in inputs:
        if osp.isdir(text):
            found = list_images(text, recursive)
        elif osp.lexists(text):
            found = [text]
        elif text.startswith('@'):
            found = _expand(_read_list(text[1:]), recursive)
        else:
            found = sorted(glob.iglob(text, recursive=True))
            if not found:
                raise SourceError(f'inputs: no such file or folder: {text}')
            found = [path for path in found if is_image_name(path) and not osp.isdir(path)]
            if not found:
                raise SourceError(f'inputs: no images match {text}')
        for path in found:
            paths.setdefault(osp.abspath(path), osp.normpath(path))
    return list(paths.values())


def _expand(paths: Iterable[str], recursive: bool) -> Iterator[str]:
    """Put the images below a folder in its place."""
    for path in paths:
        if osp.isdir(path):
            yield from list_images(path, recursive)
        else:
            yield path


def _read_list(path: str) -> list[str]:
    try:
        # File names need not be text, and a list may come from Windows.
        with open(path, encoding='utf-8-sig', errors='surrogateescape') as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise SourceError(f'inputs: the list {path} cannot be read: {error.strerror}') from error
    return [line for line in lines if line and not line.startswith('#')]


def list_images(folder: str, recursive: bool = True) -> Iterator[str]:
    """Yield the image files below ``folder`` in sorted order, by suffix.

    A symbolic link to a folder is not followed, so no file comes twice. A folder
    below that cannot be listed is yielded itself, an input that will fail.

    Raises:
        SourceError: ``folder`` cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(f'inputs: {folder} cannot be listed: {error.strerror}') from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if not recursive:
                continue
            try:
                yield from list_images(entry.path)
            except SourceError:
                yield entry.path
        elif is_image_name(entry.name):
            yield entry.path


def is_image_name(path: str) -> bool:
    """Whether a file's name has the suffix of an image that OpenCV decodes."""
    return osp.splitext(path)[1].lower() in IMAGE_SUFFIXES


def number(items: Iterable) -> Iterator[Frame]:
    """Number image paths and arrays and name each after its path below what all share.

    Raises:
        SourceError: An item that is neither path nor array.
    """
    paths = (
        [osp.abspath(i) for i in items if isinstance(i, str | os.PathLike)]
        if isinstance(items, Sequence)
        else []
    )
    root = osp.commonpath([osp.dirname(path) for path in paths]) if paths else None
    for index, item in enumerate(items):
        if isinstance(item, os.PathLike):
            item = os.fspath(item)
        if isinstance(item, str):
            name = _relative_name(item, root)
        elif isinstance(item, np.ndarray):
            name = f'{index}.jpg'.rjust(10, '0')  # as stock names an array
        else:
            raise SourceError(
                f'inputs: expected paths or arrays, found {type(item).__name__} at {index}'
            )
        yield Frame(index, item, name)


def _relative_name(path: str, root: str | None) -> str:
    """Where outputs of ``path`` go below an output folder, never outside it."""
    absolute = osp.abspath(path)
    if root is None:  # a stream: what all paths share is not known yet
        root = os.getcwd() if absolute.startswith(os.getcwd() + os.sep) else os.sep
    name = osp.relpath(absolute, root)
    return name.encode(errors='backslashreplace').decode()


def _open_video(path: str) -> Source:
    video = mmcv.VideoReader(path)
    if not video.opened or video.frame_cnt == 0:
        raise SourceError(f'inputs: expected a video, found a file that cannot be read: {path}')
    return Source(
        number(_read_video(video)),
        length=video.frame_cnt,
        sequential=True,
        video_name=osp.basename(path),
        fps=video.fps,
    )


def _read_video(video: mmcv.VideoReader) -> Iterator[np.ndarray]:
    while (image := video.read()) is not None:
        yield image


def _open_camera(text: str) -> Source:
    camera = text.removeprefix('webcam').removeprefix(':') or '0'
    if not camera.isdigit():
        raise SourceError(f"inputs: expected 'webcam' or 'webcam:ID', found {text!r}")
    capture = cv2.VideoCapture(int(camera))
    if not capture.isOpened():
        raise SourceError(f'inputs: camera {camera} cannot be opened')

    def read() -> Iterator[np.ndarray]:
        try:
            while cv2.waitKey(5) & 0xFF != 27:  # Esc in the window ends it, as in stock
                good, image = capture.read()
                if not good:
                    return
                yield image
        finally:
            capture.release()

    return Source(
        number(read()),
        sequential=True,
        video_name='webcam.mp4',
        fps=capture.get(cv2.CAP_PROP_FPS),
        camera=True,
    )
