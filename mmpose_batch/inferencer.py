"""BatchPose2DInferencer: stock arguments in, real batches inside, one result an image."""

import copy
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from math import inf
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmpose.apis.inferencers import Pose2DInferencer
from mmpose.registry import INFERENCERS
from rich.progress import track
from torch import nn

from .config import (
    BATCH_SETTINGS,
    BatchOptions,
    CallOptions,
    DrawOptions,
    check_keywords,
    merge_settings,
)
from .declare import with_keywords
from .engines.base import EngineOptions
from .engines.registry import splits_cores
from .engines.runner import EngineRunner
from .engines.wrapping import reject_nan
from .errors import InputError
from .models.checkpoint import check_weights
from .models.checks.configs import check_device, check_flip_test, check_pose_config
from .models.checks.pipelines import check_pipeline
from .models.names import build_model, load_config
from .predictor import Predictor
from .progress import StageClock
from .results import ImageResult
from .sources.base import Frame, Source
from .sources.boxes import boxes_of_images, detached
from .sources.inputs import open_source
from .speedups.base import apply_changes
from .speedups.rect import pad_to_stride
from .speedups.registry import POSE_HEAD
from .stages.detect import PersonDetector, build_detector, check_detector, choose_detector
from .stages.pose import PoseModel
from .workers import FLUSH
from .writers.drawing import check_skeleton_style, draw_result
from .writers.mmpose import MMPoseWriter

Item = TypeVar('Item')


