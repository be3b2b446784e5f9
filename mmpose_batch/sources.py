"""What the user names becomes a stream of numbered frames."""

import codecs
import glob
import mimetypes
import os
import os.path as osp
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlparse

import cv2
import mmcv
import numpy as np

# What OpenCV decodes. Other files in a folder are skipped.
IMAGE_SUFFIXES = frozenset(
    '.' + suffix
    for suffix in (
        *('avif', 'bmp', 'dib', 'gif', 'jfif', 'jp2', 'jpe', 'jpeg', 'jpg', 'pbm'),
        *('pgm', 'png', 'pnm', 'ppm', 'tif', 'tiff', 'webp'),
    )
)

# Folders that systems put beside images, for thumbnails and metadata of them: unpacked
# archives of macOS, network storage (Synology, netatalk, QNAP), Jupyter.
SIDECAR_FOLDERS = frozenset(
    ('__MACOSX', '@eaDir', '.AppleDouble', '.@__thumb', '.ipynb_checkpoints')
)

# Names that a summary spells out; a folder of `log.0001`, `log.0002`, ... has no end of them.
MAX_SUFFIXES = 5

# What path components are split at, and `**` as a component of a glob.
_SEPARATOR = f'[{re.escape(os.sep + (os.altsep or ""))}]'
_ANY_DEPTH = re.compile(rf'(?:^|(?<={_SEPARATOR}))\*\*(?:$|{_SEPARATOR}+)')


class SourceError(ValueError):
    """Inputs that name nothing usable."""


