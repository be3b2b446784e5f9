"""Lists the images and videos of folders and globs, and records the files that are skipped."""

import glob
import os
import os.path as osp
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..errors import SourceError
from ..outputs import DRAWINGS, EarlierRuns
from .heif import extra_suffixes
from .video_names import is_video_name

# Image formats that OpenCV decodes. Other files in a folder are skipped.
IMAGE_SUFFIXES = frozenset(
    '.' + suffix
    for suffix in (
        *('avif', 'bmp', 'dib', 'gif', 'jfif', 'jp2', 'jpe', 'jpeg', 'jpg', 'pbm'),
        *('pgm', 'png', 'pnm', 'ppm', 'tif', 'tiff', 'webp'),
    )
)

# Folders that other programs create next to images, for thumbnails and metadata: unpacked
# archives of macOS, network storage (Synology, netatalk, QNAP), Jupyter.
SIDECAR_FOLDERS = frozenset(
    ('__MACOSX', '@eaDir', '.AppleDouble', '.@__thumb', '.ipynb_checkpoints')
)

# Maximum number of suffixes in a summary: a folder of `log.0001`, `log.0002`, ... has many.
MAX_SUFFIXES = 5

# Reasons to skip a file other than its suffix (`.txt`), and their phrases in the summary.
HIDDEN, LINKED, BROKEN, DRAWN = 'hidden', 'linked folder', 'broken link', 'drawing'
_PHRASES = {
    HIDDEN: ('{} hidden', '{} hidden'),
    LINKED: ('{} linked folder', '{} linked folders'),
    BROKEN: ('{} broken link', '{} broken links'),
    DRAWN: ('{} drawing of earlier runs', '{} drawings of earlier runs'),
}

# Separators of path components, and `**` as a component of a glob.
_SEPARATOR = f'[{re.escape(os.sep + (os.altsep or ""))}]'
_ANY_DEPTH = re.compile(rf'(?:^|(?<={_SEPARATOR}))\*\*(?:$|{_SEPARATOR}+)')


class Places:
    """Identifies files that are reached by several paths; resolves each folder once."""

    def __init__(self) -> None:
        self._folders: dict[str, tuple[str, str]] = {}  # with a separator at the end

    def of(self, path: str) -> tuple[str, str]:
        """The path of a file with its folder's links resolved, and its normalised path."""
        folder, name = osp.split(path)
        if name in ('', os.curdir, os.pardir):  # the file does not exist
            folder, name = osp.split(osp.normpath(path))
        if folder not in self._folders:
            real, normal = osp.realpath(folder), osp.normpath(folder)
            # `link/..` is not the folder that contains the link.
            if folder.count('..') != normal.count('..') and real != osp.realpath(normal):
                normal = real
            self._folders[folder] = (
                osp.join(real, ''),
                '' if normal == os.curdir else osp.join(normal, ''),
            )
        real, normal = self._folders[folder]
        return real + name, normal + name


@dataclass(slots=True)
class Skipped:
    """Files of folders and globs that were not listed as inputs, each counted once.

    Attributes:
        reasons: Why each file was skipped: its suffix, in lower case, or ``'no suffix'``; or
            ``HIDDEN``, a sidecar (``._x.jpg``, or a folder such as ``@eaDir``, which is not
            opened and counted once) or another hidden file that is not an image; ``LINKED``,
            a link to a folder, which is not followed; ``BROKEN``, a broken link without the
            suffix of an image; ``DRAWN``, a drawing of an earlier run.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    places: Places = field(default_factory=Places)

    def add(self, path: str, reason: str | None = None, linked: bool = False) -> None:
        """Count a file that is not listed.

        Args:
            path: Path of the file.
            reason: Why it is not listed; None derives that from its name.
            linked: Whether it is a symbolic link.
        """
        if reason is None:
            reason = _reason(path, linked)
        self.reasons[self.places.of(path)[0]] = reason

    def discard(self, place: str) -> None:
        """Stop counting a file that is used after all; ``place`` is from :meth:`Places.of`."""
        self.reasons.pop(place, None)

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def __str__(self) -> str:
        """One line such as ``skipped: 3 .nef, 2 .txt, 1 linked folder``."""
        counts = Counter(self.reasons.values())
        others = {reason: counts.pop(reason, 0) for reason in _PHRASES}
        common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_SUFFIXES]
        # A suffix may contain line ends and bytes that are not valid text.
        parts = [f'{count} {printable(suffix)}' for suffix, count in common]
        rest = counts.total() - sum(count for _, count in common)
        if rest:
            parts.append(f'{rest} with other suffixes')
        parts += [_PHRASES[r][n > 1].format(n) for r, n in others.items() if n]
        return f'skipped: {", ".join(parts) or "nothing"}'


def _reason(path: str, linked: bool) -> str:
    name = osp.basename(path)
    if linked and osp.isdir(path):
        return LINKED
    if name.startswith('.'):
        return HIDDEN
    if linked and not osp.exists(path):
        return BROKEN
    return osp.splitext(name)[1].lower() or 'no suffix'


def printable(text: str) -> str:
    """``text`` on one line, in characters that every terminal can print."""
    return ''.join(char if char.isprintable() else '?' for char in text)


def is_image_name(path: str) -> bool:
    """Whether a file's name has the suffix of an image that can be decoded."""
    suffix = osp.splitext(path)[1].lower()
    return suffix in IMAGE_SUFFIXES or suffix in extra_suffixes()


