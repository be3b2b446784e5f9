"""What the user names becomes a stream of numbered frames."""

import codecs
import mimetypes
import os
import os.path as osp
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

import cv2
import mmcv
import numpy as np

from ..errors import SourceError
from ..outputs import EarlierRuns
from .folders import Places, Skipped, list_images, match


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
        labels: Of each of these the label of its category, (N,); None where there are none.
    """

    index: int
    source: str | np.ndarray
    name: str
    bboxes: np.ndarray | None = None
    labels: np.ndarray | None = None

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
            image paths and arrays. Arrays are used as they are where they come in a
            list or tuple (do not change them before their results arrive), and are
            otherwise copied, so that an iterator may use one buffer again and again.

    Raises:
        SourceError: A path that does not exist, or an input of another type.
    """
    if isinstance(inputs, os.PathLike):
        inputs = os.fspath(inputs)
    if isinstance(inputs, str):
        return _open_string(inputs)
    if isinstance(inputs, np.ndarray):
        inputs = [inputs]
    if not isinstance(inputs, Iterable) or _advice(inputs):
        raise SourceError(
            'inputs: expected a path, an array, or an iterable of these, '
            f'found {type(inputs).__name__}{_advice(inputs)}'
        )
    length = len(inputs) if isinstance(inputs, Sequence) else None
    return Source(number(inputs), length)


def _open_string(text: str) -> Source:
    if re.fullmatch(r'webcam(:?\d+)?', text) or (
        text.startswith('webcam') and not osp.lexists(text)
    ):
        return _open_camera(text)
    if (mimetypes.guess_type(text)[0] or '').startswith('video') and osp.isfile(text):
        return _open_video(text)
    if urlparse(text).scheme in ('http', 'https', 's3', 'petrel'):
        paths = [text]
    else:
        paths = list_inputs([text])
    return Source(number(paths), len(paths))


def list_inputs(
    inputs: Sequence[str],
    recursive: bool = True,
    skipped: Skipped | None = None,
    follow_links: bool = False,
    named: Iterable[str] = (),
) -> list[str]:
    """List the image files that folders, files, globs and list files name.

    Folders and globs leave out sidecars and the drawings of earlier runs, see
    :func:`mmpose_batch.sources.folders.list_images`; a file that is named itself, or in a list, is
    taken whatever it is, and so is what lies in a folder of drawings that is named.

    In a list file each line is the path of a file or folder, relative to the working
    directory; a missing one stays and becomes an input that fails. Nothing in a line
    has a special meaning, ``*`` and ``@`` included, with these exceptions:

    - Only the line end is removed, LF or CR LF; blanks may belong to a name. Blanks
      around a path are removed where only the path without them exists.
    - Empty lines, and lines that begin with ``#``, are ignored unless a file of exactly
      that name exists.
    - A list with a NUL byte (``find -print0``) is split at these instead of at line
      ends and taken literally, which leaves no name that cannot be listed.

    The encoding is UTF-8, or UTF-16 with a byte order mark (PowerShell's ``>``); bytes of
    a name that are no UTF-8 are passed on.

    Args:
        inputs: Folders, image files, globs (of which only image files count),
            and ``@FILE`` for a list file. A file that is named twice, or by way of two
            linked folders, is listed once.
        recursive: Also walk the folders below a folder.
        skipped: Counts what folders and globs hold beside images and list files.
        follow_links: Also walk the folders that links in a folder lead to.
        named: Files that are used for something else (annotations, configs): not skipped.

    Raises:
        SourceError: A path or glob that matches nothing, a folder that cannot be listed.
    """
    runs, places = EarlierRuns(), Places()
    options = {'skipped': skipped, 'runs': runs}
    walk = {'recursive': recursive, 'follow_links': follow_links, **options}
    paths: dict[str, str] = {}
    for text in inputs:
        if osp.isdir(text):
            found = list_images(text, **walk)
        elif osp.lexists(text):
            found = [text]
        elif text.startswith('@'):
            named = [*named, text[1:]]
            found = _expand(_read_list(text[1:]), **walk)
        else:
            found = match(text, **options)
        for path in found:
            place, path = places.of(path)
            paths.setdefault(place, path)
    if skipped:
        for place in (*paths, *(places.of(path)[0] for path in named)):
            skipped.discard(place)
    return list(paths.values())


