"""Runs frames through the stages, with engines that the first frames select."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from .batching import BatchRunner
from .config import BatchOptions, CallOptions
from .engines.runner import EngineRunner
from .engines.warmup import SAMPLES, Warmup, batch_size
from .errors import InputError
from .images.read import DecodedFrames
from .pipeline import Pipeline
from .progress import DetectionCounts, StageClock
from .results import ImageResult, label_of
from .sources.base import Frame, Source
from .speedups.crops import CropCache
from .stages.detect import PersonDetector
from .stages.interval import IntervalStage
from .stages.pose import PoseModel, PoseStage
from .stages.read import ReadStage
from .workers import Marker, WorkerPool, read_ahead

Item = TypeVar('Item')


class Predictor:
    """A pose model and its detector, with the engines that run them.

    Args:
        pose: The pose model.
        runner: Runs its network.
        detector: Finds the persons of a top-down model; None where the complete image is one.
        options: Options of the inferencer, resolved for its device.

    Attributes:
        pose: The pose model. One with another pipeline may be set between calls.
        detector: The detector. Another one may be set between calls.
        warmup: How far the warm-up is.
        watch_reading: Returns a context manager in which a frame is read and decoded, on a worker
            thread.
    """

    def __init__(
        self,
        pose: PoseModel,
        runner: EngineRunner,
        detector: PersonDetector | None,
        options: BatchOptions,
    ) -> None:
        self.pose = pose
        self.detector = detector
        self.warmup = Warmup(options.calib_images or SAMPLES)
        self.watch_reading: Callable[[Frame], AbstractContextManager[None]] = nullcontext
        self._runner = runner
        self._options = options
        self._crops = CropCache()
        self._decoded = DecodedFrames()
        self._pools: dict[tuple[str, int], WorkerPool] = {}
        self._lock = threading.RLock()

    @property
    def runners(self) -> dict[str, EngineRunner]:
        """What runs each network: ``pose``, and ``detector`` if there is one."""
        own = {'pose': self._runner}
        return own if self.detector is None else {**own, 'detector': self.detector.runner}

    def stream(
        self,
        source: Source,
        call: CallOptions,
        clock: StageClock | None = None,
        alone: bool = False,
    ) -> Iterator[ImageResult]:
        """Yield the result of every frame, in order; see :meth:`Pipeline.run`.

        Args:
            source: Frames, read once.
            call: Options of the call.
            clock: Collects the seconds of each stage.
            alone: Whether each image is to have all cores, as those of a live source do.

        Raises:
            InputError: A bad input, with ``on_error='raise'``.
        """
        frames, alone = iter(source), alone or source.live
        with ExitStack() as stack:
            stack.callback(self._decoded.clear)
            if source.sequential or source.max_wait is not None:
                frames = stack.enter_context(
                    closing(read_ahead(frames, source.ahead, source.max_wait))
                )
            # Without the lock: the source may give nothing for long, or call this inferencer.
            # Of a known length all are there; others may not come for a while.
            wanted = self.wants_samples(call)
            first = _take(frames, wanted, until_marker=source.length is None)
            with self._lock:
                self._prefer_latency(call, alone)
                if first and self.wants_samples(call):  # another call may have warmed up
                    frames_only = [item for item in first if not isinstance(item, Marker)]
                    self.warm_up(frames_only, call, alone)
                self.warmup.prepare(self.runners, self._batch_sizes(call))
            frames = chain(_yield_all(first), frames)
            threads = 0 if source.length == 1 else self._options.num_workers
            clock = clock or StageClock()
            pipeline = self.pipeline_of(call, alone, threads, counts=clock.detections)
            results = pipeline.run(frames, clock)
            yield from map(self._checked, stack.enter_context(closing(results)))

    def _checked(self, result: ImageResult) -> ImageResult:
        if result.error is not None and self._options.on_error == 'raise':
            raise InputError(f'{label_of(result.frame)}: {result.error}')
        return result

    def wants_samples(self, call: CallOptions) -> int:
        """Images that :meth:`warm_up` should see before the first result; 0 for none."""
        return self.warmup.wanted(self.runners, self._batch_sizes(call))

    def _prefer_latency(self, call: CallOptions, alone: bool) -> None:
        """Build engines that have not run yet for batches that come one at a time."""
        if alone or call.batch_size == 1:
            self._runner.lifecycle.prefer_latency()
        if alone and self.detector is not None:
            self.detector.runner.lifecycle.prefer_latency()

    def warm_up(self, frames: Sequence[Frame], call: CallOptions, alone: bool = False) -> None:
        """Build, verify and select the engines, and measure batch sizes, with some images.

        A stream does so by itself with its first images; other images may represent a run
        better.

        Args:
            frames: Some images.
            call: The options of the run.
            alone: Whether images come one by one, and each result is wanted at once.

        Raises:
            EngineError: An engine cannot run the network, or its outputs deviate
                too much from PyTorch's.
        """
        steps: dict[str, Callable] = {'pose': self._pose_stage(call, alone).run}
        if self.detector is not None:
            steps['detector'] = partial(self._detect, call=call, alone=alone)

        threads = self._options.num_workers if len(frames) > 1 else 0

        def infer(part: Sequence[Frame]) -> None:
            pipeline = self.pipeline_of(call, alone, threads, warming_up=True)
            deque(pipeline.run(part, StageClock()), maxlen=0)

        with self._lock:
            self._prefer_latency(call, alone)
            sizes, flip_test = self._batch_sizes(call), bool(call.test_cfg.get('flip_test'))
            self.warmup.run(frames, self.runners, sizes, infer, steps, flip_test=flip_test)

    def _batch_sizes(self, call: CallOptions) -> dict[str, int | str]:
        return {'pose': call.batch_size, 'detector': self._options.det_batch_size}

    def pipeline_of(
        self,
        call: CallOptions,
        alone: bool = False,
        num_workers: int = 0,
        warming_up: bool = False,
        counts: DetectionCounts | None = None,
    ) -> Pipeline:
        """The stages from frames to results, with the engines as they are now.

        Args:
            call: The options.
            alone: Whether images come one by one, and each result is wanted at once.
            num_workers: Threads that read and crop.
            warming_up: Whether batches run one by one, and decoded images are kept.
            counts: Counts the frames of videos by where their boxes come from.
        """
        workers = self._pool('read', num_workers)
        every_frame = self._options.det_interval == 1 or alone or warming_up
        read = ReadStage(
            loader=self.pose.plain_loader,
            detector=self.detector,
            decoded=self._decoded,
            keep=warming_up,
            check_loader=self.pose.check_loader,
            prepare_videos=every_frame,
            watch=self.watch_reading,
        )
        detections = None
        if self.detector is not None:
            detections = self._batches(
                'detector',
                partial(self._detect, call=call, alone=alone),
                call,
                one_by_one=alone or warming_up,
                stage='detection',
                fields=('detector_inputs', 'detections'),
            )
        if detections is not None and not every_frame:
            detections = IntervalStage(
                interval=self._options.det_interval,
                detections=detections,
                prepare=read.prepare,
                workers=workers,
                counts=counts or DetectionCounts(),
            )
        pose = self._pose_stage(call, alone)
        return Pipeline(
            read=read,
            detections=detections,
            pose=pose,
            poses=self._batches('pose', pose.run, call, one_by_one=pose.alone or warming_up),
            workers=workers,
        )

    def _batches(
        self, name: str, run: Callable, call: CallOptions, one_by_one: bool, **settings: Any
    ) -> BatchRunner:
        runner = self.runners[name]
        threads = 0 if one_by_one or runner.parallel == 1 else runner.parallel
        return BatchRunner(
            run,
            batch_size(runner, self._batch_sizes(call)[name]),
            pool=self._pool(name, threads),
            on_memory=runner.note_memory,
            **settings,
        )

    def _pool(self, name: str, num_threads: int) -> WorkerPool:
        """Threads for one purpose, which later calls find again."""
        pool = WorkerPool(num_threads, f'mmpose_batch_pool_{name}')
        return self._pools.setdefault((name, num_threads), pool)

    def _pose_stage(self, call: CallOptions, alone: bool) -> PoseStage:
        return PoseStage(
            pose=self.pose,
            runner=self._runner,
            crops=self._crops,
            no_person=self._options.no_person,
            call=call,
            alone=alone or call.batch_size == 1,
            note=self.warmup.note,
        )

    def _detect(
        self, inputs: list[dict[str, Any]], call: CallOptions, alone: bool
    ) -> list[np.ndarray]:
        self.warmup.note('detector', inputs)
        return self.detector.detect(inputs, call.bbox_thr, call.nms_thr, call.keep_labels, alone)


def _take(items: Iterator[Frame | Marker], count: int, until_marker: bool) -> deque[Frame | Marker]:
    """The first items, up to so many frames, or to the first marker if it ends them."""
    taken: deque[Frame | Marker] = deque()
    for item in items if count else ():
        taken.append(item)
        is_marker = isinstance(item, Marker)
        count -= not is_marker
        if count == 0 or (is_marker and until_marker):
            break
    return taken


def _yield_all(items: deque[Item]) -> Iterator[Item]:
    """Yield the items; one that was yielded is not kept."""
    while items:
        yield items.popleft()
