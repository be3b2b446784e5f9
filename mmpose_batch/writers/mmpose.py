"""The files that MMPose's inferencer writes: drawings, and one JSON an image or video."""

import os
import os.path as osp
from types import TracebackType

import cv2
import mmcv
import mmengine
import numpy as np

from ..results import ImageResult
from ..sources.base import Source
from .per_image import write_drawing


class StockWriter:
    """Writes drawings and predictions in stock's form while results come.

    An image keeps its path below the input, so equal names in two folders do
    not meet. The frames of a video become one video and one JSON, written as
    they come.

    Args:
        source: Tells whether the frames are a video.
        vis_out_dir: Folder for drawings (for a video also a file); empty for none.
        pred_out_dir: Folder for predictions; empty for none.
    """

    def __init__(self, source: Source, vis_out_dir: str, pred_out_dir: str) -> None:
        self._source = source
        self._vis_out_dir = vis_out_dir
        self._pred_out_dir = pred_out_dir
        self._video: cv2.VideoWriter | None = None
        self._frames_json = None
        self._written = 0

    def write(self, result: ImageResult, drawn: np.ndarray | None) -> None:
        """Write one result; ``drawn`` is its drawing (H, W, 3), RGB."""
        name = osp.splitext(result.frame.name)[0]
        if self._vis_out_dir and drawn is not None:
            self._write_drawing(result, drawn)
        if self._pred_out_dir:
            if self._source.video_name is not None:
                self._write_frame(result)
                return
            path = osp.join(self._pred_out_dir, f'{name}.json')
            os.makedirs(osp.dirname(path), exist_ok=True)
            predictions = result.predictions
            mmengine.dump(
                predictions[0] if len(predictions) == 1 else predictions, path, indent='  '
            )

    def _write_drawing(self, result: ImageResult, drawn: np.ndarray) -> None:
        if self._source.video_name is None:
            write_drawing(self._vis_out_dir, result, drawn)
            return
        if self._video is None:
            path = self._vis_out_dir
            if not osp.splitext(path)[1]:
                path = osp.join(path, self._source.video_name)
            os.makedirs(osp.dirname(path) or '.', exist_ok=True)
            height, width = drawn.shape[:2]
            codec = cv2.VideoWriter_fourcc(*'mp4v')
            self._video = cv2.VideoWriter(path, codec, self._source.fps or 25, (width, height))
            if not self._video.isOpened():
                raise OSError(f'cannot write a video there: {path}')
        self._video.write(mmcv.rgb2bgr(drawn))

    def _write_frame(self, result: ImageResult) -> None:
        if self._frames_json is None:
            os.makedirs(self._pred_out_dir, exist_ok=True)
            name = osp.splitext(self._source.video_name)[0]
            path = osp.join(self._pred_out_dir, f'{name}.json')
            self._frames_json = open(path, 'w')  # noqa: SIM115 (closed in __exit__)
        frame = {'frame_id': result.frame.index, 'instances': result.predictions[0]}
        self._frames_json.write(',\n' if self._written else '[\n')
        self._frames_json.write(mmengine.dump(frame, file_format='json'))
        self._written += 1

    def __enter__(self) -> 'StockWriter':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._video is not None:
            self._video.release()
        if self._frames_json is not None:
            self._frames_json.write('\n]\n')
            self._frames_json.close()
