"""Drawings of the results in ``vis/``; those of images by MMPose's own visualizer."""

import os.path as osp
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from ..config import DrawOptions
from ..sources.video_names import is_video_name
from .atomic import open_atomically
from .base import FinishedRun, Record, Writer, WriterContext, WriterSpec
from .registry import register

if TYPE_CHECKING:
    import numpy as np
    from mmengine.visualization import Visualizer

    from ..results import ImageResult
    from .options import RunOptions

FOLDER = 'vis'
# Formats that OpenCV writes as well as reads; drawings of other formats become PNGs.
_SUFFIXES = frozenset(['.bmp', '.jpe', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'])
# Datasets that MMPose draws in OpenPose's style.
_OPENPOSE = ('coco', 'coco_wholebody')


def check_skeleton_style(style: str, dataset_meta: dict[str, Any]) -> None:
    """Check before a run that MMPose supports a skeleton style for a dataset.

    Raises:
        ValueError: It does not.
    """
    name = dataset_meta.get('dataset_name')
    if style == 'openpose' and name not in _OPENPOSE:
        raise ValueError(
            f'skeleton_style: expected mmpose for dataset {name}; MMPose draws '
            f'{" and ".join(_OPENPOSE)} in the style of openpose'
        )


def draw_result(
    visualizer: 'Visualizer',
    dataset_meta: dict[str, Any],
    result: 'ImageResult',
    options: DrawOptions,
) -> 'np.ndarray':
    """Draw the first data sample of a result; returns uint8 (H, W, 3), RGB.

    Args:
        visualizer: The inferencer's visualizer, whose settings this call changes.
        dataset_meta: Skeleton and colours of the model's keypoints.
        result: Result with its image.
        options: How to draw.
    """
    import mmcv

    visualizer.radius = options.radius
    visualizer.line_width = options.thickness
    visualizer.set_dataset_meta(dataset_meta, options.skeleton_style)
    image = mmcv.bgr2rgb(result.image)
    if options.black_background:
        image = image * 0
    return visualizer.add_datasample(
        osp.basename(result.frame.path),
        image,
        result.data_samples[0],
        draw_gt=False,
        draw_bbox=options.draw_bbox,
        draw_heatmap=options.draw_heatmap,
        show=options.show,
        wait_time=1e-5 if options.video else options.wait_time,
        kpt_thr=options.kpt_thr,
        skeleton_style=options.skeleton_style,
    )


def drawing_name(name: str) -> str:
    """Path of the drawing below ``vis/``, for an image or a video with this name."""
    if is_video_name(name):
        return name if name.lower().endswith('.mp4') else f'{name}.mp4'
    return name if osp.splitext(name)[1].lower() in _SUFFIXES else f'{name}.png'


def write_drawing(folder: str, result: 'ImageResult', drawn: 'np.ndarray') -> None:
    """Write ``folder/<relative path>``: a drawing (H, W, 3), uint8, RGB.

    Drawings in formats that OpenCV reads but cannot write are PNGs with ``.png`` appended.

    Raises:
        OSError: The disk is full, or the file system rejects the name.
        ValueError, cv2.error: The format does not support an image of that size.
    """
    import cv2

    name = drawing_name(result.frame.name)
    suffix = osp.splitext(name)[1].lower()
    good, data = cv2.imencode(suffix, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    if not good:
        height, width = drawn.shape[:2]
        raise ValueError(f'OpenCV cannot write {suffix} of {width} x {height}')
    with open_atomically(osp.join(folder, name)) as file:
        file.write(data.tobytes())


class DrawingWriter(Writer):
    """Writes ``vis/<relative path>`` for each image that has predictions, and for each video.

    Videos are drawn at the end of the run, from the records.
    """

    def __init__(self, context: WriterContext) -> None:
        self._inferencer = context.inferencer
        self._drawing = context.options.drawing
        self._quiet = context.options.quiet
        self._videos: dict[str, str] = {frame.name: frame.data for frame in context.videos}
        self._video_options = context.video_options

    def append(self, result: 'ImageResult', record: Record) -> None:
        """See :class:`Writer`."""
        if result.error is None and not result.frame.source_id:
            drawn = self._inferencer.draw(result, self._drawing)
            write_drawing(osp.join(self.folder, FOLDER), result, drawn)

    def finish(self, run: FinishedRun) -> None:
        """See :class:`Writer`."""
        missing = {
            name: path
            for name in self._videos
            if not osp.exists(path := osp.join(self.folder, FOLDER, drawing_name(name)))
        }
        if missing:
            self._draw_videos(run, missing)

    def _draw_videos(self, run: FinishedRun, missing: dict[str, str]) -> None:
        """Draw videos that have frames.

        Args:
            run: The run.
            missing: Path of the overlay of each video.

        Raises:
            OutputError: Videos are gone or have changed since they were read; others are drawn.
            OSError: The disk is full.
        """
        from ..errors import OutputError, SourceError
        from ..progress import ProgressReport
        from .video.overlay import write_overlay

        frames = sum(record.get('video') in missing for record in run.records())
        errors: list[str] = []
        of_frames = (record for record in run.records() if 'frame' in record)
        with ProgressReport(frames, 0, self._quiet, 'drawn frames') as progress:
            for name, records in groupby(of_frames, key=itemgetter('video')):
                if name not in missing:
                    continue
                try:
                    write_overlay(
                        self._videos[name],
                        missing[name],
                        records,
                        self._inferencer.predictor.pose.keypoints,
                        self._drawing,
                        self._video_options,
                        num_workers=max(1, self._inferencer.options.num_workers),
                        progress=lambda _: progress.advance(),
                    )
                except SourceError as error:
                    errors.append(f'{name}: {str(error).removeprefix("inputs: ")}')
        if errors:
            raise OutputError(
                f'cannot draw {"; ".join(errors)}; all other files of the run are written'
            )


def paths(names: Iterable[str]) -> Iterator[str]:
    """Paths of the drawings of images and videos with these names."""
    for name in names:
        yield f'{FOLDER}/{drawing_name(name)}'


def check_names(names: Sequence[str]) -> None:
    """Check that no two drawings have the same file.

    Raises:
        OutputError: ``a.gif`` and ``a.gif.png`` are both inputs.
    """
    from ..errors import OutputError  # not at the top: it imports PyTorch

    converted = {drawing_name(name): name for name in names if drawing_name(name) != name}
    for name in names:
        if name in converted:
            raise OutputError(
                f'{name} and {converted[name]} would be drawn into one file: '
                'rename one, or omit --save-vis'
            )


def _settings(options: 'RunOptions') -> dict[str, Any] | None:
    return asdict(options.drawing) if options.save_vis else None


register(
    WriterSpec(
        name='vis',
        help='one drawing per image, one video per video',
        build=DrawingWriter,
        folder=FOLDER,
        paths=paths,
        noun='drawing',
        per_image=True,
        option='save_vis',
        needs_images=True,
        key='drawings',
        settings=_settings,
        check_names=check_names,
    )
)
