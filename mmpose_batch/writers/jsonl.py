"""JSON lines: one record an image, in input order, appended as results come."""

import os
import os.path as osp
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import orjson

from ..results import ImageResult

# Decimals written: a thousandth of a pixel, far below what any model resolves.
COORDINATE_DECIMALS = 3
SCORE_DECIMALS = 5


def to_record(result: ImageResult, categories: Mapping[int, int] | None = None) -> dict[str, Any]:
    """The record of one image, or its failure record.

    Args:
        result: Of the image.
        categories: Category id of each label, if instances are to have one.

    Returns:
        ``image`` (path below the input), ``width``, ``height`` and
        ``instances``, each with ``keypoints`` (K x [x, y]), ``keypoint_scores``
        (K), ``bbox`` ([x1, y1, x2, y2]) and ``bbox_score``, all in pixels of
        the image; or ``image`` and ``error``. With ``categories``, instances also have a
        ``category_id``: None where their label has none.
    """
    if result.error is not None:
        # A library may quote a file name that is no text.
        error = result.error.encode(errors='backslashreplace').decode()
        return {'image': result.frame.name, 'error': error}
    width, height = result.size
    instances = []
    for sample in result.data_samples:
        found = sample.pred_instances
        columns = {
            'keypoints': _rounded(found.keypoints, COORDINATE_DECIMALS),
            'keypoint_scores': _rounded(found.keypoint_scores, SCORE_DECIMALS),
        }
        if 'bboxes' in found:
            columns['bbox'] = _rounded(found.bboxes, COORDINATE_DECIMALS)
        if 'bbox_scores' in found:
            columns['bbox_score'] = _rounded(found.bbox_scores, SCORE_DECIMALS)
        if categories is not None and 'labels' in found:
            columns['category_id'] = [categories.get(label) for label in found.labels.tolist()]
        rows = zip(*columns.values(), strict=True)
        instances += [dict(zip(columns, row, strict=True)) for row in rows]
    return {'image': result.frame.name, 'width': width, 'height': height, 'instances': instances}


def _rounded(values: np.ndarray, decimals: int) -> list:
    return np.round(np.asarray(values, dtype=np.float64), decimals).tolist()


class JsonLinesWriter:
    """Appends records to a file; a line on disk is a whole record.

    Args:
        path: Of the file.
        keep_bytes: Length of what an earlier run left and this one goes on
            from; the rest is cut off.
    """

    def __init__(self, path: str, keep_bytes: int = 0) -> None:
        self.path = path
        self._keep_bytes = keep_bytes

    def __enter__(self) -> 'JsonLinesWriter':
        os.makedirs(osp.dirname(self.path) or '.', exist_ok=True)
        self._file = open(self.path, 'ab')
        if self._file.seekable() and osp.isfile(self.path):
            self._file.truncate(self._keep_bytes)
        return self

    def append(self, record: dict[str, Any]) -> None:
        """Append one record and hand it to the operating system.

        Raises:
            OSError: The disk is full.
        """
        self._file.write(orjson.dumps(record) + b'\n')
        self._file.flush()

    def sync(self) -> None:
        """Wait until everything appended survives a power cut."""
        self._file.flush()
        if osp.isfile(self.path):
            os.fsync(self._file.fileno())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.sync()
        finally:
            self._file.close()


def read_records(path: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each whole record of a file and the offset of its end, in bytes.

    Stops at the first line that is not a whole record, as a killed run leaves it.
    """
    offset = 0
    with open(path, 'rb') as file:
        for line in file:
            if not line.endswith(b'\n'):
                return
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                return
            offset += len(line)
            yield record, offset
