"""Models of the real architectures, small enough for unit tests."""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.structures import InstanceData
from mmpose.apis.inferencers import Pose2DInferencer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.models.checkpoint import load_checkpoint


def picture(width: int, height: int, seed: int = 0, persons: int = 0) -> np.ndarray:
    """A coloured picture without repetition, (H, W, 3), uint8; its first pixel is ``persons``.

    The stand-in detectors below read their number of persons from that pixel, which only
    lossless file formats preserve.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image[0, 0] = persons
    return image


def save(path: Path, image: np.ndarray) -> str:
    """Write an image file; returns its path as a string."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return str(path)


def persons_in(image: np.ndarray) -> np.ndarray:
    """As many boxes (N, 5) as a picture's first pixel says, best score first."""
    height, width = image.shape[:2]
    count = int(image[0, 0, 0])
    columns = max(1, math.ceil(math.sqrt(count)))  # without overlap, so that none is suppressed
    rows, places = np.divmod(np.arange(count), columns)
    cell = np.array([width, height]) / columns
    corners = (np.column_stack((places, rows)) + 0.07) * cell
    sizes = np.broadcast_to(0.9 * cell, (count, 2))
    scores = np.linspace(0.95, 0.5, count)[:, None]
    return np.hstack((corners, corners + sizes, scores)).astype(np.float32)


class OurDetector:
    """Stands in for ``PersonDetector``; records the sizes of its batches."""

    cat_ids = (0,)
    loader = None
    runner = SimpleNamespace(
        **{'parallel': 1, 'selection': None, 'report': {}, 'note_memory': print},
        **{'warm_up': id, 'cool_down': dict},
        lifecycle=SimpleNamespace(
            **{'wants_samples': False, 'batch_size': None, 'restore': print},
            **{'prefer_latency': dict, 'select': dict, 'stop_sampling': dict},
        ),
    )

    def __init__(self) -> None:
        self.batches: list[int] = []

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        return {'inputs': torch.empty(3, 4, 4), 'data_samples': persons_in(image)}

    def detect(
        self,
        prepared: Sequence[dict[str, Any]],
        bbox_thr: float,
        nms_thr: float,
        keep_labels: bool = False,
        alone: bool = False,
    ) -> list[np.ndarray]:
        self.batches.append(len(prepared))
        boxes = [packed['data_samples'] for packed in prepared]
        return [found[found[:, 4] > bbox_thr] for found in boxes]


class UpstreamDetector:
    """Stands in for the detector of upstream's inferencer, with the same persons."""

    def __call__(self, image: str | np.ndarray, return_datasamples: bool) -> dict:
        found = persons_in(mmcv.imread(image))
        instances = InstanceData(
            bboxes=torch.from_numpy(found[:, :4]),
            scores=torch.from_numpy(found[:, 4]),
            labels=torch.zeros(len(found), dtype=torch.long),
        )
        return {'predictions': [InstanceData(pred_instances=instances)]}


@dataclass(frozen=True)
class TinyModel:
    """A config and its weights."""

    cfg: Config
    weights: str

    def ours(self, **settings: Any) -> BatchPose2DInferencer:
        """This package's inferencer, with a stand-in detector for a top-down model."""
        usual = {'det_model': 'whole_image', 'device': 'cpu', 'num_workers': 2, 'det_batch_size': 4}
        inferencer = BatchPose2DInferencer(self.cfg, self.weights, **{**usual, **settings})
        if self.cfg.data_mode == 'topdown':
            inferencer.detector = OurDetector()
        return inferencer

    def upstream(self) -> Pose2DInferencer:
        """Upstream's inferencer with the same weights."""
        inferencer = Pose2DInferencer(self.cfg, device='cpu', det_model='whole_image')
        state = load_checkpoint(self.weights)['state_dict']
        inferencer.model.load_state_dict(state)
        if self.cfg.data_mode == 'topdown':
            inferencer.detector, inferencer.det_cat_ids = UpstreamDetector(), (0,)
        return inferencer


@functools.cache
def _read_config(scope: str, path: str) -> Config:
    return Config.fromfile(str(Path(BaseInferencer._get_repo_or_mim_dir(scope)) / path))


def mm_config(scope: str, path: str) -> Config:
    """A config of the installed MMPose or MMDetection, by its path below the package's files."""
    return copy.deepcopy(_read_config(scope, path))