@dataclass(slots=True)
class Skipped:
    """What folders and globs hold beside the images that were listed.

    Attributes:
        suffixes: Number of files by suffix, in lower case, ``'no suffix'`` among them.
        hidden: Number of sidecars (``._x.jpg``, a folder such as ``@eaDir``, which is
            not opened and counts once) and of other hidden files that are no images.
        linked_folders: Number of symbolic links to folders, which are not followed.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    linked_folders: int = 0

    def add(self, entry: os.DirEntry[str]) -> None:
        """Count an entry of a folder, not itself a folder, that is not listed."""
        if entry.is_symlink() and osp.isdir(entry.path):
            self.linked_folders += 1
        else:
            self.add_file(entry.name)

    def add_file(self, path: str, hidden: bool = False) -> None:
        """Count a file that is not listed; ``hidden`` where the folder that holds it is."""
        name = osp.basename(path)
        if hidden or name.startswith('.'):
            self.hidden += 1
        else:
            self.suffixes[osp.splitext(name)[1].lower() or 'no suffix'] += 1

    def __bool__(self) -> bool:
        return bool(self.suffixes or self.hidden or self.linked_folders)

    def __str__(self) -> str:
        """One line such as ``skipped: 3 .heic, 2 .txt, 1 linked folder``."""
        common = sorted(self.suffixes.items(), key=lambda item: (-item[1], item[0]))[:MAX_SUFFIXES]
        # A suffix may hold line ends and bytes that are no text.
        parts = [f'{count} {_printable(suffix)}' for suffix, count in common]
        others = self.suffixes.total() - sum(count for _, count in common)
        if others:
            parts.append(f'{others} with other suffixes')
        if self.hidden:
            parts.append(f'{self.hidden} hidden')
        if self.linked_folders:
            parts.append(f'{self.linked_folders} linked folder{"s" * (self.linked_folders > 1)}')
        return f'skipped: {", ".join(parts) or "nothing"}'


def _printable(text: str) -> str:
    return ''.join(char if char.isprintable() else '?' for char in text)


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
    if not isinstance(inputs, Iterable):
        raise SourceError(
            'inputs: expected a path, an array, or an iterable of these, '
            f'found {type(inputs).__name__}'
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
    inputs: Sequence[str], recursive: bool = True, skipped: Skipped | None = None
) -> list[str]:
    """List the image files that folders, files, globs and list files name.

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
            and ``@FILE`` for a list file. A file that is named twice is listed once;
            one that is named itself is taken whatever it is called.
        recursive: Also walk the folders below a folder.
        skipped: Counts what folders and globs hold beside images.

    Raises:
        SourceError: A path or glob that matches nothing, a folder that cannot be listed.
    """
    paths: dict[str, str] = {}
    folders: dict[str, str] = {}
    for text in inputs:
        if osp.isdir(text):
            found = list_images(text, recursive, skipped)
        elif osp.lexists(text):
            found = [text]
        elif text.startswith('@'):
            found = _expand(_read_list(text[1:]), recursive, skipped)
        else:
            found = _match(text, skipped)
        for path in found:
            folder, name = osp.split(path)
            if folder not in folders:
                folders[folder] = _without_parents(folder)
            path = osp.normpath(osp.join(folders[folder], name))
            paths.setdefault(osp.abspath(path), path)
    return list(paths.values())


def _expand(paths: Iterable[str], recursive: bool, skipped: Skipped | None = None) -> Iterator[str]:
    """Put the images below a folder in its place."""
    for path in paths:
        if osp.isdir(path):
            yield from list_images(path, recursive, skipped)
        else:
            yield path


def _without_parents(folder: str) -> str:
    """``folder`` in a form that ``osp.normpath`` keeps: ``link/..`` is not where the link is."""
    normal = osp.normpath(folder)
    if folder.count('..') == normal.count('..'):
        return folder
    real = osp.realpath(folder)
    return folder if real == osp.realpath(normal) else real


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


def _match(pattern: str, skipped: Skipped | None = None) -> list[str]:
    """List the images that a glob matches, sorted.

    Raises:
        SourceError: There are none.
    """
    found = sorted(set(_glob(pattern)))
    if not found:
        raise SourceError(f'inputs: no such file or folder: {pattern}')
    named = re.split(_SEPARATOR, pattern)
    images = []
    for path in found:
        if osp.isdir(path):
            continue
        found_in = SIDECAR_FOLDERS.intersection(re.split(_SEPARATOR, path))
        sidecar = not found_in.issubset(named)
        if is_image_name(path) and not sidecar:
            images.append(path)
        elif skipped is not None:
            skipped.add_file(path, hidden=sidecar)
    if not images:
        raise SourceError(f'inputs: no images match {pattern}')
    return images


def _glob(pattern: str, root: str = '') -> Iterator[str]:
    """Yield what ``pattern`` matches below ``root``, to any depth.

    The ``**`` of ``glob`` itself is recursive and ends at a depth of about 1,000.
    """
    split = _ANY_DEPTH.search(pattern)
    if split is None:
        yield from (osp.join(root, m) for m in glob.iglob(pattern, root_dir=root or None))
        return
    head, tail = pattern[: split.start()], pattern[split.end() :]
    for start in _glob(head, root) if head else (root,):
        for folder in _folders(start):
            yield from _glob(tail or '*', folder)


def _folders(start: str) -> Iterator[str]:
    """Yield ``start`` and the folders below it as ``**`` does: linked, but no hidden ones."""
    waiting = [start]
    while waiting:
        folder = waiting.pop()
        yield folder
        try:
            with os.scandir(folder or os.curdir) as entries:
                names = [entry.name for entry in entries if _is_folder(entry, linked=True)]
        except OSError:
            continue
        waiting.extend(osp.join(folder, name) for name in names if not name.startswith('.'))


def list_images(
    folder: str, recursive: bool = True, skipped: Skipped | None = None
) -> Iterator[str]:
    """Yield the image files below ``folder`` in sorted order, by suffix.

    A symbolic link to a folder is not followed, so no file comes twice, and sidecars of
    images are no images. A folder below that cannot be listed is yielded itself, an input
    that will fail; so is one whose path is too long for the system (4,096 bytes on Linux),
    with all that is below it, and a file whose path is.

    Holds the entries of one folder for each level of depth, of which there may be any number.

    Args:
        folder: Is walked whatever it is called.
        recursive: Also walk the folders below.
        skipped: Counts all other files, sidecars, and links to folders.

    Raises:
        SourceError: ``folder`` cannot be listed.
    """
    try:
        levels = [_entries(folder)]
    except OSError as error:
        raise SourceError(f'inputs: {folder} cannot be listed: {error.strerror}') from error
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
        elif _is_folder(entry):
            if not recursive:
                continue
            if entry.name in SIDECAR_FOLDERS:
                if skipped is not None:
                    skipped.hidden += 1
                continue
            try:
                levels.append(_entries(entry.path))
            except OSError:
                yield entry.path
        elif is_image_name(entry.name) and not _is_sidecar(entry.name):
            yield entry.path
        elif skipped is not None:
            skipped.add(entry)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder, sorted by name."""
    with os.scandir(folder) as entries:
        return iter(sorted(entries, key=lambda entry: entry.name))


def _is_folder(entry: os.DirEntry[str], linked: bool = False) -> bool:
    """Whether to list an entry as a folder; ``linked`` for links to folders as well."""
    try:
        return entry.is_dir(follow_symlinks=linked)
    except OSError:  # what it is cannot be known (its path is too long, say): listing it fails
        return not linked


def is_image_name(path: str) -> bool:
    """Whether a file's name has the suffix of an image that OpenCV decodes."""
    return osp.splitext(path)[1].lower() in IMAGE_SUFFIXES


def _is_sidecar(name: str) -> bool:
    """Whether a file holds metadata of the image whose suffix it has (AppleDouble, macOS)."""
    return name.startswith('._')


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
    paths = (
        [osp.abspath(i) for i in items if isinstance(i, str | os.PathLike)]
        if isinstance(items, Sequence)
        else []
    )
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