@INFERENCERS.register_module()
class BatchPose2DInferencer(Pose2DInferencer):
    """2D pose inference in real batches, a drop-in for MMPose's ``Pose2DInferencer``.

    Instances of many images are collected through the config's own test
    pipeline into batches of one input shape, and each batch is one
    ``model.test_step``. Reading and preparing run on threads beside the
    network. Results come one per image, in input order, with stock's numbers.

    Args:
        model: Config, path of one, or a model's name: an alias of MMPose
            (``human``, ``rtmo``) or one of this package (``rtmo-s``).
        weights: Path or URL of a checkpoint. None takes those that belong to a
            model's name or config; where it has none the network stays random,
            as stock's. ``'none'`` leaves it random in any case.
        device: ``cpu``, ``cuda:0``, ...; None takes the best there is.
        scope: Registry scope of the model.
        det_model: For top-down models: config, path or name of an MMDetection
            model, or ``whole_image``; None takes stock's for the kind of data.
        det_weights: Path or URL of the detector's checkpoint, or ``'none'``.
        det_cat_ids: Labels of the detector to keep.
        show_progress: Show a progress bar.
        batch_size, det_batch_size, precision, calib_images, engine, engine_device,
        engine_file, engine_cache, self_check, flip_test, rect, num_workers, num_threads,
        cpu_affinity, on_error, no_person: See :class:`mmpose_batch.config.BatchOptions`.

    What is left out here, or given as its default, is taken from the config's
    ``inferencer=dict(...)``, if it has one.

    Raises:
        ValueError: An unknown model, a config of something else, an option in it
            that is unknown, or one that is out of range or beyond the device; or
            a device that PyTorch does not have.
        TypeError: An unknown argument.
        CheckpointError: Weights that are missing, refused, or of another model.
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
        given = {
            'weights': weights,
            'device': device,
            'scope': scope,
            'det_model': det_model,
            'det_weights': det_weights,
            'det_cat_ids': det_cat_ids,
            'show_progress': show_progress,
            **options,
        }
        # Upstream's defaults: whether they were given cannot be seen.
        for key, default in (('scope', 'mmpose'), ('show_progress', False)):
            if given[key] == default:
                del given[key]
        if isinstance(model, str):
            model, weights_of_model = load_config(model, scope or 'mmpose')
            given['weights'] = weights or weights_of_model
        check_pose_config(model)
        settings = merge_settings(model.get('inferencer') or {}, given)
        options = BatchOptions(
            **{key: settings.pop(key) for key in BATCH_SETTINGS if key in settings}
        )
        device = settings.pop('device', None) or get_device()
        check_device(device)
        self.device = device
        self.detector: PersonDetector | None = None
        self._precision_is_free = options.precision == 'auto'
        self._drawing = threading.Lock()
        options.apply_to_process()
        # Upstream's constructor builds the detector, which needs the resolved precision.
        self.options = options.resolved(device)
        self._check_parts(model, settings)
        self.arguments = {**asdict(options), **settings}  # as given, for `InferencerSpec`
        super().__init__(model, device=device, **settings)
        if self.options.rect:
            self._pad_to_stride()
        pose = self._pose_model()
        if self.options.batch_size is None:
            size = pose.default_batch_size(split=splits_cores(self.options.of_engine))
            self.options = replace(self.options, batch_size=size)
        if self.detector is not None and self.options.det_batch_size is None:
            self.options = replace(self.options, det_batch_size=self.detector.default_batch_size())
        engine = self._engine_options(self.options.of_engine)
        runner = EngineRunner(self.model, replace(engine, file=self.options.engine_file))
        reject_nan(self.model)
        self._predictor = Predictor(pose, runner, self.detector, self.options)
        self._own = frozenset(vars(self).keys() - before)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of, by :func:`copy.deepcopy` and :mod:`pickle`."""
        from .copies import take_state  # which imports this module

        return take_state(self, self._own)

    def __setstate__(self, state: dict[str, Any]) -> None:
        from .copies import build_copy

        build_copy(self, state)

    # ---------------------------------------------------------------- building

    def _check_parts(self, cfg: Config | ConfigDict | dict, settings: dict[str, Any]) -> None:
        """See that all parts can be built before one of them is, and choose the detector."""
        check_pipeline(cfg)
        check_flip_test(cfg, self.options.flip_test)
        check_weights(settings.get('weights'))
        if cfg['data_mode'] == 'topdown':
            names = 'det_model', 'det_weights', 'det_cat_ids'
            choice = choose_detector(cfg, *map(settings.get, names))
            settings['det_model'] = 'whole_image'
            if choice is not None:
                check_detector(choice)
                chosen = choice.config, choice.weights, choice.cat_ids
                settings.update(zip(names, chosen, strict=True))

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
        engine = self._engine_options(self.options.of_detector)
        self.detector = build_detector(choice, device, engine)
        # Upstream's attribute, which its preprocess reads.
        self.det_cat_ids = () if self.detector is None else self.detector.cat_ids

    def _engine_options(self, options: EngineOptions) -> EngineOptions:
        return replace(options, precision_is_free=self._precision_is_free)

    def _pose_model(self) -> PoseModel:
        return PoseModel(
            model=self.model,
            pipeline=self.pipeline,
            collate=self.collate_fn,
            top_down=self.cfg.data_mode == 'topdown',
        )

    def _pad_to_stride(self) -> None:
        pipelines = [self.pipeline, *([self.detector.pipeline] if self.detector else [])]
        pad_to_stride(pipelines)

    # ------------------------------------------------------------ stock's call

    def __call__(
        self,
        inputs: Any,
        return_datasamples: bool = False,
        batch_size: int | str | None = None,
        out_dir: str | None = None,
        *,
        max_wait: float | None = None,
        **kwargs: Any,
    ) -> Iterator[dict]:
        """Infer poses, one dict per input image in input order.

        Args:
            inputs: See :func:`mmpose_batch.sources.inputs.open_source`.
            return_datasamples: Yield data samples instead of plain instances.
            batch_size: Overrides the constructor's for this call.
            out_dir: Writes ``visualizations/`` and ``predictions/`` below it.
            max_wait: Seconds that an iterator may give nothing before the images that it gave
                are finished, in batches that are not full; None has them wait for others.
            **kwargs: Stock's: ``bbox_thr``, ``nms_thr``, ``bboxes``,
                ``merge_results``, ``pose_based_nms``, ``return_vis``, ``show``,
                ``wait_time``, ``draw_bbox``, ``radius``, ``thickness``,
                ``kpt_thr``, ``vis_out_dir``, ``skeleton_style``,
                ``draw_heatmap``, ``black_background``, ``pred_out_dir``.
                ``bboxes`` holds for each image an array (N, 4) or (N, 5) of
                x1, y1, x2, y2 in pixels and a score, which are used as given.

        Returns:
            Generator of dicts with ``predictions`` and ``visualization`` in
            stock's form. For an input that cannot be used both are empty, and
            ``image`` and ``error`` tell which and why.

        Raises:
            ValueError: An unknown keyword, or options that do not fit.
            SourceError: A path that does not exist.
            InputError: While iterating, with ``on_error='raise'``.
        """
        if out_dir is not None:
            kwargs.setdefault('vis_out_dir', f'{out_dir}/visualizations')
            kwargs.setdefault('pred_out_dir', f'{out_dir}/predictions')
        pre, forward, draw, post = self._dispatch_kwargs(**kwargs)
        if post.get('return_datasample') is not None:  # stock's old spelling
            return_datasamples = post['return_datasample']
        source = replace(open_source(inputs), max_wait=_checked_wait(max_wait))
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
        bboxes = pre.get('bboxes')
        if bboxes is not None and not (isinstance(bboxes, list) and not bboxes):  # stock's default
            source = replace(source, frames=self._with_bboxes(source, bboxes))
        writer = MMPoseWriter(source, drawing.vis_out_dir, post.get('pred_out_dir', ''))
        return self._run(source, call, drawing, writer, return_datasamples)

    def _run(
        self,
        source: Source,
        call: CallOptions,
        drawing: DrawOptions,
        writer: MMPoseWriter,
        return_datasamples: bool,
    ) -> Iterator[dict]:
        # Closed at the end, since whoever holds an exception holds this frame and all in it.
        with closing(self.stream(source, call, alone=source.length == 1)) as stream, writer:
            for result in self._tracked(stream, source.length):
                if result.error is not None:
                    yield {'visualization': [], 'predictions': [], **result.failure}
                    continue
                drawn = self.draw(result, drawing) if drawing.wanted else None
                writer.write(result, drawn)
                yield {
                    'visualization': drawing.returned(drawn),
                    'predictions': result.data_samples
                    if return_datasamples
                    else result.predictions,
                }

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

    def _tracked(self, results: Iterator[ImageResult], total: int | None) -> Iterable[ImageResult]:
        if self.show_progress:
            return track(results, description='Inference', total=total)
        return results

    def _with_bboxes(self, source: Source, bboxes: Iterable) -> Iterator[Frame]:
        """Give every frame its boxes; see :func:`mmpose_batch.sources.boxes.boxes_of_images`.

        Raises:
            ValueError: The model takes no boxes, or there is not one array for each image.
        """
        if self.cfg.data_mode != 'topdown':
            raise ValueError('bboxes: only top-down models take them')
        bboxes = boxes_of_images(bboxes, source.length)
        return _pair(source, bboxes)

    # --------------------------------------------------------------- the stream

    @property
    def predictor(self) -> Predictor:
        """What runs frames through the stages, with the pipeline and detector that are set now."""
        if self._predictor.pose.pipeline is not self.pipeline:
            self._predictor.pose = self._pose_model()
        self._predictor.detector = self.detector
        return self._predictor

    def check_loader(self) -> None:
        """Check that files can be read as the config says; arrays and videos need no loader.

        Raises:
            ValueError: Its file backend or decoder is unknown or not installed.
        """
        self.predictor.pose.check_loader()

    def call_options(
        self,
        batch_size: int | str | None = None,
        bbox_thr: float = 0.3,
        nms_thr: float = 0.3,
        draw_heatmap: bool = False,
        **options: Any,
    ) -> CallOptions:
        """Build the options of one call; see :class:`mmpose_batch.config.CallOptions`.

        Raises:
            ValueError: An option out of range.
            TypeError: An unknown option.
        """
        batch_size = BatchOptions(batch_size=batch_size).batch_size or self.options.batch_size
        flip_test = self.options.flip_test
        test_cfg = self.predictor.pose.test_settings(bbox_thr, nms_thr, draw_heatmap, flip_test)
        return CallOptions(
            batch_size=batch_size,
            bbox_thr=bbox_thr,
            nms_thr=nms_thr,
            test_cfg=test_cfg,
            **options,
        )

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
        with closing(self.predictor.stream(source, call, clock, alone)) as results:
            yield from map(self._raise_error, results)

    def _raise_error(self, result: ImageResult) -> ImageResult:
        if result.error is not None and self.options.on_error == 'raise':
            raise InputError(f'{result.frame.path}: {result.error}')
        return result

    def wants_samples(self, call: CallOptions) -> int:
        """Images that :meth:`warm_up` should see before the first result; 0 for none."""
        return self.predictor.wants_samples(call)

    def warm_up(self, frames: Sequence[Frame], call: CallOptions) -> None:
        """Select engines and batch sizes with some images; see :meth:`Predictor.warm_up`."""
        self.predictor.warm_up(frames, call)

    @property
    def runners(self) -> dict[str, EngineRunner]:
        """What runs each network: ``pose``, and ``detector`` if there is one."""
        return self.predictor.runners

    @property
    def runner(self) -> EngineRunner:
        """What runs the pose network."""
        return self.runners['pose']

    @property
    def num_keypoints(self) -> int:
        """Keypoints of every predicted instance."""
        return self.predictor.pose.num_keypoints

    @property
    def sigmas(self) -> np.ndarray:
        """COCO's constant of each predicted keypoint, (K,); (0,) if its dataset has none."""
        return self.predictor.pose.sigmas


def _checked_wait(max_wait: float | None) -> float | None:
    is_number = isinstance(max_wait, Real) and not isinstance(max_wait, bool)
    if max_wait is not None and not (is_number and 0 <= max_wait < inf):
        raise ValueError(f'max_wait: expected seconds from 0, or None, found {max_wait!r}')
    return max_wait


def _pair(frames: Iterable[Frame], bboxes: Iterable) -> Iterator[Frame]:
    message = 'bboxes: expected one array of boxes for every image'
    boxes = iter(bboxes)
    missing = object()
    for frame in frames:
        if frame is FLUSH:
            yield FLUSH
            continue
        own = next(boxes, missing)
        if own is missing:
            raise ValueError(message)
        # Frames are read ahead, and a generator may fill one buffer again and again.
        yield replace(frame, bboxes=copy.deepcopy(detached(own)))
    if next(boxes, missing) is not missing:
        raise ValueError(message)
