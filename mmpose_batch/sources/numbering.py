"""Numbers paths and arrays, and gives each frame a unique name."""

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
    """Number image paths and arrays and name each by its path below their common folder.

    Frames are read several items ahead. An array is copied before the next item is asked
    for, as its producer may write the next image to the same memory; those of a list or
    tuple, which exist at the same time, are used as they are.

    Args:
        items: Paths, and arrays (H, W, 3), uint8, in BGR.
        fresh: Whether every array is new memory that nothing else writes to: no copies.
        source_id: Video or camera that the frames are of.
        clock: Time of the frame at an index, in seconds, when it is read.

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
            advice = advice_on(item) or _FLAT * isinstance(item, Iterable)
            raise SourceError(
                f'inputs: expected paths or arrays, found {type(item).__name__} at {index}{advice}'
            )
        time = None if clock is None else clock(index)
        yield Frame(index, item, name, source_id=source_id, time=time)


# How to turn other forms of an image into an array, by the package and name of their type.
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


def advice_on(item: Any) -> str:
    """How to turn an input of another type into an array; empty if that is not known."""
    for kind in type(item).__mro__:
        if text := _ADVICE.get((kind.__module__.partition('.')[0], kind.__name__)):
            return f': {text}'
    return ''


def _relative_name(path: str, root: str | None) -> str:
    """Path of the outputs of ``path`` below an output folder, never outside it."""
    absolute = osp.abspath(path)
    if root is None:  # a stream, whose common folder is not known yet
        root = os.getcwd() if absolute.startswith(os.getcwd() + os.sep) else os.sep
    name = osp.relpath(absolute, root)
    # Records and output files have the same names on every system.
    return name.replace(os.sep, '/').encode(errors='backslashreplace').decode()
