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

if TYPE_CHECKING:
    import numpy as np

    from ..results import ImageResult
    from ..sources.base import Source
    from .video.encoding import VideoFile


# Unit of the times of drawn frames, in seconds; a multiple of the usual frame times.
_UNIT = Fraction(1, 90_000)


class MMPoseWriter:
    """Writes drawings and predictions as upstream MMPose does, result by result.

    Files have the path of their image below the input, so files of the same name in two folders
    do not collide. The frames of a video become one video and one JSON file, which grow frame by
    frame.

    Args:
        source: Source of the results, which may be a video.
        vis_out_dir: Folder for drawings (for a video also a file); empty to write none.
        pred_out_dir: Folder for predictions; empty to write none.
    """

    def __init__(self, source: 'Source', vis_out_dir: str, pred_out_dir: str) -> None:
        self._source = source
        self._vis_out_dir = vis_out_dir
        self._pred_out_dir = pred_out_dir
        self._files = ExitStack()
        self._video: VideoFile | None = None
        self._frames_json = None
        self._written = 0

    def write(self, result: 'ImageResult', drawn: 'np.ndarray | None') -> None:
        """Write one result; ``drawn`` is its drawing (H, W, 3), uint8, RGB."""
        name = osp.splitext(result.frame.name)[0]
        if self._vis_out_dir and drawn is not None:
            self._write_drawing(result, drawn)
        if self._pred_out_dir:
            if self._source.video_name is not None:
                self._write_frame(result)
                return
            self._write_prediction(result, osp.join(self._pred_out_dir, f'{name}.json'))

    def _write_prediction(self, result: 'ImageResult', path: str) -> None:
        import mmengine

        os.makedirs(osp.dirname(path), exist_ok=True)
        predictions = result.predictions
        mmengine.dump(predictions[0] if len(predictions) == 1 else predictions, path, indent='  ')

    def _write_drawing(self, result: 'ImageResult', drawn: 'np.ndarray') -> None:
        if self._source.video_name is None:
            write_drawing(self._vis_out_dir, result, drawn)
            return
        from .video.encoding import VideoFile, open_output, to_even_size, to_yuv

        picture = to_yuv(to_even_size(drawn[..., ::-1]))
        rate = Fraction(self._source.fps or 25).limit_denominator(1001)
        if self._video is None:
            path = self._vis_out_dir
            if not osp.splitext(path)[1]:
                path = osp.join(path, self._source.video_name)
            container = self._files.enter_context(open_output(path))
            size = picture.width, picture.height
            self._video = VideoFile(container, size, _UNIT, rate)
        time, index = result.frame.time, result.frame.index
        pts = round((index / rate if time is None else time) / _UNIT)
        self._video.write(picture, pts)

    def _write_frame(self, result: 'ImageResult') -> None:
        import mmengine

        if self._frames_json is None:
            os.makedirs(self._pred_out_dir, exist_ok=True)
            name = osp.splitext(self._source.video_name)[0]
            path = osp.join(self._pred_out_dir, f'{name}.json')
            self._frames_json = open(path, 'w')  # noqa: SIM115 (closed in __exit__)
        frame = {'frame_id': result.frame.index, 'instances': result.predictions[0]}
        self._frames_json.write(',\n' if self._written else '[\n')
        self._frames_json.write(mmengine.dump(frame, file_format='json'))
        self._written += 1

    def __enter__(self) -> 'MMPoseWriter':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._frames_json is not None:
            self._frames_json.write('\n]\n')
            self._frames_json.close()
        if self._video is not None:
            self._finish_video(error)

    def _finish_video(self, error: BaseException | None) -> None:
        """Complete the video; one that ends early, or by any error but its own, is complete too."""
        import av

        with self._files:
            if isinstance(error, av.FFmpegError):
                raise error  # removes the file, and becomes an OSError
            self._video.finish()
