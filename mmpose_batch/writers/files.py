"""Writing files so that what is on disk is whole or absent."""

import os
import os.path as osp


def write_atomically(path: str, data: bytes) -> None:
    """Write ``data`` to ``path``, which at no moment holds a part of it.

    Raises:
        OSError: The folder cannot be made or the disk is full.
    """
    os.makedirs(osp.dirname(path) or '.', exist_ok=True)
    partial = f'{path}.{os.getpid()}.partial'
    try:
        with open(partial, 'wb') as file:
            file.write(data)
        os.replace(partial, path)
    except OSError:
        if osp.lexists(partial):
            os.unlink(partial)
        raise
