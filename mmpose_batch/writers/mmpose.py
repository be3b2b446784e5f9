"""The files of MMPose's own inferencer: drawings, and one JSON file per image or video.

They are not an output format of a run: :meth:`BatchPose2DInferencer.__call__` writes them.
"""

import os
import os.path as osp
from contextlib import ExitStack
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING

from .drawing import write_drawing
from .per_image import FramesFile

if TYPE_CHECKING:
    import numpy as np

    from ..results import ImageResult
    from ..sources.base import Frame, Source
    from .video.encoding import VideoFile


# Unit of the times of drawn frames, in seconds; a multiple of the usual frame times.
_UNIT = Fraction(1, 90_000)


# Suffixes of containers that are written; drawings of other videos are MP4 files.
_WRITTEN = ('.avi', '.mkv', '.mov', '.mp4')


class MMPoseWriter:
    """Writes drawings and predictions as upstream MMPose does, result by result.

    Files have the path of their image or video below the input, so files of the same name in two
    folders do not collide. The frames of a video or camera become one video and one JSON file,
    which grow frame by frame.

    Args:
        source: Source of the results.
        vis_out_dir: Folder for drawings (for one video also a file); empty to write none.
        pred_out_dir: Folder for predictions; empty to write none.
    """

    def __init__(self, source: 'Source', vis_out_dir: str, pred_out_dir: str) -> None:
        self._source = source
        self._vis_out_dir = vis_out_dir
        self._pred_out_dir = pred_out_dir
        self._video: _VideoFiles | None = None

    def write(self, result: 'ImageResult', drawn: 'np.ndarray | None') -> None:
        """Write one result; ``drawn`` is its drawing (H, W, 3), uint8, RGB."""
        if result.frame.source_id:
            self._files_of(result).write(result, drawn)
            return
        self._close(None)
        if self._vis_out_dir and drawn is not None:
            write_drawing(self._vis_out_dir, result, drawn)
        if self._pred_out_dir:
            name = osp.splitext(result.frame.name)[0]
            _write_prediction(result, osp.join(self._pred_out_dir, f'{name}.json'))

    def _files_of(self, result: 'ImageResult') -> '_VideoFiles':
        """Files of the video that a frame is from; those of the video before are completed."""
        frame = result.frame
        # Frames of a video have its name, those of a camera each another one.
        video = frame.source_id if frame.frame_id is None else frame.name
        if self._video is None or self._video.video != video:
            self._close(None)
            name, path = self._source.video_name or frame.name, self._vis_out_dir
            if path and not (self._source.video_name and osp.splitext(path)[1]):
                path = osp.join(path, name if name.lower().endswith(_WRITTEN) else f'{name}.mp4')
            predictions = self._pred_out_dir
            # In a folder, an image or another video may have the same stem.
            stem = osp.splitext(name)[0] if self._source.video_name else name
            predictions = predictions and osp.join(predictions, f'{stem}.json')
            rate = Fraction(self._source.fps or 25).limit_denominator(1001)
            self._video = _VideoFiles(video, path, predictions, rate)
        return self._video

    def __enter__(self) -> 'MMPoseWriter':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(error)

    def _close(self, error: BaseException | None) -> None:
        video, self._video = self._video, None
        if video is not None:
            video.close(error)


class _VideoFiles:
    """The video and the JSON file of one video or camera.

    Args:
        video: Identifies the video or camera.
        drawn_path: Path of the video with drawings; empty to write none.
        json_path: Path of the JSON file; empty to write none.
        rate: Frames per second.
    """

    def __init__(self, video: str, drawn_path: str, json_path: str, rate: Fraction) -> None:
        self.video = video
        self._drawn_path, self._json_path = drawn_path, json_path
        self._rate = rate
        self._files = ExitStack()
        self._drawn: VideoFile | None = None
        self._json: FramesFile | None = None
        self._first = 0

    def write(self, result: 'ImageResult', drawn: 'np.ndarray | None') -> None:
        """Add one frame."""
        if self._drawn_path and drawn is not None:
            self._write_drawing(result.frame, drawn)
        if self._json_path:
            self._json = self._json or FramesFile(self._json_path)
            self._json.append(result)

    def _write_drawing(self, frame: 'Frame', drawn: 'np.ndarray') -> None:
        from .video.encoding import VideoFile, open_output, to_even_size, to_yuv

        picture = to_yuv(to_even_size(drawn[..., ::-1]))
        if self._drawn is None:
            container = self._files.enter_context(open_output(self._drawn_path))
            self._drawn = VideoFile(container, (picture.width, picture.height), _UNIT, self._rate)
            self._first = frame.index
        time = frame.time
        time = (frame.index - self._first) / self._rate if time is None else time
        self._drawn.write(picture, round(time / _UNIT))

    def close(self, error: BaseException | None) -> None:
        """Complete the files; after an error of the encoder, the video is removed.

        Raises:
            OSError: They cannot be completed.
        """
        if self._json is not None:
            self._json.finish()
        if self._drawn is None:
            return
        import av

        with self._files:
            if isinstance(error, av.FFmpegError):
                raise error  # removes the file, and becomes an OSError
            self._drawn.finish()


def _write_prediction(result: 'ImageResult', path: str) -> None:
    import mmengine

    os.makedirs(osp.dirname(path), exist_ok=True)
    predictions = result.predictions
    mmengine.dump(predictions[0] if len(predictions) == 1 else predictions, path, indent='  ')
