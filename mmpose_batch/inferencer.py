"""BatchPose2DInferencer: stock arguments in, real batches inside, one result an image."""

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import chain
from math import inf
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmpose.apis.inferencers import Pose2DInferencer
from mmpose.registry import INFERENCERS
from rich.progress import track
from torch import nn

from .batching import BatchRunner
from .config import BATCH_SETTINGS, SETTINGS, BatchOptions, CallOptions, merge_settings
from .cores import bind_to_cores, parse_cores
from .engines.base import EngineOptions
from .engines.batch_size import default_batch_size
from .engines.registry import splits_cores
from .engines.runner import EngineRunner
from .engines.warmup import SAMPLES, Warmup, batch_size
from .engines.wrapping import reject_nan
from .errors import InputError
from .images.read import DecodedFrames, detector_loader, image_loader, plain_loader
from .models.checkpoint import check_weights
from .models.checks.configs import check_device, check_flip_test, check_pose_config
from .models.checks.fields import type_name
from .models.checks.pipelines import check_first_step, check_loader, check_pipeline
from .models.names import build_model, load_config
from .pipeline import Pipeline
from .progress import StageClock
from .results import ImageResult
from .sources.base import Frame, Source
from .sources.boxes import boxes_of_images, detached
from .sources.inputs import open_source
from .speedups.base import apply_changes
from .speedups.crops import CropCache
from .speedups.rect import pad_to_stride
from .speedups.registry import POSE_HEAD
from .stages.detect import PersonDetector, build_detector, check_detector, choose_detector
from .stages.pose import PoseStage
from .stages.read import ReadStage
from .workers import FLUSH, FlushType, read_ahead
from .writers import StockWriter
from .writers.drawing import DrawOptions, check_skeleton_style, draw_result

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
        *,
        batch_size: int | str | None = None,
        det_batch_size: int | str | None = None,
        precision: str | None = None,
        calib_images: int | None = None,
        engine: str | None = None,
        engine_device: str | None = None,
        engine_file: str | None = None,
        engine_cache: bool | None = None,
        self_check: bool | None = None,
        flip_test: bool | None = None,
        rect: bool | None = None,
        num_workers: int | None = None,
        num_threads: int | None = None,
        cpu_affinity: str | None = None,
        on_error: str | None = None,
        no_person: str | None = None,
    ) -> None:
        given = {key: value for key, value in locals().items() if key in SETTINGS}
        # Stock's defaults: nobody can tell whether they were given.
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
        self._crops = CropCache()
        self._precision_is_free = options.precision == 'auto'
        self._lock = threading.RLock()
        if options.cpu_affinity is not None:
            bind_to_cores(parse_cores(options.cpu_affinity))
        # Stock's constructor builds the detector, which needs the settled precision.
        self.options = options.resolved(device)
        torch.set_num_threads(self.options.num_threads)
        self._check_parts(model, settings)
        super().__init__(model, device=device, **settings)
        if self.options.rect:
            self._pad_to_stride()
        if self.options.batch_size is None:
            self.options = replace(self.options, batch_size=self._default_batch_size())
        if self.detector is not None and self.options.det_batch_size is None:
            self.options = replace(self.options, det_batch_size=self.detector.default_batch_size())
        engine = self._engine_options(self.options.of_engine)
        self.runner = EngineRunner(self.model, replace(engine, file=self.options.engine_file))
        reject_nan(self.model)
        self.warmup = Warmup(self.options.calib_images or SAMPLES)
        self._decoded = DecodedFrames()

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
        if self.detector is not None:
            self._det_loader = detector_loader(self.detector.pipeline)
        # Upstream's attribute, which its preprocess reads.
        self.det_cat_ids = () if self.detector is None else self.detector.cat_ids

    def _engine_options(self, options: EngineOptions) -> EngineOptions:
        return replace(options, precision_is_free=self._precision_is_free)

    def _init_pipeline(self, cfg: Config | ConfigDict) -> Compose:
        """Build the config's test pipeline and set its image loader apart."""
        pipeline = super()._init_pipeline(cfg)
        self._loader = image_loader(pipeline)
        self._plain_loader = plain_loader(pipeline)
        self._det_loader = None
        self._loader_works = False
        return pipeline

    def check_loader(self) -> None:
        """See that files can be read as the config says; arrays and videos need no loader.

        Raises:
            ValueError: Its file backend or decoder is unknown or not installed.
        """
        if not self._loader_works:
            check_first_step(self.pipeline.transforms[0])
            check_loader(self._loader or self._plain_loader)
            self._loader_works = True

    def _pad_to_stride(self) -> None:
        pipelines = [self.pipeline, *([self.detector.pipeline] if self.detector else [])]
        pad_to_stride(pipelines)

    def _default_batch_size(self) -> int:
        crops = self.cfg.data_mode == 'topdown'
        info = {'img_path': '', **self.model.dataset_meta}
        info['img'] = np.zeros((480, 640, 3), np.uint8)
        if crops:
            info.update(bbox=np.float32([[0, 0, 640, 480]]), bbox_score=np.ones(1, np.float32))
        try:
            inputs = self.pipeline(info)['inputs']
        except Exception:  # a pipeline of somebody's own may want a real file
            inputs = None
        split = splits_cores(self.options.of_engine)
        return default_batch_size(self.device, inputs, crops=crops, split=split)

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
        writer = StockWriter(source, drawing.vis_out_dir, post.get('pred_out_dir', ''))
        return self._run(source, call, drawing, writer, return_datasamples)

    def _run(
        self,
        source: Source,
        call: CallOptions,
        drawing: DrawOptions,
        writer: StockWriter,
        return_datasamples: bool,
    ) -> Iterator[dict]:
        # Closed at the end, since whoever holds an exception holds this frame and all in it.
        with closing(self.stream(source, call)) as stream, writer:
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
        with self._lock:
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
        if type_name(self.cfg.model.type) == 'BottomupPoseEstimator':
            # One-stage heads filter inside predict, by these settings.
            test_cfg = dict(self.model.head.test_cfg)
            if 'score_thr' in test_cfg:
                test_cfg['score_thr'] = bbox_thr
            if 'nms_thr' in test_cfg:
                test_cfg['nms_thr'] = nms_thr
        else:
            test_cfg = dict(self.model.test_cfg)
        test_cfg['output_heatmaps'] = draw_heatmap
        if self.options.flip_test is not None:
            test_cfg['flip_test'] = self.options.flip_test
        batch_size = BatchOptions(batch_size=batch_size).batch_size or self.options.batch_size
        return CallOptions(
            batch_size=batch_size,
            bbox_thr=bbox_thr,
            nms_thr=nms_thr,
            test_cfg=ConfigDict(test_cfg),
            **options,
        )

    def stream(
        self, source: Source, call: CallOptions, clock: StageClock | None = None
    ) -> Iterator[ImageResult]:
        """The whole way of an image: read, detect, prepare, batch, network, result.

        At most a fixed number of images is under way at any time, whatever the
        length of the source, and nothing is kept of a result that was yielded.

        Args:
            source: Frames, read once.
            call: As :meth:`call_options` builds them.
            clock: Collects the seconds of each stage.

        Yields:
            One result per frame, in order.

        Raises:
            InputError: A bad input, with ``on_error='raise'``.
        """
        frames = iter(source)
        with ExitStack() as stack:
            stack.callback(self._decoded.clear)
            if source.sequential or source.max_wait is not None:
                frames = stack.enter_context(closing(read_ahead(frames, 2, source.max_wait)))
            with self._lock:
                self._prefer_latency(call, source.live)
                if wanted := self.wants_samples(call):
                    # All of a known length are there; others may not come for a while.
                    first = _take(frames, wanted, until_flush=source.length is None)
                    self.warm_up([item for item in first if item is not FLUSH], call, source.live)
                    frames = chain(_handed_out(first), frames)
                self.warmup.prepare(self.runners, self._batch_sizes(call))
            pipeline = self.pipeline_of(call, source.live)
            results = pipeline.run(frames, clock or StageClock())
            stack.enter_context(closing(results))
            yield from map(self._raise_error, results)

    def _raise_error(self, result: ImageResult) -> ImageResult:
        if result.error is not None and self.options.on_error == 'raise':
            raise InputError(f'{result.frame.path}: {result.error}')
        return result

    def wants_samples(self, call: CallOptions) -> int:
        """Images that :meth:`warm_up` should see before the first result; 0 for none."""
        return self.warmup.wanted(self.runners, self._batch_sizes(call))

    def _prefer_latency(self, call: CallOptions, live: bool) -> None:
        """Have engines that nothing has run on yet take one batch at a time, where that is all."""
        if live or call.batch_size == 1:
            self.runner.lifecycle.prefer_latency()
        if live and self.detector is not None:
            self.detector.runner.lifecycle.prefer_latency()

    def warm_up(self, frames: Sequence[Frame], call: CallOptions, live: bool = False) -> None:
        """Build, verify and select the engines, and measure batch sizes, with some images.

        A stream does so by itself, with its first images; others may stand for a
        run better.

        Args:
            frames: Some images.
            call: The options of the run.
            live: Whether they come one by one, and each result is wanted at once.

        Raises:
            EngineError: An engine cannot run the network, or its outputs deviate
                too much from PyTorch's.
        """
        steps = {
            'pose': self._pose_stage(call).run,
            'detector': partial(self._detect, call=call),
        }
        sizes = self._batch_sizes(call)

        def infer(part: Sequence[Frame]) -> None:
            for _ in self.pipeline_of(call, warming_up=True).run(part, StageClock()):
                pass

        with self._lock:
            self._prefer_latency(call, live)
            flip_test = bool(call.test_cfg.get('flip_test'))
            self.warmup.run(frames, self.runners, sizes, infer, steps, flip_test=flip_test)

    def _batch_sizes(self, call: CallOptions) -> dict[str, int | str]:
        return {'pose': call.batch_size, 'detector': self.options.det_batch_size}

    def pipeline_of(
        self, call: CallOptions, live: bool = False, warming_up: bool = False
    ) -> Pipeline:
        """The stages from frames to results, with the engines and attributes as they are now.

        Args:
            call: The options.
            live: Whether each result is wanted at once.
            warming_up: Whether batches run one by one, and decoded images are kept.
        """
        alone = live or warming_up
        sizes = {
            name: batch_size(self.runners[name], size)
            for name, size in self._batch_sizes(call).items()
            if name in self.runners
        }

        def batches(name: str, run: Callable, stage: str) -> BatchRunner:
            runner = self.runners[name]
            parallel = 1 if alone else runner.parallel
            return BatchRunner(
                run, sizes[name], stage, parallel=parallel, on_memory=runner.note_memory
            )

        detections = None
        if self.detector is not None:
            detections = batches('detector', partial(self._detect, call=call), 'detection')
        pose = self._pose_stage(call)
        return Pipeline(
            read=ReadStage(
                loader=self._plain_loader,
                detector=self.detector,
                det_loader=self._det_loader,
                decoded=self._decoded,
                keep=warming_up,
                check_loader=self.check_loader,
            ),
            detections=detections,
            pose=pose,
            poses=batches('pose', pose.run, 'network'),
            num_workers=self.options.num_workers,
        )

    def _pose_stage(self, call: CallOptions) -> PoseStage:
        return PoseStage(
            model=self.model,
            pipeline=self.pipeline,
            collate=self.collate_fn,
            loader=self._loader,
            runner=self.runner,
            crops=self._crops,
            top_down=self.cfg.data_mode == 'topdown',
            no_person=self.options.no_person,
            num_keypoints=self.num_keypoints,
            call=call,
            note=self.warmup.note,
        )

    def _detect(self, inputs: list[dict[str, Any]], call: CallOptions) -> list[np.ndarray]:
        self.warmup.note('detector', inputs)
        return self.detector.detect(inputs, call.bbox_thr, call.nms_thr, call.keep_labels)

    @property
    def runners(self) -> dict[str, EngineRunner]:
        """What runs each network: ``pose``, and ``detector`` if there is one."""
        runners = {'pose': self.runner}
        if self.detector is not None:
            runners['detector'] = self.detector.runner
        return runners

    @property
    def num_keypoints(self) -> int:
        """Keypoints of every instance that comes out."""
        indices = self.model.test_cfg.get('output_keypoint_indices')
        return len(indices) if indices is not None else self.model.dataset_meta['num_keypoints']

    @property
    def sigmas(self) -> np.ndarray:
        """COCO's constant of each keypoint that comes out, (K,); (0,) if its dataset has none."""
        sigmas = np.asarray(self.model.dataset_meta.get('sigmas', ()))
        indices = self.model.test_cfg.get('output_keypoint_indices')
        return sigmas[list(indices)] if indices is not None and len(sigmas) else sigmas


def _take(
    items: Iterator[Frame | FlushType], count: int, until_flush: bool
) -> deque[Frame | FlushType]:
    """The first items, up to so many frames, or to FLUSH if it ends them."""
    taken: deque[Frame | FlushType] = deque()
    for item in items:
        taken.append(item)
        count -= item is not FLUSH
        if count == 0 or (item is FLUSH and until_flush):
            break
    return taken


def _checked_wait(max_wait: float | None) -> float | None:
    is_number = isinstance(max_wait, Real) and not isinstance(max_wait, bool)
    if max_wait is not None and not (is_number and 0 <= max_wait < inf):
        raise ValueError(f'max_wait: expected seconds from 0, or None, found {max_wait!r}')
    return max_wait


def _handed_out(items: deque[Item]) -> Iterator[Item]:
    """The items; nothing is kept of one that was handed out."""
    while items:
        yield items.popleft()


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
