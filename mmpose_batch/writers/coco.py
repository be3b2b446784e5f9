"""COCO keypoint results, derived from the records of a run at its end."""

import os.path as osp
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from .atomic import open_atomically
from .base import FinishedRun, Record, Writer, WriterSpec
from .registry import register

if TYPE_CHECKING:
    from ..results import ImageResult

FILE = 'predictions.coco.json'


def write_coco(path: str, results: Iterable[Mapping[str, Any]]) -> None:
    """Write COCO results as one JSON array, atomically.

    Raises:
        OSError: The disk is full.
    """
    with open_atomically(path) as file:
        separator = b'[\n'
        for result in results:
            file.write(separator + orjson.dumps(result))
            separator = b',\n'
        file.write(b'[]\n' if separator == b'[\n' else b'\n]\n')


class CocoWriter(Writer):
    """Writes ``predictions.coco.json`` from the scored results of the complete run."""

    def append(self, result: 'ImageResult', record: Record) -> None:
        """Do nothing: the records contain everything that is needed."""

    def finish(self, run: FinishedRun) -> None:
        """See :class:`Writer`."""
        write_coco(osp.join(self.folder, FILE), run.scored())


register(
    WriterSpec(
        name='coco',
        help='COCO keypoint results of all images, written at the end',
        build=lambda context: CocoWriter(),
        files=(FILE,),
        derived=True,
        scored=True,
    )
)
