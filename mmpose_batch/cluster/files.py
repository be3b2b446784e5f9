"""Files in a folder that all nodes of a cluster see: a path, or a URL of an fsspec file system."""

import os
import os.path as osp
import posixpath
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, BinaryIO

from ..errors import FolderInUse, RunError
from ..runs.locking import locked
from ..writers.atomic import open_atomically


def is_url(path: str) -> bool:
    """Whether a path is a URL, such as ``s3://bucket/photos``."""
    return '://' in path


def import_fsspec() -> Any:
    """Import ``fsspec``, which reads and writes all file systems.

    Raises:
        RunError: It is not installed. The message is one line.
    """
    try:
        import fsspec
    except ImportError as error:
        raise RunError(
            f"files: fsspec is missing: pip install 'mmpose-batch[ray]' ({error})"
        ) from error
    return fsspec


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path in it.

    Listings are not cached, since other processes write files.

    Raises:
        RunError: The package of the file system is missing, such as ``s3fs``.
    """
    fsspec = import_fsspec()
    try:
        return fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise RunError(f'{url}: {error}') from error


class ClusterFolder:
    """A folder that all nodes see. It is pickled as its URL.

    Files are written atomically: a file is complete or absent, for every reader. An object store
    guarantees that; in a folder, a file is written aside, flushed and renamed.

    Args:
        url: Path or URL of the folder, which need not exist.

    Raises:
        RunError: The package of the file system is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url if is_url(url) else osp.abspath(url)
        self._files, self._path = file_system(self.url)
        self._is_local = 'file' in self._files.protocol

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.url,)

    @property
    def remote(self) -> Any:
        """The fsspec file system; None for a folder of this machine or a mounted one."""
        return None if self._is_local else self._files

    def check(self) -> None:
        """Check that no file is where the folder is to be, if it is a path.

        Raises:
            RunError: There is one.
        """
        path = self._path
        while self._is_local and not osp.lexists(path):
            path = osp.dirname(path)
        if self._is_local and not osp.isdir(path):
            raise RunError(f'cannot write below {self.url}: {path} is not a folder')

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for one driver, if it is a path: fsspec has no locks for the others.

        Raises:
            RunError: Another driver, or a run of one machine, has locked it.
            OSError: The folder cannot be created.
        """
        with ExitStack() as stack:
            if self._is_local:
                try:
                    stack.enter_context(locked(self._path))
                except FolderInUse as error:
                    raise RunError(f'{error}; wait for its end, or name another folder') from error
            yield

    def path(self, name: str) -> str:
        """The path of a file, in its file system."""
        return posixpath.join(self._path, name)

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        return self._files.exists(self.path(name))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """The bytes of a file, or some of them; None if it does not exist.

        Raises:
            OSError: It cannot be read.
        """
        try:
            return self._files.cat_file(self.path(name), start=start, end=end)
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically; an existing one is replaced.

        Raises:
            OSError: It cannot be written.
        """
        if self._is_local:
            with open_atomically(self.path(name)) as file:
                file.write(data)
        else:
            self._files.pipe_file(self.path(name), data)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Open a large file, which is replaced when the ``with`` block ends without an error.

        Raises:
            OSError: It cannot be written.
        """
        if self._is_local:
            with open_atomically(self.path(name)) as file:
                yield file
            return
        file = self._files.open(self.path(name), 'wb')
        try:
            yield file
        except BaseException:
            with suppress(Exception):
                file.discard()
            with suppress(AttributeError):
                file.closed = True  # else the part that is written would become the file
            raise
        file.close()

    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder; none if it does not exist.

        Raises:
            OSError: The folder cannot be listed.
        """
        with suppress(FileNotFoundError, NotADirectoryError):
            if self._is_local:  # ten times faster than fsspec, which asks for each file's size
                return set(os.listdir(self.path(folder)))
            return {posixpath.basename(path) for path in self._files.ls(self.path(folder), False)}
        return set()

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        with suppress(FileNotFoundError):
            self._files.rm_file(self.path(name))