def _expand(paths: Iterable[str], **walk: Any) -> Iterator[str]:
    """Put the images below a folder in its place; ``walk`` as :func:`list_images` has it."""
    for path in paths:
        if osp.isdir(path):
            yield from list_images(path, **walk)
        else:
            yield path


def _read_list(path: str) -> list[str]:
    try:
        with open(path, 'rb') as file:
            data = file.read()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        # File names need not be text.
        text = data.decode('utf-16' if wide else 'utf-8-sig', errors='surrogateescape')
    except OSError as error:
        raise SourceError(f'inputs: the list {path} cannot be read: {error.strerror}') from error
    except UnicodeError as error:
        raise SourceError(f'inputs: the list {path} is no text') from error
    if '\0' in text:
        return [item for item in text.split('\0') if item]
    return [item for line in text.split('\n') if (item := _listed(line))]


def _listed(line: str) -> str | None:
    """Path that a line of a list file names, None for an empty line or a comment.

    Args:
        line: Without LF. The CR of a CR LF is still there, or belongs to a name.
    """
    literal, stripped = line.removesuffix('\r'), line.strip()
    for name in (literal, line, stripped):
        if osp.lexists(name):
            return name
    return None if not stripped or stripped.startswith('#') else literal


def number(items: Iterable, fresh: bool = False) -> Iterator[Frame]:
    """Number image paths and arrays and name each after its path below what all share.

    Frames are read several items ahead. An array is copied before the next item is asked
    for, as its producer may write the next image to the same memory; those of a list or
    tuple, which exist at the same time, are used as they are.

    Args:
        items: Paths, and arrays (H, W, 3), uint8, in BGR.
        fresh: Every array is new memory that nothing else writes to: no copies.

    Raises:
        SourceError: An item that is neither path nor array.
    """
    paths = []
    if isinstance(items, Sequence):
        named = (os.fspath(i) for i in items if isinstance(i, str | os.PathLike))
        paths = [osp.abspath(path) for path in named if isinstance(path, str)]
    root = osp.commonpath([osp.dirname(path) for path in paths]) if paths else None
    fresh = fresh or isinstance(items, list | tuple)
    for index, item in enumerate(items):
        if isinstance(item, os.PathLike):
            item = os.fspath(item)
        if isinstance(item, str):
            name = _relative_name(item, root)
        elif isinstance(item, np.ndarray):
            name = f'{index}.jpg'.rjust(10, '0')  # as upstream names an array
            item = item if fresh else np.array(item)
        else:
            advice = _advice(item) or _FLAT * isinstance(item, Iterable)
            raise SourceError(
                f'inputs: expected paths or arrays, found {type(item).__name__} at {index}{advice}'
            )
        yield Frame(index, item, name)


# What turns other forms of an image into an array, by the package and name of their type.
_ADVICE = {
    ('builtins', 'bytes'): (
        'an encoded image becomes an array by cv2.imdecode(np.frombuffer(data, np.uint8), '
        'cv2.IMREAD_COLOR), a path becomes text by os.fsdecode(path)'
    ),
    ('torch', 'Tensor'): (
        'an image (3, H, W), RGB, from 0 to 255, becomes an array by '
        'tensor.flip(0).permute(1, 2, 0).byte().cpu().numpy()'
    ),
    ('PIL', 'Image'): (
        "it becomes an array by cv2.cvtColor(np.array(image.convert('RGB')), "
        'cv2.COLOR_RGB2BGR), after ImageOps.exif_transpose(image)'
    ),
}
_ADVICE |= dict.fromkeys(
    (('builtins', 'bytearray'), ('builtins', 'memoryview')), _ADVICE['builtins', 'bytes']
)
_FLAT = ': for images in groups, itertools.chain.from_iterable(groups) gives one after the other'


def _advice(item: Any) -> str:
    """How an input of another type becomes an array, where that is known."""
    for kind in type(item).__mro__:
        if text := _ADVICE.get((kind.__module__.partition('.')[0], kind.__name__)):
            return f': {text}'
    return ''


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
        number(_read_video(video), fresh=True),
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
        number(read(), fresh=True),
        sequential=True,
        video_name='webcam.mp4',
        fps=capture.get(cv2.CAP_PROP_FPS),
        camera=True,
    )
