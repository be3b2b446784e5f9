"""Runs upstream and this package on the same weights and images, and compares the outputs."""

import copy
import functools
import math
import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.structures import InstanceData
from mmpose.apis.inferencers import Pose2DInferencer
from mmpose.models.heads import DEKRHead, HeatmapHead, RTMCCHead, RTMWHead, SimCCHead
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpose_batch import BatchPose2DInferencer

from . import recorded

# The bounds of the project for fp32, for keypoints in pixels and for scores.
KEYPOINT_TOLERANCE_PX = 0.01
SCORE_TOLERANCE = 1e-4

# Bounds for fp32 in another library, which sums in a different order.
ENGINE_KEYPOINT_TOLERANCE_PX = 0.05
ENGINE_SCORE_TOLERANCE = 1e-3

# A value beyond the bound is accepted only if fp32 does not determine it: if upstream itself
# moves by at least a third of the difference in one of 16 runs, each with all weights changed by
# one unit in the last place. For the 317 such values in test_fidelity.py, the difference is at
# most 1.7 times the change of upstream.
SPREAD_FACTOR = 3
NUDGES = 16

# Fields that are measured in pixels; all others are scores.
POINT_FIELDS = ('keypoints', 'bboxes')

Prediction = dict[str, np.ndarray]


@contextmanager
def one_thread() -> Iterator[None]:
    """Run networks on one thread: small inputs gain nothing from more.

    On a busy machine, synchronising threads can take ten times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def mmpose_config(path: str, copy_to: Path | None = None) -> Config:
    """A config of the installed MMPose, by its path below ``configs``.

    A config of the new style imports its base from a package ``mmpose.configs`` that MMPose
    does not install; therefore both are copied to one folder.
    """
    folder = Path(BaseInferencer._get_repo_or_mim_dir('mmpose')) / 'configs'
    text = (folder / path).read_text(encoding='utf-8')
    if copy_to is None or 'read_base' not in text:
        return Config.fromfile(str(folder / path))
    shutil.copy(folder / '_base_' / 'default_runtime.py', copy_to)
    text = text.replace('mmpose.configs._base_.default_runtime', '.default_runtime')
    (copy_to / 'config.py').write_text(text, encoding='utf-8')
    return Config.fromfile(str(copy_to / 'config.py'))


def resize_input(cfg: Config, size: tuple[int, int]) -> None:
    """Change the size of the network's input; random weights are created for it.

    Args:
        cfg: Config of a model of MMPose, which is changed.
        size: Width and height in pixels.
    """
    for step in cfg.test_dataloader.dataset.pipeline:
        if 'input_size' in step:
            step['input_size'] = size
        elif 'scales' in step:
            step['scales'] = [size]
    head = cfg.model.head
    decoder = head.get('decoder', {})
    if 'in_featuremap_size' in head:  # some layers depend on it
        sizes = zip(head['in_featuremap_size'], size, decoder['input_size'], strict=True)
        head['in_featuremap_size'] = tuple(cells * new // old for cells, new, old in sizes)
    if 'input_size' in head:
        head['input_size'] = size
    if 'heatmap_size' in decoder:
        sizes = zip(decoder['heatmap_size'], size, decoder['input_size'], strict=True)
        decoder['heatmap_size'] = tuple(heatmap * new // old for heatmap, new, old in sizes)
    if 'input_size' in decoder:
        decoder['input_size'] = size


def synthetic_image(width: int, height: int, seed: int) -> np.ndarray:
    """Blurred noise with shapes: structure at every scale, without repetition."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 1.5)
    image = cv2.addWeighted(image, 0.5, cv2.GaussianBlur(noise, (0, 0), 12), 0.5, 0)
    for _ in range(8):
        color = tuple(int(value) for value in rng.integers(0, 256, 3))
        x, y = int(rng.integers(width)), int(rng.integers(height))
        reach = int(rng.integers(4, max(6, min(width, height) // 3)))
        if rng.random() < 0.5:
            cv2.circle(image, (x, y), reach, color, -1)
        else:
            cv2.rectangle(image, (x, y), (x + reach, y + 2 * reach), color, -1)
    return image


def synthetic_boxes(width: int, height: int, count: int, seed: int) -> np.ndarray:
    """Random boxes (N, 5), some partly outside the image, best score first."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(0.2, 0.8, (count, 2)) * (width, height)
    sizes = rng.uniform(0.3, 0.9, (count, 2)) * (width, height)
    scores = np.linspace(0.95, 0.5, count)[:, None]
    return np.hstack((centers - sizes / 2, centers + sizes / 2, scores)).astype(np.float32)


class FixedDetector:
    """Stands in for upstream's person detector; returns fixed boxes for each image in turn."""

    def __init__(self, bboxes: Sequence[np.ndarray]) -> None:
        self._bboxes = iter(bboxes)

    def __call__(self, image: object, return_datasamples: bool) -> dict:
        bboxes = next(self._bboxes)
        instances = InstanceData(
            bboxes=torch.from_numpy(bboxes[:, :4]),
            scores=torch.from_numpy(bboxes[:, 4]),
            labels=torch.zeros(len(bboxes), dtype=torch.long),
        )
        return {'predictions': [InstanceData(pred_instances=instances)]}


def randomize(inferencer: Pose2DInferencer, images: Sequence[np.ndarray], seed: int) -> None:
    """Make a newly built model behave like a trained one with respect to rounding.

    Batch norms get scales, shifts and statistics that differ between channels; otherwise folding
    them into convolutions would not be tested. The statistics are those of one forward pass over
    the images, so that activations neither vanish nor overflow. Shifts are positive, where
    activation functions are almost linear: with shifts of 0, each layer magnifies rounding by
    about 1.2, and after a hundred layers fp32 would determine nothing.
    """
    model = inferencer.model
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = None  # a plain average
        if norm.affine:
            norm.weight.data.uniform_(0.5, 1.0, generator=generator)
            norm.bias.data.uniform_(0.5, 1.5, generator=generator)
    for name, parameter in model.named_parameters():
        if name.endswith('level_embed'):  # EDPose's is what the memory held before init_weights
            parameter.data.normal_(generator=generator)
    packed = [person for image in images for person in inferencer.preprocess_single(image, 0)]
    packed = [person for person in packed if person['inputs'].shape == packed[0]['inputs'].shape]
    inputs = model.data_preprocessor(inferencer.collate_fn(packed), False)['inputs']
    with torch.no_grad():
        feats = model.extract_feat(inputs)
        if any(isinstance(module, _BatchNorm) for module in model.head.modules()):
            model.head.forward(feats)
    for norm in norms:
        norm.eval()
    scale_outputs(model, inputs)


@torch.no_grad()
def scale_outputs(model: nn.Module, inputs: torch.Tensor) -> None:
    """Scale a head's last layer so that heatmaps are in 0 to 1 and SimCC vectors have maximum 1.

    Scores of random weights, and their rounding errors, would be ten times those of trained
    ones. UDP and DARK refine a maximum by the logarithm of the heatmap, which is clipped for
    values that are not positive; then they would divide by a curvature of 0.
    """
    head = getattr(model.head, 'pose_head', model.head)
    if isinstance(head, RTMCCHead | RTMWHead | SimCCHead):
        names = ('cls_x', 'cls_y', 'mlp_head_x', 'mlp_head_y')
        layers = [getattr(head, name) for name in names if hasattr(head, name)]
        outputs = torch.cat(head.forward(model.extract_feat(inputs)), dim=-1)
        low, high = 0.0, float(outputs.max())
    elif isinstance(head, DEKRHead | HeatmapHead):
        layers = [head.heatmap_conv_layers[-1] if isinstance(head, DEKRHead) else head.final_layer]
        outputs = head.forward(model.extract_feat(inputs))
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs  # tags or displacements
        low, high = float(outputs.min()), float(outputs.max())
    else:
        return
    for layer in layers:
        layer.weight.div_(high - low)
        if layer.bias is not None:
            layer.bias.sub_(low).div_(high - low)


def nudged(model: nn.Module, seed: int) -> nn.Module:
    """A copy with every weight changed by one unit in the last place, up or down at random."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            up = torch.rand(tensor.shape, generator=generator) < 0.5
            towards = torch.where(up, math.inf, -math.inf).to(tensor.dtype)
            tensor.data.copy_(torch.nextafter(tensor.data, towards))
    return model


def plain(results: Iterable[dict]) -> list[Prediction]:
    """All fields of the instances of each image, as arrays."""
    return [
        {
            key: np.asarray(value)
            for sample in result['predictions']
            for key, value in sample.pred_instances.items()
        }
        for result in results
    ]


@dataclass
class Upstream:
    """Upstream's inferencer with its inputs and the outputs that were computed so far.

    Args:
        inferencer: An object of upstream's class.
        images: Decoded images.
        bboxes: Person boxes of each image, best score first; None uses the model's own detector
            or the complete image.
        settings: Options of every call.
        record: Recorded outputs, if there are any.
    """

    inferencer: Pose2DInferencer
    images: list[np.ndarray]
    bboxes: list[np.ndarray] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    record: recorded.Record | None = None
    _moved: defaultdict[int, list[Prediction]] = field(default_factory=lambda: defaultdict(list))

    @functools.cached_property
    def expected(self) -> list[Prediction]:
        """Predictions for all images."""
        return self._run(range(len(self.images)))

    def reruns(self, index: int) -> Iterator[Prediction]:
        """Yield how far the values of one image move in each run with nudged weights."""
        expected, moved = self.expected[index], self._moved[index]
        for seed in range(NUDGES):
            if seed == len(moved):
                found = self._rerun(seed, index)
                moved.append(
                    {
                        name: distance(found[name], values, name)
                        for name, values in expected.items()
                        if found[name].shape == values.shape  # else the instances are others
                    }
                )
            yield moved[seed]

    def _run(self, indices: Iterable[int]) -> list[Prediction]:
        indices = list(indices)
        settings = self.settings
        if self.bboxes is not None:
            self.inferencer.detector = FixedDetector([self.bboxes[index] for index in indices])
            self.inferencer.det_cat_ids = (0,)
            settings = {**settings, 'nms_thr': 1.0}  # keeps all boxes
        images = [self.images[index] for index in indices]
        return plain(self.inferencer(images, return_datasamples=True, **settings))

    def _rerun(self, seed: int, index: int) -> Prediction:
        detector = getattr(self.inferencer, 'detector', None)
        owners = [self.inferencer, *([detector] if hasattr(detector, 'model') else [])]
        models = [owner.model for owner in owners]
        for owner in owners:
            owner.model = nudged(owner.model, seed)
        try:
            return self._run([index])[0]
        finally:
            for owner, model in zip(owners, models, strict=True):
                owner.model = model


@dataclass
class Pair:
    """Upstream's inferencer and ours with the same model.

    Args:
        upstream: Upstream's inferencer with the inputs of both.
        ours: Our inferencer.
        batches: Number of instances in each successful forward pass of our network.
    """

    upstream: Upstream
    ours: BatchPose2DInferencer
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        test_step = self.ours.runner.test_step

        def counted(run: Callable[[], list], alone: bool = False) -> list:
            samples = test_step(run, alone)
            self.batches.append(len(samples))
            return samples

        self.ours.runner.test_step = counted

    def run_ours(self, batch_size: int, shift: float = 0.0) -> list[Prediction]:
        """Run ours on all images; ``shift`` moves the boxes, in pixels, to simulate a fault."""
        settings, images = self.upstream.settings, self.upstream.images
        if self.upstream.bboxes is not None:
            moved = np.array([shift, 0, shift, 0, 0], np.float32)
            settings = {**settings, 'bboxes': [boxes + moved for boxes in self.upstream.bboxes]}
        results = self.ours(images, return_datasamples=True, batch_size=batch_size, **settings)
        return plain(results)


@dataclass(frozen=True)
class RandomModel:
    """A model with random weights.

    Attributes:
        cfg: Config of the model.
        weights: Path of the weights.
        upstream: Upstream's inferencer with these weights and its inputs.
    """

    cfg: Config
    weights: str
    upstream: Upstream

    def pair(self, engine: str = 'torch', **options: Any) -> Pair:
        """Upstream's inferencer and ours with these weights."""
        ours = BatchPose2DInferencer(
            *(self.cfg, self.weights),
            **{'device': 'cpu', 'det_model': 'whole_image', 'engine_cache': False, **options},
            no_person='whole_image',
            on_error='raise',
            engine=engine,
        )
        return Pair(self.upstream, ours)


def random_model(
    cfg: Config,
    folder: Path,
    images: list[np.ndarray],
    bboxes: list[np.ndarray] | None = None,
    seed: int = 0,
    name: str | None = None,
    **settings: Any,
) -> RandomModel:
    """Build upstream's inferencer with random weights, and save these.

    Args:
        cfg: Config of the model.
        folder: Folder for the weights.
        images: Decoded images.
        bboxes: For a top-down model, the person boxes of each image.
        seed: Seed of the weights.
        name: Name of the record of upstream's outputs; None without one.
        **settings: Options of every call.
    """
    torch.manual_seed(seed)
    inferencer = Pose2DInferencer(copy.deepcopy(cfg), device='cpu', det_model='whole_image')
    if bboxes is not None:
        inferencer.detector, inferencer.det_cat_ids = FixedDetector(bboxes), (0,)
    randomize(inferencer, images, seed)
    weights = folder / 'weights.pth'
    meta = {'dataset_meta': inferencer.model.dataset_meta}
    torch.save({'meta': meta, 'state_dict': inferencer.model.state_dict()}, weights)
    record = None
    if name is not None:
        making = (randomize, scale_outputs, nudged)
        key = recorded.key_of(cfg, images, bboxes, [settings, seed, NUDGES], making)
        record = recorded.Record(name, key)
    upstream = Upstream(inferencer, images, bboxes, settings, record)
    return RandomModel(cfg, str(weights), upstream)


def distance(values: np.ndarray, expected: np.ndarray, name: str) -> np.ndarray:
    """Distance of each point (maximum of x and y) or score of one field from the expected one."""
    difference = np.abs(values.astype(np.float64) - expected)
    return difference.max(axis=-1) if name in POINT_FIELDS else difference


@dataclass
class Tally:
    """Comparison of one field of the predictions: points of keypoints and boxes, or scores.

    Attributes:
        compared: Number of values.
        accepted: Number of values beyond the bound that fp32 does not determine.
        within: Maximum difference within the bound.
        beyond: Maximum difference of the accepted values.
    """

    compared: int = 0
    accepted: int = 0
    within: float = 0.0
    beyond: float = 0.0

    @property
    def share(self) -> float:
        """Fraction of values that were accepted beyond the bound."""
        return self.accepted / max(self.compared, 1)


@dataclass
class Comparison:
    """Compares predictions with upstream's, and distinguishes rounding from faults.

    Args:
        expected: Predictions of upstream.
        reruns: Maps the index of an image to how far each value moves in runs of upstream with
            nudged weights, one dict of fields per run.

    Attributes:
        fields: Tally of each field.
        largest_ratio: Maximum ratio of an accepted difference to the change of upstream.
        faults: Description of each fault.
        rerun: Indices of the images for which ``reruns`` was called.
    """

    expected: list[Prediction]
    reruns: Callable[[int], Iterable[Prediction]]
    fields: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    largest_ratio: float = 0.0
    faults: list[str] = field(default_factory=list)
    rerun: set[int] = field(default_factory=set)

    def compare(self, predictions: list[Prediction], what: str) -> None:
        """Compare one run of ours, image by image."""
        assert len(predictions) == len(self.expected)
        for index, (ours, expected) in enumerate(zip(predictions, self.expected, strict=True)):
            where = f'{what}, image {index}'
            if ours.keys() != expected.keys():
                self.faults.append(f'{where}: fields {sorted(ours)}, upstream {sorted(expected)}')
                continue
            for name in expected:
                if ours[name].shape != expected[name].shape:
                    self.faults.append(
                        f'{where}, {name}: {ours[name].shape}, upstream {expected[name].shape}'
                    )
                elif expected[name].size:
                    self._compare_field(ours[name], index, name, f'{where}, {name}')

    def _compare_field(self, ours: np.ndarray, index: int, name: str, where: str) -> None:
        bound = KEYPOINT_TOLERANCE_PX if name in POINT_FIELDS else SCORE_TOLERANCE
        tally = self.fields[name]
        difference = distance(ours, self.expected[index][name], name)
        over = ~(difference <= bound)  # NaN is over
        tally.compared += difference.size
        tally.within = max(tally.within, difference[~over].max(initial=0.0))
        if not over.any():
            return
        spread = self._spread(index, name, difference, over)
        explained = over & (difference <= SPREAD_FACTOR * spread)
        tally.accepted += int(explained.sum())
        tally.beyond = max(tally.beyond, difference[explained].max(initial=0.0))
        if explained.any():
            ratio = float((difference[explained] / spread[explained]).max())
            self.largest_ratio = max(self.largest_ratio, ratio)
        faults = over & ~explained
        if faults.any():
            worst = np.unravel_index(np.argmax(np.where(faults, difference, -1)), over.shape)
            self.faults.append(
                f'{where}: {faults.sum()} of {over.size} beyond {bound}, at worst '
                f'{difference[worst]:.6g} where upstream itself moves by {spread[worst]:.6g}'
            )

    def _spread(
        self, index: int, name: str, difference: np.ndarray, over: np.ndarray
    ) -> np.ndarray:
        """How far each value of one image moves when upstream's weights are nudged."""
        self.rerun.add(index)
        spread = np.zeros(difference.shape)
        for moved in self.reruns(index):
            if name in moved:
                spread = np.maximum(spread, moved[name])
            if (difference <= SPREAD_FACTOR * spread)[over].all():
                break
        return spread

    @property
    def instances(self) -> int:
        """Number of instances that upstream finds in all images."""
        return sum(len(prediction['keypoints']) for prediction in self.expected)

    @property
    def summary(self) -> str:
        """Summary of the comparison, for the log."""
        fields = '; '.join(
            f'{name} {tally.within:.2g}'
            + (
                f' ({tally.accepted} of {tally.compared}: {tally.beyond:.2g})'
                * (tally.accepted > 0)
            )
            for name, tally in self.fields.items()
        )
        text = f'; {len(self.rerun)} images run with nudged weights, ratio {self.largest_ratio:.2f}'
        return f'{self.instances} instances: {fields}' + text * bool(self.rerun)


def largest(runs: list[Prediction]) -> Prediction:
    """The largest value of each field over some runs."""
    names = {name for run in runs for name in run}
    return {name: np.maximum.reduce([run[name] for run in runs if name in run]) for name in names}


def compare_runs(
    upstream: Upstream, runs: dict[str, list[Prediction]], undetermined: float, record: bool = False
) -> Comparison:
    """Compare runs of ours with recorded outputs of upstream, or else with upstream itself.

    Args:
        upstream: Upstream's inferencer with its inputs.
        runs: Name of each run, and its predictions.
        undetermined: Maximum fraction of values that may be accepted beyond the bound.
        record: Whether to run upstream and record its outputs.
    """

    def compared(comparison: Comparison) -> Comparison:
        for what, predictions in runs.items():
            comparison.compare(predictions, what)
        for name, tally in comparison.fields.items():
            if tally.share > undetermined:
                comparison.faults.append(f'{name}: fp32 does not determine {tally.share:.1%}')
        return comparison

    if upstream.record is not None and not record:
        outputs = upstream.record.load()
        reason = upstream.record.reason
        if outputs is not None:
            comparison = compared(Comparison(outputs.expected, outputs.reruns))
            if not comparison.faults:
                return comparison
            reason = f'not as recorded: {comparison.faults[0]}'
        warnings.warn(f'{upstream.record.name}: {reason}; upstream runs', stacklevel=2)
    comparison = compared(Comparison(upstream.expected, upstream.reruns))
    if record and not comparison.faults:
        spreads = {index: largest(list(upstream.reruns(index))) for index in comparison.rerun}
        upstream.record.write(upstream.expected, spreads)
    return comparison
