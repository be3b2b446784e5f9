"""BatchPose2DInferencer: MMPose's arguments in, one result per image out."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from mmengine.config import Config, ConfigDict
from mmpose.apis.inferencers import Pose2DInferencer
from mmpose.registry import INFERENCERS
from rich.progress import track
from torch import nn

from .arguments import resolve
from .config import (
    BatchOptions,
    CallOptions,
    DrawOptions,
    VideoOptions,
    check_keywords,
)
from .copies import build_copy, take_state
from .declare import with_keywords
from .engines.registry import splits_cores
from .engines.runner import EngineRunner
from .models.names import build_model
from .nan_check import reject_nan
from .postprocess.tracking import PersonTracker
from .predictor import Predictor
from .progress import StageClock
from .results import ImageResult
from .sources.base import Source
from .sources.boxes import with_boxes
from .sources.inputs import open_source
from .spec import BuiltParts
from .speedups.base import apply_changes
from .speedups.rect import pad_to_stride
from .speedups.registry import POSE_HEAD
from .stages.detect import PersonDetector, build_detector, choose_detector
from .stages.pose import PoseModel
from .tf32 import set_tf32
from .writers.drawing import check_skeleton_style, draw_result
from .writers.mmpose import MMPoseWriter

Item = TypeVar('Item')


@INFERENCERS.register_module()
class BatchPose2DInferencer(Pose2DInferencer):
    """2D pose inference in real batches, a drop-in replacement for ``Pose2DInferencer``.

    The config's test pipeline prepares the instances of many images on threads, they are
    collected into batches of one input shape, and each batch is one ``model.test_step``.
    Results match upstream MMPose and come in input order, one per image.

    Args:
        model: Config, path of a config, or name of a model: an alias of MMPose (``human``,
            ``rtmo``) or of this package (``rtmo-s``).
        weights: Path or URL of a checkpoint; ``'none'`` for random weights. None takes the
            checkpoint of the model's name or config; without one the network stays random, as
            upstream's.
        device: ``cpu``, ``cuda:0``, ...; None takes the best available one.
        scope: Registry scope of the model.
        det_model: Detector of a top-down model: config, path or name of an MMDetection model,
            or ``whole_image``; None takes upstream's default for the dataset.
        det_weights: Path or URL of the detector's checkpoint, or ``'none'``.
        det_cat_ids: Detector category ids to keep.
        show_progress: Show a progress bar.
        **options: Fields of :class:`mmpose_batch.config.BatchOptions`.

    Arguments that are left out, or have upstream's default, are taken from the config's
    ``inferencer=dict(...)``, if it has one.

    Raises:
        ValueError: An unknown model or device, a config that cannot be used, or an option out of
            range or not supported by the device.
        TypeError: An unknown argument.
        CheckpointError: Weights that are missing, rejected, or of another model.
    """

    @with_keywords(BatchOptions)
    def __init__(
        self,
        model: str | dict | Config | ConfigDict,
        weights: str | None = None,
        device: str | None = None,
        scope: str | None = 'mmpose',
        det_model: str | dict | Config | ConfigDict | None = None,
        det_weights: str | None = None,
        det_cat_ids: int | Sequence[int] | None = None,
        show_progress: bool = False,
        **options: Any,
    ) -> None:
        check_keywords(type(self), options)
        before = set(vars(self))  # attributes of a subclass
        names = 'weights', 'device', 'scope', 'det_model', 'det_weights', 'det_cat_ids'
        values = weights, device, scope, det_model, det_weights, det_cat_ids
        given = dict(zip(names, values, strict=True), show_progress=show_progress, **options)
        arguments = resolve(model, given)
        arguments.options.apply_to_process()
        self.device = arguments.device
        # Upstream's constructor builds the detector, which needs the resolved precision.
        self.options = arguments.options.resolved(self.device)
        set_tf32(self.options.tf32)
        self.detector: PersonDetector | None = None
        self._precision_is_free = arguments.options.precision == 'auto'
        self._drawing = threading.Lock()
        self.arguments = arguments.plain  # for `InferencerSpec`
        super().__init__(arguments.cfg, device=self.device, **arguments.settings)
        if self.options.rect:
            pad_to_stride([self.pipeline, *([self.detector.pipeline] if self.detector else [])])
        pose = self._pose_model()
        if self.options.batch_size is None:
            size = pose.default_batch_size(split=splits_cores(self.options.of_engine))
            self.options = replace(self.options, batch_size=size)
        if self.detector is not None and self.options.det_batch_size is None:
            self.options = replace(self.options, det_batch_size=self.detector.default_batch_size())
        own = {'precision_is_free': self._precision_is_free, 'file': self.options.engine_file}
        runner = EngineRunner(self.model, replace(self.options.of_engine, **own))
        reject_nan(self.model)
        self._predictor = Predictor(pose, runner, self.detector, self.options)
        self.built = BuiltParts.of(self)
        self._own = frozenset(vars(self).keys() - before)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of, by :func:`copy.deepcopy` and :mod:`pickle`."""
        return take_state(self, self._own)

    def __setstate__(self, state: dict[str, Any]) -> None:
        build_copy(self, BatchPose2DInferencer.__init__, state)

    # ---------------------------------------------------------------- building

    def _init_model(
        self, cfg: Config | ConfigDict, weights: str | None, device: str = 'cpu'
    ) -> nn.Module:
        if cfg.get('visualizer') is None:
            cfg.visualizer = {'type': 'mmpose.PoseLocalVisualizer', 'name': 'visualizer'}
        model = build_model(cfg, weights, device, self._load_weights_to_model)
        apply_changes(model.head, POSE_HEAD)
        return model

    def _init_detector(
        self,
        det_model: str | dict | Config | ConfigDict | None = None,
        det_weights: str | None = None,
        det_cat_ids: int | Sequence[int] | None = None,
        device: str | None = None,
    ) -> None:
        choice = choose_detector(self.cfg, det_model, det_weights, det_cat_ids)
        engine = replace(self.options.of_detector, precision_is_free=self._precision_is_free)
        self.detector = build_detector(choice, device, engine)
        # Upstream's attribute, which is read by its preprocess().
        self.det_cat_ids = () if self.detector is None else self.detector.cat_ids

    def _pose_model(self) -> PoseModel:
        return PoseModel(
            model=self.model,
            pipeline=self.pipeline,
            collate=self.collate_fn,
            top_down=self.cfg.data_mode == 'topdown',
        )

    # ------------------------------------------------------------ upstream's call

    def __call__(
        self,
        inputs: Any,
        return_datasamples: bool = False,
        batch_size: int | str | None = None,
        out_dir: str | None = None,
        *,
        max_wait: float | None = None,
        vid_stride: int = 1,
        start: str | float | None = None,
        end: str | float | None = None,
        track: bool = False,
        **kwargs: Any,
    ) -> Iterator[dict]:
        """Infer poses: one dict per input image or frame; images in input order, then videos.

        Args:
            inputs: See :func:`mmpose_batch.sources.inputs.open_source`.
            return_datasamples: Yield data samples, which have no track ids, instead of instances.
            batch_size: Overrides the constructor's ``batch_size`` for this call.
            out_dir: Folder for ``visualizations/`` and ``predictions/``.
            max_wait: Seconds that an iterator may yield nothing before its earlier images are
                finished in batches that are not full; None waits for full batches.
            vid_stride: Every so many frames of a video one is used.
            start: Frames of videos before this time are left out: seconds, or text as ``1:05``.
            end: Frames of videos from this time on are left out.
            track: Whether each person of a video or camera gets a ``track_id``.
            **kwargs: Upstream's arguments: ``bbox_thr``, ``nms_thr``, ``bboxes``,
                ``merge_results``, ``pose_based_nms``, those of
                :class:`mmpose_batch.config.DrawOptions`, and ``pred_out_dir``. ``bboxes`` has for
                each image an array (N, 4) or (N, 5): x1, y1, x2, y2 in pixels and a score.

        Yields:
            Dicts with ``predictions`` and ``visualization`` as upstream's. For an unusable input
            both are empty, and ``image`` and ``error`` name the input and the reason.

        Raises:
            ValueError: An unknown keyword, or options that do not fit together.
            SourceError: A path that does not exist.
            InputError: While iterating, with ``on_error='raise'``.
        """
        if out_dir is not None:
            kwargs.setdefault('vis_out_dir', f'{out_dir}/visualizations')
            kwargs.setdefault('pred_out_dir', f'{out_dir}/predictions')
        pre, forward, draw, post = self._dispatch_kwargs(**kwargs)
        if post.get('return_datasample') is not None:  # upstream's old spelling
            return_datasamples = post['return_datasample']
        video = VideoOptions(vid_stride=vid_stride, start=start, end=end, track=track)
        source = replace(open_source(inputs, video), max_wait=max_wait)
        if source.live:
            draw = {**draw, 'show': True}
        drawing = DrawOptions(video=source.video_name is not None, **draw)
        if drawing.wanted:
            check_skeleton_style(drawing.skeleton_style, self.model.dataset_meta)
        call = self.call_options(
            batch_size=batch_size,
            keep_images=drawing.wanted,
            select_thr=pre.get('bbox_thr', -1),
            draw_heatmap=drawing.draw_heatmap,
            **{key: pre[key] for key in ('bbox_thr', 'nms_thr') if key in pre},
            **forward,
        )
        source = _with_boxes(source, pre.get('bboxes'), self.cfg.data_mode == 'topdown')
        writer = MMPoseWriter(source, drawing.vis_out_dir, post.get('pred_out_dir', ''))
        tracker = PersonTracker() if track else None
        return self._run(source, call, drawing, writer, return_datasamples, tracker)

    def _run(
        self,
        source: Source,
        call: CallOptions,
        drawing: DrawOptions,
        writer: MMPoseWriter,
        return_datasamples: bool,
        tracker: PersonTracker | None,
    ) -> Iterator[dict]:
        # Closed explicitly: an exception that is held would keep this frame, and with it all work.
        with closing(self.stream(source, call, alone=source.length == 1)) as stream, writer:
            shown = self.show_progress
            for result in track(stream, 'Inference', source.length) if shown else stream:
                if tracker is not None:
                    tracker.assign(result)
                drawn = None
                if result.error is None:
                    drawn = self.draw(result, drawing) if drawing.wanted else None
                    writer.write(result, drawn)
                yield result.in_upstream_form(drawing.returned(drawn), return_datasamples)

    def draw(self, result: ImageResult, drawing: DrawOptions) -> np.ndarray:
        """Draw a result on its image with MMPose's visualizer.

        Args:
            result: From a :meth:`stream` whose call keeps images.
            drawing: How to draw.

        Returns:
            uint8 array (H, W, 3), RGB.
        """
        with self._drawing:
            return draw_result(self.visualizer, self.model.dataset_meta, result, drawing)

    # --------------------------------------------------------------- the stream

    @property
    def predictor(self) -> Predictor:
        """What runs frames through the stages, with the pipeline and detector that are set now."""
        if self._predictor.pose.pipeline is not self.pipeline:
            self._predictor.pose = self._pose_model()
        self._predictor.detector = self.detector
        return self._predictor

    def call_options(self, batch_size: int | str | None = None, **options: Any) -> CallOptions:
        """Build the options of one call.

        Args:
            batch_size: That of the call; None takes the constructor's.
            **options: See :meth:`mmpose_batch.stages.pose.PoseModel.call_options`.

        Raises:
            ValueError: An option out of range.
            TypeError: An unknown option.
        """
        batch_size = BatchOptions(batch_size=batch_size).batch_size or self.options.batch_size
        return self.predictor.pose.call_options(batch_size, self.options.flip_test, **options)

    def stream(
        self,
        source: Source,
        call: CallOptions,
        clock: StageClock | None = None,
        alone: bool = False,
    ) -> Iterator[ImageResult]:
        """Yield the result of every frame, in order, in bounded memory.

        Args:
            source: Frames, read once.
            call: Options of the call, from :meth:`call_options`.
            clock: Collects the seconds of each stage.
            alone: Whether each image is to have all cores, as those of a live source do.

        Raises:
            InputError: A bad input, with ``on_error='raise'``.
        """
        return self.predictor.stream(source, call, clock, alone)

    @property
    def runners(self) -> dict[str, EngineRunner]:
        """What runs each network: ``pose``, and ``detector`` if there is one."""
        return self.predictor.runners

    @property
    def runner(self) -> EngineRunner:
        """What runs the pose network."""
        return self.runners['pose']


def _with_boxes(source: Source, bboxes: Any, top_down: bool) -> Source:
    """The source with the boxes of a call, whose default in upstream is an empty list."""
    if bboxes is None or (isinstance(bboxes, list) and not bboxes):
        return source
    if not top_down:
        raise ValueError('bboxes: only top-down models take them')
    return with_boxes(source, bboxes)
