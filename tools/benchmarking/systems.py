"""The systems that run a round: this package, upstream MMPose, and the detector alone."""

import tempfile
import time
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from mmengine.config import ConfigDict
from mmpose.apis import inference_topdown
from mmpose.apis.inferencers import Pose2DInferencer
from mmpose.datasets.transforms import LoadImage

from mmpose_batch.config import merge_settings
from mmpose_batch.engines.warmup import batch_sizes
from mmpose_batch.evaluation.annotations import ImageIds, read_annotations
from mmpose_batch.factory import build_inferencer
from mmpose_batch.images.read import read_image
from mmpose_batch.models.checkpoint import allowed_types
from mmpose_batch.models.names import default_filters, load_config
from mmpose_batch.progress import StageClock
from mmpose_batch.results import to_record
from mmpose_batch.runs.run import Run
from mmpose_batch.sources.base import Frame, Source
from mmpose_batch.sources.items import Items, spread
from mmpose_batch.stages.detect import WHOLE_IMAGE
from mmpose_batch.writers.jsonl import JsonLinesFile
from mmpose_batch.writers.options import RunOptions

from .contenders import DETECTOR, OURS, RTMLIB, UPSTREAM, Contender, Models
from .crops import CROP_SYSTEMS, RtmLib
from .limits import measure_limits
from .work import Image

STAGES = ('waiting', 'detection', 'network', 'writing')
# Maximum number of images whose network inputs are recorded, to measure the network alone.
_MAX_PROBED = 64


class System(Protocol):
    """A system that estimates poses for image files."""

    def prepare(self, images: Sequence[Image]) -> None:
        """Warm up with images of a round; called once, before the first result."""

    def run(self, images: Sequence[Image]) -> dict[str, Any]:
        """Infer all images once.

        Returns:
            ``seconds``, ``persons``, and ``stages``, the seconds of each stage; empty if
            unknown.
        """

    def infer(self, source: str | np.ndarray) -> int:
        """Infer one image, a path or BGR pixels (H, W, 3); returns the number of persons."""

    def limits(self, images: Sequence[Image]) -> dict[str, Any]:
        """Speed of the network alone; see :func:`.limits.measure_limits`."""

    def report(self) -> dict[str, Any]:
        """The selected engines and settings."""


def build_system(contender: Contender) -> System:
    """Build the system of a contender and load its weights; engines are not built yet.

    Raises:
        ValueError: Options cannot be combined, or the system cannot run the models.
        Exception: Any exception of building an inferencer.
    """
    if contender.system == OURS:
        return Ours(contender)
    if contender.num_threads is not None:
        torch.set_num_threads(contender.num_threads)
    if contender.system == DETECTOR:
        return Detector(contender)
    if contender.system == UPSTREAM:
        return Upstream(contender.models)
    if contender.system == RTMLIB:
        return RtmLib(contender.models, contender.num_threads)
    return CROP_SYSTEMS[contender.system](contender.models, contender.num_threads)


class Ours:
    """This package, from files to lines of predictions on disk."""

    def __init__(self, contender: Contender) -> None:
        models = contender.models
        settings = {'num_threads': contender.num_threads, **contender.settings}
        self.inferencer = build_inferencer(
            *(models.pose2d, models.pose2d_weights),
            det_model='whole_image' if models.given_boxes else models.det_model,
            det_weights=None if models.given_boxes else models.det_weights,
            det_cat_ids=None if models.given_boxes else models.det_cat_ids,
            device=models.device,
            flip_test=models.flip_test,
            on_error='raise',
            **settings,
        )
        filters = default_filters(self.inferencer.cfg)
        self._call = self.inferencer.call_options(**filters, select_thr=filters['bbox_thr'])

    def prepare(self, images: Sequence[Image]) -> None:
        """Warm up with images that are spread over the round."""
        samples = spread(images, self.inferencer.predictor.wants_samples(self._call))
        if samples:
            self.inferencer.predictor.warm_up(_frames(samples), self._call)

    def run(self, images: Sequence[Image]) -> dict[str, Any]:
        """See :class:`System`."""
        frames = _frames(images)
        clock, persons = StageClock(), 0
        with tempfile.TemporaryDirectory(prefix='mmpose_batch-') as folder:
            start = time.perf_counter()
            with JsonLinesFile(f'{folder}/predictions.jsonl') as writer:
                source = Source(iter(frames), len(frames))
                for result in self.inferencer.stream(source, self._call, clock):
                    with clock.stage('writing'):
                        record = to_record(result)
                        writer.append(record)
                    persons += len(record['instances'])
            seconds = time.perf_counter() - start
        stages = {name: clock.seconds.get(name, 0.0) for name in STAGES}
        stages['other'] = max(0.0, seconds - sum(stages.values()))
        return {'seconds': seconds, 'persons': persons, 'stages': stages}

    def infer(self, source: str | np.ndarray) -> int:
        """See :class:`System`."""
        frames = [Frame(0, source, '000000.jpg')]
        (result,) = self.inferencer.stream(Source(iter(frames), 1), self._call, alone=True)
        return len(result.predictions[0])

    def limits(self, images: Sequence[Image]) -> dict[str, Any]:
        """See :class:`System`."""
        some = images[:_MAX_PROBED]
        return measure_limits(self.inferencer, lambda: self.run(some), len(some))

    def ap(self, images: Sequence[Image], ann_file: str) -> float | None:
        """AP of a run over the distinct images; None if the annotations evaluate nothing."""
        paths = list(dict.fromkeys(image.path for image in images))
        ids = ImageIds(read_annotations(ann_file)['images'])
        with tempfile.TemporaryDirectory(prefix='mmpose_batch-') as folder:
            options = RunOptions(out_dir=folder, ann_file=ann_file, quiet=True)
            boxes = None
            if images[0].bboxes is not None:
                found = {image.path: image.bboxes for image in images}
                boxes = [found[path] for path in paths]
            items = Items(paths, bboxes=boxes)
            run = Run(self.inferencer, items, self._call, options, ids)
            return run().metrics['AP']

    def report(self) -> dict[str, Any]:
        """Selected engines, batch sizes and threads, and the size of the engine files in bytes."""
        options, runners = self.inferencer.options, self.inferencer.runners
        sizes = batch_sizes(runners)
        return {
            'engines': {name: runner.report for name, runner in runners.items()},
            'engine_bytes': sum(runner.bytes_on_disk for runner in runners.values()),
            'batch_size': sizes.get('pose', options.batch_size),
            'det_batch_size': sizes.get('detector', options.det_batch_size),
            'num_workers': options.num_workers,
            'num_threads': options.num_threads,
        }


