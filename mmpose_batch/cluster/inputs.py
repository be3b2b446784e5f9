"""The inputs of a run on a cluster: listed once, into files that all nodes read.

Neither the driver nor a message to a worker holds the paths: a row of Ray Data is the number of a
chunk and the place of its paths in these files. So the memory of the driver does not grow with the
number of images, except for 8 bytes per chunk, and a restarted run does not list again.
"""

import hashlib
import json
import os.path as osp
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from typing import Any

import numpy as np

from ..distributed.chunks import Chunk
from ..errors import RunError, SourceError
from ..sources.base import Frame, chunk_name
from ..sources.files import list_inputs
from ..sources.folders import SIDECAR_FOLDERS, Skipped, is_image_name
from ..sources.video_names import is_video_name
from .files import ClusterFolder, file_system, is_url

FOLDER = 'inputs'
INDEX = f'{FOLDER}/index.json'
OFFSETS = f'{FOLDER}/offsets.u32'
VIDEOS = f'{FOLDER}/videos.jsonl'
# Chunks in a file of paths.
PART = 256
_BLOCK = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """The inputs of a run, as workers know them; small.

    Attributes:
        images: Number of images.
        videos: Number of videos.
        root: Folder or URL that all paths begin with; names in records are relative to it.
        chunk: Number of images, or of frames of a video, in a chunk.
        digest: Digest of all paths, in order.
        arguments: What they were listed from.
        remote: Protocols of URLs among them, such as ``s3``.
    """

    images: int
    videos: int
    root: str
    chunk: int
    digest: str
    arguments: dict[str, Any] = field(default_factory=dict)
    remote: tuple[str, ...] = ()

    @property
    def chunks(self) -> int:
        """Number of chunks of images."""
        return -(-self.images // self.chunk)


def _part(number: int) -> str:
    return f'{FOLDER}/images-{number:05d}.jsonl'


class _Writer:
    """Writes the paths of images, one part after another."""

    def __init__(self, folder: ClusterFolder, chunk: int, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._folder = folder
        self._chunk = chunk
        self._digest = hashlib.sha256()
        self._lines: list[bytes] = []
        self._data = bytearray()
        self._offsets: list[tuple[int, int]] = []
        self._all_offsets: list[bytes] = []
        self._root: str | None = None
        self._remote: set[str] = set()
        self._videos: list[bytes] = []
        self._images = self._parts = 0

    def add(self, path: str) -> None:
        line = json.dumps(path).encode() + b'\n'
        self._widen(path)
        if is_video_name(path):
            self._videos.append(line)
            return
        self._images += 1
        self._lines.append(line)
        if len(self._lines) == self._chunk:
            self._end_chunk()

    def _widen(self, path: str) -> None:
        """Shorten the common folder until a path is in it."""
        root = path.rpartition('/')[0] if self._root is None else self._root
        while root and not path.startswith(f'{root}/'):
            root = root.rpartition('/')[0]
        self._root = root
        if is_url(path):
            self._remote.add(path.partition('://')[0])

    def _end_chunk(self) -> None:
        data = b''.join(self._lines)
        self._digest.update(data)
        self._offsets.append((len(self._data), len(self._data) + len(data)))
        self._data += data
        self._lines = []
        if len(self._offsets) == PART:
            self._end_part()

    def _end_part(self) -> None:
        self._folder.write(_part(self._parts), bytes(self._data))
        self._all_offsets.append(np.asarray(self._offsets, '<u4').tobytes())
        self._data, self._offsets = bytearray(), []
        self._parts += 1

    def finish(self) -> Inputs:
        if self._lines:
            self._end_chunk()
        if self._offsets:
            self._end_part()
        videos = b''.join(self._videos)
        self._digest.update(b'\0' + videos)
        inputs = Inputs(
            images=self._images,
            videos=len(self._videos),
            root=self._root or '',
            chunk=self._chunk,
            digest=self._digest.hexdigest(),
            arguments=self._arguments,
            remote=tuple(sorted(self._remote)),
        )
        self._folder.write(OFFSETS, b''.join(self._all_offsets))
        self._folder.write(VIDEOS, videos)
        self._folder.write(INDEX, json.dumps(asdict(inputs)).encode())  # last: all is complete
        return inputs


def write_inputs(
    folder: ClusterFolder,
    paths: Iterable[str],
    chunk: int,
    arguments: dict[str, Any] | None = None,
) -> Inputs:
    """Write the paths of a run into its folder.

    Args:
        folder: The output folder.
        paths: Absolute paths and URLs of images and videos, which are not held in memory.
        chunk: Number of images in a chunk.
        arguments: What they were listed from, as JSON values.

    Raises:
        OSError: The files cannot be written.
    """
    writer = _Writer(folder, chunk, arguments or {})
    for path in paths:
        writer.add(path)
    return writer.finish()


def read_inputs(folder: ClusterFolder) -> Inputs | None:
    """The inputs that an earlier start of a run has listed; None if there are none.

    Raises:
        RunError: The file is damaged.
    """
    data = folder.read(INDEX)
    if data is None:
        return None
    try:
        values = json.loads(data)
        return Inputs(**{**values, 'remote': tuple(values['remote'])})
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f'cannot resume: {INDEX} is damaged') from error


def read_offsets(folder: ClusterFolder) -> np.ndarray:
    """Place of each chunk of images in its file of paths: (chunks, 2), start and end in bytes."""
    return np.frombuffer(folder.read(OFFSETS) or b'', '<u4').reshape(-1, 2)


def image_chunk(folder: ClusterFolder, inputs: Inputs, number: int, place: Sequence[int]) -> Chunk:
    """A chunk of images.

    Args:
        folder: The output folder.
        inputs: The inputs of the run.
        number: Number of the chunk.
        place: Start and end of its paths, in bytes, from :func:`read_offsets`.

    Raises:
        OSError: The paths cannot be read.
        RunError: They are gone.
    """
    data = folder.read(_part(number // PART), int(place[0]), int(place[1]))
    if data is None:
        raise RunError(f'{_part(number // PART)}, a list of inputs, is gone')
    lines = data.splitlines()
    first, name = number * inputs.chunk, chunk_name(number)
    images = tuple(
        Frame(first + index, path, name_of(path, inputs.root), chunk=name)
        for index, path in enumerate(map(json.loads, lines))
    )
    return Chunk(number, first, inputs.chunk, images)


def videos_of(folder: ClusterFolder, inputs: Inputs) -> list[str]:
    """Paths and URLs of the videos."""
    return [json.loads(line) for line in (folder.read(VIDEOS) or b'').splitlines()]


def name_of(path: str, root: str) -> str:
    """Name of an input in records: its path below the folder that all inputs share."""
    name = path[len(root) :].lstrip('/')
    return name.encode(errors='backslashreplace').decode()


def list_paths(
    inputs: Sequence[str],
    recursive: bool = True,
    follow_links: bool = False,
    skipped: Skipped | None = None,
    limit: int | None = None,
) -> Iterator[str]:
    """Yield absolute paths and URLs of the inputs, in order.

    Folders, files and globs on this machine are listed as by ``infer``. Those of URLs are listed by
    fsspec, sorted. The lines of a list file ``@FILE``, whose path may be a URL, are used as they
    are: they are neither checked nor held in memory, so a list may have any length.

    Raises:
        SourceError: A path or glob matches nothing.
        OSError: A list cannot be read.
    """
    options = {'recursive': recursive, 'follow_links': follow_links, 'skipped': skipped}
    yield from islice(_all_paths(inputs, options), limit)


def _all_paths(inputs: Sequence[str], options: dict) -> Iterator[str]:
    for kind, group in groupby(inputs, _kind):
        if kind == 'local':
            yield from map(osp.abspath, list_inputs(list(group), **options))
        else:
            for each in group:
                yield from _listed(each[1:]) if kind == 'list' else _found(each, options)


def _kind(text: str) -> str:
    if text.startswith('@'):
        return 'list'
    return 'url' if is_url(text) else 'local'


def _listed(path: str) -> Iterator[str]:
    """The paths in a list file: one per line, or separated by NUL bytes."""
    files, inner = file_system(path)
    try:
        with files.open(inner, 'rb') as file:
            block = file.read(_BLOCK)
            end, rest = (b'\0' if b'\0' in block else b'\n'), b''
            while block:
                *lines, rest = (rest + block).split(end)
                yield from filter(None, map(_line, lines))
                block = file.read(_BLOCK)
            yield from filter(None, map(_line, [rest]))
    except FileNotFoundError as error:
        raise SourceError(f'inputs: the list {path} does not exist') from error


def _line(line: bytes) -> str:
    path = line.removesuffix(b'\r').decode(errors='surrogateescape').removeprefix('file://')
    if not path or path.startswith('#') or is_url(path):
        return '' if path.startswith('#') else path
    if path[0] != '/' or '/.' in path or '//' in path:
        return osp.abspath(path)
    return path


def _found(url: str, options: dict) -> Iterator[str]:
    """URLs of the images and videos of a folder, a glob or a file."""
    files, path = file_system(url)
    if files.isfile(path):
        yield url
        return
    if any(char in path for char in '*?['):
        found = files.glob(path)
    else:
        found = files.find(path, maxdepth=None if options['recursive'] else 1)
    if not found:
        raise SourceError(f'inputs: nothing found: {url}')
    for each in sorted(found):
        if _is_input(each):
            yield files.unstrip_protocol(each)
        elif options['skipped'] is not None:
            options['skipped'].reasons[each] = osp.splitext(each)[1].lower() or 'no suffix'


def _is_input(path: str) -> bool:
    *folders, name = path.split('/')
    if name.startswith('._') or not SIDECAR_FOLDERS.isdisjoint(folders):
        return False
    return is_image_name(name) or is_video_name(name)