def is_input(path: str) -> bool:
    """Whether a file is listed: its name has the suffix of an image or a video.

    Files of TypeScript have the suffix of MPEG transport streams, so these are opened.
    """
    if is_image_name(path) or not path.lower().endswith(('.ts', '.mts')):
        return is_image_name(path) or is_video_name(path)
    try:
        with open(path, 'rb') as file:
            head = file.read(5)
    except OSError:
        return True  # it will fail
    return b'G' in (head[:1], head[4:5])  # the sync byte, after a time of 4 bytes in M2TS


def _is_sidecar(name: str) -> bool:
    """Whether a file is an AppleDouble file of macOS, with metadata of an image."""
    return name.startswith('._')


# ------------------------------------------------------------------------------- folders


def list_images(
    folder: str,
    recursive: bool = True,
    skipped: Skipped | None = None,
    follow_links: bool = False,
    runs: EarlierRuns | None = None,
    videos: bool = True,
) -> Iterator[str]:
    """Yield the image and video files below ``folder`` in sorted order, by suffix.

    Sidecars of images are not listed. Nor are drawings of earlier runs of this package whose
    output folder is ``folder`` or lies below it: the files in ``vis/`` that a run wrote
    according to its ``run.json`` and ``predictions.jsonl``
    (:func:`mmpose_batch.outputs.written`).

    Symbolic links to folders are not followed, so that no file is listed twice, unless
    ``follow_links``: then the files of linked folders come last, and each folder is
    walked once, however many links lead to it.

    A folder below that cannot be listed is yielded itself, as an input that will fail; so are
    folders and files whose path is too long for the system (4,096 bytes on Linux), and
    entries whose type the system cannot determine.

    Memory is needed for the entries of one folder per level of depth. The depth is not limited.

    Args:
        folder: The folder. It is walked even if its name is that of a sidecar.
        recursive: Whether to walk subfolders.
        skipped: Collects all other files, sidecars, drawings, and links to folders.
        follow_links: Whether to walk linked folders too; requires ``recursive``.
        runs: Cache of earlier runs, so that each is read once.
        videos: Whether to list videos too.

    Raises:
        SourceError: ``folder`` cannot be listed.
    """
    walk = _Walk(recursive, follow_links and recursive, skipped, runs or EarlierRuns(), videos)
    try:
        entries = walk.open(folder)
    except OSError as error:
        raise SourceError(
            f'inputs: {printable(folder)} cannot be listed: {error.strerror}'
        ) from error
    yield from walk.below(entries)
    yield from walk.linked()