def resize_input(cfg: Config, size: tuple[int, int]) -> None:
    """Set the input size of a config's test pipeline."""
    for step in cfg.test_dataloader.dataset.pipeline:
        if 'input_size' in step:
            step['input_size'] = size


def one_stage_config() -> Config:
    """RTMO with an eighth of RTMO-l's width and an input of 96x96."""
    cfg = mm_config(
        'mmpose', 'configs/body_2d_keypoint/rtmo/coco/rtmo-s_8xb32-600e_coco-640x640.py'
    )
    model = cfg.model
    model.init_cfg = model.backbone.init_cfg = None
    model.backbone.widen_factor = model.neck.widen_factor = 0.125
    model.neck.update(in_channels=[32, 64, 128], hidden_dim=32)
    model.neck.encoder_cfg.self_attn_cfg.update(embed_dims=32, num_heads=4)
    model.neck.encoder_cfg.ffn_cfg.update(embed_dims=32, feedforward_channels=32)
    model.neck.projector.update(in_channels=[32, 32], out_channels=32)
    model.head.head_module_cfg.update(
        in_channels=16,  # half of the projector's channels: classes and poses share them
        cls_feat_channels=32,
        channels_per_group=8,
        pose_vec_channels=32,
        widen_factor=1.0,
        stacked_convs=1,
    )
    model.head.dcc_cfg.update(in_channels=32, feat_channels=16, num_bins=(24, 32), spe_channels=16)
    model.head.dcc_cfg.gau_cfg.s = 16
    model.test_cfg.input_size = (96, 96)
    resize_input(cfg, (96, 96))
    return cfg


def top_down_config() -> Config:
    """RTMPose with an eighth of RTMPose-l's width and an input of 64x96."""
    cfg = mm_config(
        'mmpose', 'configs/body_2d_keypoint/rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py'
    )
    size = (64, 96)
    model = cfg.model
    model.backbone.update(widen_factor=0.125, init_cfg=None)
    model.head.update(in_channels=128, input_size=size, in_featuremap_size=(2, 3))
    model.head.gau_cfg.update(hidden_dims=16, s=16)
    model.head.decoder.input_size = size
    resize_input(cfg, size)
    return cfg


def detector_config() -> Config:
    """RTMDet-nano with half its width and an input of 96x96."""
    cfg = mm_config('mmpose', 'demo/mmdetection_cfg/rtmdet_nano_320-8xb32_coco-person.py')
    model = cfg.model
    model.backbone.update(widen_factor=0.125, init_cfg=None)
    model.neck.update(in_channels=[32, 64, 128], out_channels=32)
    model.bbox_head.update(in_channels=32, feat_channels=32)
    for step in cfg.test_dataloader.dataset.pipeline:
        if step['type'] in ('Resize', 'Pad'):
            step.update({key: (96, 96) for key in ('scale', 'size') if key in step})
    return cfg


def calibrate_batch_norms(model: nn.Module, forward: Callable[[], object]) -> None:
    """Set the statistics of batch norms in a random model by one forward pass.

    With random weights alone, activations would vanish or overflow, and a batch norm without
    statistics does not scale: little would be tested.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = None  # a plain average
    with torch.no_grad():
        forward()
    for norm in norms:
        norm.eval()


def build_tiny(cfg: Config, path: Path) -> TinyModel:
    """Build a model with reproducible random weights, saved like those of MMEngine's runner."""
    torch.manual_seed(0)
    upstream = Pose2DInferencer(cfg, device='cpu', det_model='whole_image')
    model = upstream.model
    packed = [upstream.preprocess_single(picture(90, 70, seed), 0)[0] for seed in range(4)]
    inputs = model.data_preprocessor(upstream.collate_fn(packed), False)['inputs']
    calibrate_batch_norms(model, lambda: model.head.forward(model.extract_feat(inputs)))
    module = getattr(model.head, 'head_module', None)
    if module is not None:
        # Untrained, all positions score the same and boxes may have any size. With this, none to
        # five persons score above the usual threshold, in boxes of a few strides.
        for scores, boxes in zip(module.out_cls, module.out_bbox, strict=True):
            scores.bias.data.fill_(-1.7)
            boxes.weight.data.mul_(0.3)
    meta = {'dataset_meta': upstream.model.dataset_meta}
    torch.save({'meta': meta, 'state_dict': model.state_dict()}, path)
    return TinyModel(cfg, str(path))
