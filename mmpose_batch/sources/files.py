"""Images and videos: folders, globs, list files, single files and URLs."""

import codecs
import os
import os.path as osp
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlparse

from ..config import VideoOptions
from ..errors import SourceError
from ..outputs import EarlierRuns
from .base import Source
from .containers import import_av
from .folders import Places, Skipped, list_images, match
from .items import Items
from .registry import SourceSpec, register
from .video_names import is_video_name


def open_files(inputs: str | Sequence[str], options: VideoOptions | None = None) -> Source:
    """Open files.

    Args:
        inputs: Folder, glob, list file, image file, or URL of an image, see :func:`list_inputs`;
            or a list of paths of images and videos.
        options: Which frames of videos are used.

    Raises:
        SourceError: A path or glob matches nothing, a folder cannot be listed, or there are
            videos and PyAV is not installed.
        ValueError: There are options although there are no videos.
    """
    if isinstance(inputs, str):
        remote = urlparse(inputs).scheme in ('http', 'https', 's3', 'petrel')
        inputs = [inputs] if remote else list_inputs([inputs])
    items = Items([os.fspath(path) for path in inputs], options)
    if items.videos:
        import_av()
    elif replace(items.options, track=False) != VideoOptions():
        raise ValueError('vid_stride, start, end: there are no videos among the inputs')
    return items.source(length=items.estimated())


def list_inputs(
    inputs: Sequence[str],
    recursive: bool = True,
    skipped: Skipped | None = None,
    follow_links: bool = False,
    named: Iterable[str] = (),
    videos: bool = True,
) -> list[str]:
    """List the images and videos of folders, files, globs and list files.

    In folders and globs, :func:`mmpose_batch.sources.folders.list_images` skips sidecars and
    drawings of earlier runs. Files, and folders of drawings, that are named, also in a list file,
    are always used.

    In a list file each line is the path of a file or folder, relative to the working
    directory; a missing file becomes an input that fails. Lines are used literally,
    including ``*`` and ``@``, with these exceptions:

    - Only the line end is removed, LF or CR LF; blanks may belong to a name. Blanks
      around a path are removed where only the path without them exists.
    - Empty lines, and lines that begin with ``#``, are ignored unless a file of exactly
      that name exists.
    - A list with a NUL byte (``find -print0``) is split at these instead of at line
      ends, so that every name can be listed.

    The encoding is UTF-8 (invalid bytes of names are preserved), or UTF-16 with a byte order mark.

    Args:
        inputs: Folders, image and video files, globs (only their images and videos are used),
            and ``@FILE`` for a list file. A file that is reached by several of these, or by
            links, is listed once.
        recursive: Whether to walk subfolders.
        skipped: Collects the files of folders and globs that are not listed; None to not
            collect them.
        follow_links: Whether to walk the targets of links to folders.
        named: Files with another use (annotations, configs), which are not counted as skipped.
        videos: Whether to list the videos of folders and globs too.

    Raises:
        SourceError: A path or glob matches nothing, or a folder cannot be listed.
    """
    runs, places = EarlierRuns(), Places()
    options = {'skipped': skipped, 'runs': runs, 'videos': videos}
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
        for place, path in map(places.of, found):
            paths.setdefault(place, path)
    if skipped:
        for place in (*paths, *(places.of(path)[0] for path in named)):
            skipped.discard(place)
    return list(paths.values())


def _expand(paths: Iterable[str], **walk: Any) -> Iterator[str]:
    """Replace folders by the inputs below them; ``walk`` are options of :func:`list_images`."""
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
        # File names may contain bytes that are not valid text.
        text = data.decode('utf-16' if wide else 'utf-8-sig', errors='surrogateescape')
    except OSError as error:
        raise SourceError(f'inputs: the list {path} cannot be read: {error.strerror}') from error
    except UnicodeError as error:
        raise SourceError(f'inputs: the list {path} is not text') from error
    if '\0' in text:
        return [item for item in text.split('\0') if item]
    return [item for line in text.split('\n') if (item := _listed(line))]


def _listed(line: str) -> str | None:
    """The path in a line of a list file; None for an empty line or a comment.

    Args:
        line: The line without LF; a CR at its end may be part of CR LF or of a name.
    """
    literal, stripped = line.removesuffix('\r'), line.strip()
    for name in (literal, line, stripped):
        if osp.lexists(name):
            return name
    return None if not stripped or stripped.startswith('#') else literal


def _recognises(inputs: Any) -> bool:
    """Whether inputs are a string, or a list of paths, among them videos."""
    if not isinstance(inputs, list | tuple):
        return isinstance(inputs, str)
    paths = [os.fspath(item) for item in inputs if isinstance(item, str | os.PathLike)]
    are_text = len(paths) == len(inputs) and all(isinstance(path, str) for path in paths)
    return are_text and any(map(is_video_name, paths))


register(
    SourceSpec(
        name='files',
        help='a folder, a glob, an image file or URL, `@list.txt`, or a list of paths with videos',
        recognises=_recognises,
        open=open_files,
        has_videos=True,
    )
)