class _Walk:
    """A walk through a folder; the arguments are those of :func:`list_images`."""

    def __init__(
        self,
        recursive: bool,
        follow_links: bool,
        skipped: Skipped | None,
        runs: EarlierRuns,
        videos: bool,
    ) -> None:
        self._is_listed = is_input if videos else is_image_name
        self._recursive = recursive
        self._skipped = skipped
        self._runs = runs
        self._drawings: set[str] = set()
        self._links: deque[str] = deque()
        self._walked = _Walked() if follow_links else None

    def open(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """Entries of a folder, sorted by name; none if links are followed and it has been walked.

        Raises:
            OSError: It cannot be listed.
        """
        if self._walked is not None and not self._walked.add(folder):
            return iter(())
        return _entries(folder)

    def below(self, entries: Iterator[os.DirEntry[str]]) -> Iterator[str]:
        """Yield the inputs among the entries of a folder and in the folders below it."""
        levels = [entries]
        while levels:
            entry = next(levels[-1], None)
            if entry is None:
                levels.pop()
                continue
            try:
                is_folder, known = entry.is_dir(follow_symlinks=False), True
            except OSError:  # its type is unknown: listing it will fail
                is_folder, known = True, False
            if not is_folder:
                if self._is_input(entry):
                    yield entry.path
            elif self._enters(entry):
                try:
                    levels.append(self.open(entry.path))
                except OSError:
                    yield entry.path
            elif not known:
                yield entry.path

    def linked(self) -> Iterator[str]:
        """Yield the inputs below the folders that links lead to."""
        while self._links:
            link = self._links.popleft()
            for run, path in self._runs.around(link):
                self._find_drawings(link, path, self._runs.drawn(run))
            try:
                entries = self.open(link)
            except OSError:
                yield link
                continue
            yield from self.below(entries)

    def _enters(self, entry: os.DirEntry[str]) -> bool:
        """Whether to walk a folder; if it contains drawings of an earlier run, finds them."""
        if not self._recursive:
            return False
        if entry.name in SIDECAR_FOLDERS:
            self._skip(entry, HIDDEN)
            return False
        if entry.name == DRAWINGS:
            self._find_drawings(entry.path, DRAWINGS, self._runs.drawn(osp.dirname(entry.path)))
        return True

    def _find_drawings(self, folder: str, path: str, drawn: Iterable[str]) -> None:
        """Find the drawings of a run below ``folder``, which is at ``path`` in the run's folder."""
        below = (name.removeprefix(f'{path}/') for name in drawn if name.startswith(f'{path}/'))
        self._drawings.update(osp.join(folder, *name.split('/')) for name in below)

    def _is_input(self, entry: os.DirEntry[str]) -> bool:
        """Whether to list a file; queues links to folders, and records skipped files."""
        if self._walked is not None and entry.is_symlink() and osp.isdir(entry.path):
            if entry.name in SIDECAR_FOLDERS:
                self._skip(entry, HIDDEN)
            else:
                self._links.append(entry.path)
            return False
        if self._drawings and entry.path in self._drawings:
            self._skip(entry, DRAWN)
            return False
        if self._is_listed(entry.path) and not _is_sidecar(entry.name):
            return True
        self._skip(entry)
        return False

    def _skip(self, entry: os.DirEntry[str], reason: str | None = None) -> None:
        if self._skipped is not None:
            self._skipped.add(entry.path, reason, linked=entry.is_symlink())


class _Walked:
    """Folders that were walked already, by any path."""

    def __init__(self) -> None:
        self._known: set[tuple[int, int]] = set()

    def add(self, folder: str) -> bool:
        """Add a folder; returns whether it was not walked yet.

        Raises:
            OSError: It does not exist.
        """
        info = os.stat(folder or os.curdir)
        key = (info.st_dev, info.st_ino)
        new = key not in self._known
        self._known.add(key)
        return new


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder, sorted by name."""
    with os.scandir(folder or os.curdir) as entries:
        return iter(sorted(entries, key=lambda entry: entry.name))


# --------------------------------------------------------------------------------- globs


def match(
    pattern: str,
    skipped: Skipped | None = None,
    runs: EarlierRuns | None = None,
    videos: bool = True,
) -> list[str]:
    """List the images and videos that a glob matches, sorted.

    Sidecars and drawings of earlier runs are skipped as in folders, unless the pattern names the
    folder that they are in.

    Raises:
        SourceError: No file or no image matches.
    """
    found = sorted(set(_glob(pattern)))
    if not found:
        raise SourceError(f'inputs: no such file or folder: {printable(pattern)}')
    named = re.split(_SEPARATOR, pattern)
    drawings = None if DRAWINGS in named else _Drawings(pattern, runs or EarlierRuns())
    is_listed = is_input if videos else is_image_name
    inputs = []
    for path in found:
        if osp.isdir(path):
            continue
        found_in = SIDECAR_FOLDERS.intersection(re.split(_SEPARATOR, path))
        reason = None
        if not found_in.issubset(named):
            reason = HIDDEN
        elif drawings is not None and path in drawings:
            reason = DRAWN
        if reason is None and is_listed(path):
            inputs.append(path)
        elif skipped is not None:
            skipped.add(path, reason, linked=osp.islink(path))
    if not inputs:
        raise SourceError(f'inputs: no images or videos match {printable(pattern)}')
    return inputs


class _Drawings:
    """Drawings of earlier runs among the matches of a glob."""

    def __init__(self, pattern: str, runs: EarlierRuns) -> None:
        self._runs = runs
        self._folders: dict[str, list[tuple[str, str]]] = {}
        head = pattern[: re.search(r'[*?[]|$', pattern).start()]
        # A pattern that starts in the drawings of a run selects them on purpose.
        self._named = {run for run, _ in runs.around(osp.dirname(head))}

    def __contains__(self, path: str) -> bool:
        folder, separator, name = path.rpartition(os.sep)
        folder += separator
        if folder not in self._folders:
            around = self._runs.around(folder)
            self._folders[folder] = [item for item in around if item[0] not in self._named]
        return any(
            f'{below}/{name}' in self._runs.drawn(run) for run, below in self._folders[folder]
        )


def _glob(pattern: str, root: str = '') -> Iterator[str]:
    """Yield the matches of ``pattern`` below ``root``, to any depth.

    ``glob`` itself recurses for ``**``, which fails at a depth of about 1,000.
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
    """Yield ``start`` and the folders below it as ``**`` does: linked ones too, hidden ones not.

    Each folder is yielded once, by its own path if that is below ``start``.
    """
    walked = _Walked()
    waiting, links = [start], deque[str]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.popleft()
        try:
            if not walked.add(folder):
                continue
        except OSError:
            continue
        yield folder
        try:
            with os.scandir(folder or os.curdir) as entries:
                below = [entry for entry in entries if _leads_below(entry)]
        except OSError:
            continue
        for entry in sorted(below, key=lambda entry: entry.name):
            (links if entry.is_symlink() else waiting).append(osp.join(folder, entry.name))


def _leads_below(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder that is not hidden, or a link to one."""
    try:
        return entry.is_dir() and not entry.name.startswith('.')
    except OSError:  # for example a link to itself
        return False
