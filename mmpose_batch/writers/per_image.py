"""One JSON file per image, in the format of MMPose's own inferencer."""

import os.path as osp
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .atomic import open_atomically
from .base import Record, Writer, WriterSpec
from .registry import register

if TYPE_CHECKING:
    from ..results import ImageResult

FOLDER = 'predictions'
NAME = 'json'


def write_prediction(folder: str, result: 'ImageResult') -> None:
    """Write ``folder/<relative path>.json``: the instances, in the format of MMPose."""
    import mmengine

    text = mmengine.dump(result.predictions[0], file_format='json', indent='  ')
    with open_atomically(osp.join(folder, f'{result.frame.name}.json')) as file:
        file.write(text.encode())


class PredictionWriter(Writer):
    """Writes ``predictions/<relative path>.json`` for each image that has predictions."""

    def append(self, result: 'ImageResult', record: Record) -> None:
        """See :class:`Writer`."""
        if result.error is None:
            write_prediction(osp.join(self.folder, FOLDER), result)


def paths(names: Iterable[str]) -> Iterator[str]:
    """Paths of the files of images with these names."""
    for name in names:
        yield f'{FOLDER}/{name}.json'


register(
    WriterSpec(
        name=NAME,
        help='one file per image, in the form of upstream MMPose',
        build=lambda context: PredictionWriter(),
        folder=FOLDER,
        paths=paths,
        per_image=True,
        settings=lambda options: NAME in options.formats,
    )
)
