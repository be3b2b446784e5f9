"""Lets MMEngine read images of any fsspec file system: imported as ``custom_imports`` of a config.

MMEngine registers file backends by the prefix of a path. Its own backend for ``s3://`` needs a
package that is not public, so it is replaced in processes that import this module, and only there.
"""

from typing import Any

from mmengine.fileio import BaseStorageBackend, register_backend

from .files import file_system

# Protocols for which fsspec has a file system, and MMEngine none that can be installed.
PROTOCOLS = ('s3', 's3a', 'gs', 'gcs', 'az', 'abfs', 'abfss', 'hdfs', 'oss', 'memory')


class FsspecBackend(BaseStorageBackend):
    """Reads a file from the file system of its URL."""

    def __init__(self, **_: Any) -> None:
        pass  # credentials are those of the process, as fsspec finds them

    def get(self, filepath: str) -> bytes:
        """The bytes of a file.

        Raises:
            OSError: It cannot be read.
        """
        files, path = file_system(str(filepath))
        return files.cat_file(path)

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        """The text of a file."""
        return self.get(filepath).decode(encoding)


register_backend('fsspec', FsspecBackend, force=True, prefixes=list(PROTOCOLS))