def _frames(images: Sequence[Image]) -> list[Frame]:
    return [Frame(index, im.path, im.path, im.bboxes) for index, im in enumerate(images)]


class Upstream:
    """MMPose's own inferencer, unchanged; torch's check of checkpoints allows MMEngine's types.

    With precomputed boxes, which it does not accept, MMPose's ``inference_topdown``.
    """

    def __init__(self, models: Models) -> None:
        cfg, own_weights = load_config(models.pose2d)
        weights = models.pose2d_weights or own_weights
        if models.flip_test is not None:
            cfg.model.test_cfg = ConfigDict(cfg.model.get('test_cfg') or {})
            cfg.model.test_cfg.flip_test = models.flip_test
        torch.manual_seed(0)  # the same random weights as in the other systems
        with allowed_types():
            self._inferencer = Pose2DInferencer(
                cfg, None if weights == 'none' else weights, **_upstream_settings(models, cfg)
            )
        self._filters = default_filters(self._inferencer.cfg)

    def prepare(self, images: Sequence[Image]) -> None:
        """Nothing: it is as it was loaded."""

    def run(self, images: Sequence[Image]) -> dict[str, Any]:
        """See :class:`System`."""
        start = time.perf_counter()
        if images[0].bboxes is None:
            results = self._inferencer([image.path for image in images], **self._filters)
            persons = sum(len(result['predictions'][0]) for result in results)
        else:
            persons = sum(map(self._infer_given, images))
        return {'seconds': time.perf_counter() - start, 'persons': persons, 'stages': {}}

    def _infer_given(self, image: Image) -> int:
        # It would read a path once per person, and treat an image without boxes as one person.
        pixels = cv2.imread(image.path)
        if not len(image.bboxes):
            return 0
        return len(inference_topdown(self._inferencer.model, pixels, image.bboxes))

    def infer(self, source: str | np.ndarray) -> int:
        """See :class:`System`."""
        (result,) = self._inferencer(source, **self._filters)
        return len(result['predictions'][0])

    def limits(self, images: Sequence[Image]) -> dict[str, Any]:
        """Nothing: it is measured as it is."""
        return {}

    def report(self) -> dict[str, Any]:
        """Its threads."""
        return {'num_threads': torch.get_num_threads()}


def _upstream_settings(models: Models, cfg: Any) -> dict[str, Any]:
    """Arguments of the constructor of MMPose's inferencer, with a detector name that it accepts."""
    given = {
        key: getattr(models, key) for key in ('det_model', 'det_weights', 'det_cat_ids', 'device')
    }
    if models.given_boxes:
        given = {'device': models.device, 'det_model': 'whole_image'}
    own = merge_settings(cfg.get('inferencer', {}), given)
    names = ('det_model', 'det_weights', 'det_cat_ids', 'device')
    settings = {key: own[key] for key in names if key in own}
    if models.given_boxes:
        settings = {key: settings[key] for key in ('det_model', 'device') if key in settings}
    elif isinstance(own.get('det_model'), str) and own['det_model'] not in WHOLE_IMAGE:
        # MMPose does not know names of this package, and detects no one if det_cat_ids is None.
        det_cfg, det_weights = load_config(own['det_model'], 'mmdet')
        defaults = {'det_weights': det_weights, 'det_cat_ids': [0]}
        settings = {**defaults, **settings, 'det_model': det_cfg.filename}
    if settings.get('det_weights') == 'none':
        settings['det_weights'] = None
    return settings


class Detector(Ours):
    """The detector alone, which computes the boxes for ``given_boxes``."""

    def prepare(self, images: Sequence[Image]) -> None:
        """Do nothing: engines are selected together with the pose model."""

    def run(self, images: Sequence[Image]) -> dict[str, Any]:
        """See :class:`System`."""
        start = time.perf_counter()
        persons = sum(map(len, self.boxes(images)))
        return {'seconds': time.perf_counter() - start, 'persons': persons, 'stages': {}}

    def boxes(self, images: Sequence[Image]) -> list[np.ndarray]:
        """Person boxes (N, 4) of each image: x1, y1, x2, y2 in pixels.

        Raises:
            ValueError: The models have no detector.
        """
        detector, filters = self.inferencer.detector, default_filters(self.inferencer.cfg)
        if detector is None:
            raise ValueError('given boxes: there are neither annotations nor a detector')
        thresholds = filters['bbox_thr'], filters['nms_thr']
        found = []
        for image in images:
            pixels = read_image(Frame(0, image.path, image.path), LoadImage())
            found.append(detector.detect([detector.prepare(pixels)], *thresholds)[0][:, :4])
        return found
