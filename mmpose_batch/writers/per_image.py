"""One JSON file per image or video, in the format of MMPose's own inferencer."""

import os
import os.path as osp
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .atomic import open_atomically
from .base import FinishedRun, Record, ResumePoint, Writer, WriterSpec
from .registry import register

if TYPE_CHECKING:
    from ..results import ImageResult

FOLDER = 'predictions'
NAME = 'json'


def write_prediction(folder: str, result: 'ImageResult') -> None:
    """Write ``folder/<relative path>.json``: the instances, in the format of MMPose."""
    text = _dump(result.predictions[0], indent='  ')
    with open_atomically(osp.join(folder, f'{result.frame.name}.json')) as file:
        file.write(text)


def _dump(value: Any, **options: Any) -> bytes:
    import mmengine

    return mmengine.dump(value, file_format='json', **options).encode()


class FramesFile:
    """The JSON file of a video or camera, an array that grows by one line per frame.

    Each element is an object with ``frame_id`` and ``instances``, as upstream MMPose writes it.

    Args:
        path: Path of the file.
        frames: Number of frames at its beginning that stay; the rest is truncated.
    """

    def __init__(self, path: str, frames: int = 0) -> None:
        os.makedirs(osp.dirname(path) or '.', exist_ok=True)
        self._file = open(path, 'r+b' if frames else 'wb')  # noqa: SIM115 (closed by the writer)
        self._frames = frames
        if not frames:
            self._file.write(b'[')
            return
        for _ in range(1 + frames):
            last = self._file.readline()
        self._file.seek(len(last.rstrip(b',\n')) - len(last), os.SEEK_CUR)
        self._file.truncate()

    def append(self, result: 'ImageResult') -> None:
        """Append one frame.

        Raises:
            OSError: The disk is full.
        """
        number = result.frame.index if result.frame.frame_id is None else result.frame.frame_id
        frame = {'frame_id': number, 'instances': result.predictions[0]}
        self._file.write((b',\n' if self._frames else b'\n') + _dump(frame))
        self._frames += 1

    def sync(self) -> None:
        """Flush the file to disk.

        Raises:
            OSError: The disk is full.
        """
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """End the array, and close the file.

        Raises:
            OSError: The disk is full.
        """
        self._file.write(b'\n]\n')
        self.sync()
        self._file.close()

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()


class PredictionWriter(Writer):
    """Writes ``predictions/<relative path>.json`` for each image or video with predictions.

    Frames without predictions are not in the file of their video.
    """

    def __init__(self) -> None:
        self._video = ''
        self._frames: FramesFile | None = None

    def open(self, folder: str, resume: ResumePoint) -> None:
        """See :class:`Writer`."""
        super().open(folder, resume)
        video, frames = '', 0
        for record in resume.records():
            if record.get('video', '') != video:
                video, frames = record.get('video', ''), 0
            frames += 'instances' in record
        if video and frames:
            self._open(video, frames)

    def append(self, result: 'ImageResult', record: Record) -> None:
        """See :class:`Writer`."""
        if result.error is not None:
            return
        if result.frame.frame_id is None:
            write_prediction(osp.join(self.folder, FOLDER), result)
            return
        if result.frame.name != self._video:
            self._end()
            self._open(result.frame.name)
        self._frames.append(result)

    def _open(self, video: str, frames: int = 0) -> None:
        self._frames = FramesFile(osp.join(self.folder, FOLDER, f'{video}.json'), frames)
        self._video = video

    def _end(self) -> None:
        if self._frames is not None:
            self._frames.finish()
        self._video, self._frames = '', None

    def sync(self) -> None:
        """See :class:`Writer`."""
        if self._frames is not None:
            self._frames.sync()

    def finish(self, run: FinishedRun) -> None:
        """See :class:`Writer`."""
        self._end()

    def close(self) -> None:
        """See :class:`Writer`."""
        if self._frames is not None:
            self._frames.close()


def paths(names: Iterable[str]) -> Iterator[str]:
    """Paths of the files of images and videos with these names."""
    for name in names:
        yield f'{FOLDER}/{name}.json'


register(
    WriterSpec(
        name=NAME,
        help='one file per image or video, in the form of upstream MMPose',
        build=lambda context: PredictionWriter(),
        folder=FOLDER,
        paths=paths,
        per_image=True,
        settings=lambda options: NAME in options.formats,
    )
)
