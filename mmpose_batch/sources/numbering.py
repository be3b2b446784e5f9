"""Numbering of paths and arrays, with a unique name for each frame."""

import os
import os.path as osp
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import SourceError
from .base import Frame


def number(
    items: Iterable,
    fresh: bool = False,
    source_id: str = '',
    clock: Callable[[int], float] | None = None,
) -> Iterator[Frame]:
    """Number image paths and arrays, and name each by its path below their common folder.

    Frames are read several items ahead. Therefore an array is copied before the next item is
    requested, since its producer may write the next image to the same memory; the arrays of a
    list or tuple are used without a copy.

    Args:
        items: Paths, and uint8 arrays (H, W, 3) in BGR.
        fresh: Whether every array is new memory that nothing else writes to, so that no copies
            are needed.
        source_id: Identifies the video or camera of the frames.
        clock: Maps the index of a frame, when it is read, to its time in seconds.

    Raises:
        SourceError: An item is neither a path nor an array.
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
            advice = advice_on(item) or _FLAT * isinstance(item, Iterable)
            raise SourceError(
                f'inputs: expected paths or arrays, found {type(item).__name__} at {index}{advice}'
            )
        time = None if clock is None else clock(index)
        yield Frame(index, item, name, source_id=source_id, time=time)


# How to convert other image types to an array, by package and name of the type.
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
_FLAT = ': for images in groups, itertools.chain.from_iterable(groups) yields single images'


def advice_on(item: Any) -> str:
    """How to convert an input of another type to an array; empty if unknown."""
    for kind in type(item).__mro__:
        if text := _ADVICE.get((kind.__module__.partition('.')[0], kind.__name__)):
            return f': {text}'
    return ''


def _relative_name(path: str, root: str | None) -> str:
    """Relative path of the outputs for ``path``, never outside the output folder."""
    absolute = osp.abspath(path)
    if root is None:  # a stream, whose common folder is not known yet
        root = os.getcwd() if absolute.startswith(os.getcwd() + os.sep) else os.sep
    name = osp.relpath(absolute, root)
    # Records and output files have the same names on every system.
    return name.replace(os.sep, '/').encode(errors='backslashreplace').decode()
