"""In fp32 the numbers are stock's, for every family of 2D models that MMPose ships.

Each case builds MMPose's own, untouched ``Pose2DInferencer`` and ours with the
same weights and compares every field of every instance: same instances, same
order, within the bounds of ``fidelity.py``.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
from fidelity import (
    Pair,
    mmpose_config,
    random_pair,
    resize_input,
    synthetic_boxes,
    synthetic_image,
)
from mmengine.infer import BaseInferencer
from mmpose.apis.inferencers import Pose2DInferencer

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.checkpoint import allowed_types

BATCH_SIZES = (1, 3, 8)

# Of the values of one field, how many may be beyond the bound because fp32 does
# not determine them (stock itself moves by as much, see fidelity.Judge).
UNDETERMINED_SHARE = 0.01

# Width, height and number of persons. An image without persons is one person.
CROPS = ((97, 123, 3), (160, 120, 0), (200, 151, 4))
# Network inputs of two or three shapes, eight of one.
SCENES = (
    *((160, 120), (168, 126), (97, 123), (192, 144), (176, 132)),
    *((160, 120), (200, 150), (128, 160), (164, 123), (240, 180)),
)


@dataclass(frozen=True)
class Family:
    """One config of MMPose and what to run it on.

    Attributes:
        config: Path below MMPose's ``configs``.
        input_size: Of the network, for a one-stage model; None keeps the config's
            and makes the model a top-down one.
        scenes: How many images a one-stage model gets.
        settings: Of every call.
        fast: Takes a few seconds.
        undetermined: Accepted share, where random weights make it larger.
        batches: MMPose's head can do more than one image in a pass.
        needs: Why it cannot run everywhere: the module to import.
    """

    config: str
    input_size: tuple[int, int] | None = None
    scenes: int = len(SCENES)
    settings: dict[str, Any] = field(default_factory=dict)
    fast: bool = False
    undetermined: float = UNDETERMINED_SHARE
    batches: bool = True
    needs: str | None = None


BODY = 'body_2d_keypoint'
HEATMAP = f'{BODY}/topdown_heatmap/coco'
FAMILIES = {
    # top-down, classification of coordinates
    'rtmpose': Family(f'{BODY}/rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py', fast=True),
}


def build(family: Family, folder: Path) -> Pair:
    cfg = mmpose_config(family.config, folder)
    if family.input_size is not None:
        resize_input(cfg, family.input_size)
    if cfg.data_mode == 'topdown':
        images = [synthetic_image(*size, seed) for seed, (*size, _) in enumerate(CROPS)]
        bboxes = [synthetic_boxes(*crops, seed) for seed, crops in enumerate(CROPS)]
        return random_pair(cfg, folder, images, bboxes, **family.settings)
    images = [synthetic_image(*size, seed) for seed, size in enumerate(SCENES[: family.scenes])]
    return random_pair(cfg, folder, images, **family.settings)


def check(pair: Pair, undetermined: float = UNDETERMINED_SHARE, batches: bool = True) -> None:
    judge = pair.judge()
    assert judge.instances > 0
    for batch_size in BATCH_SIZES:
        pair.passes.clear()
        judge.compare(pair.run_ours(batch_size), f'batch size {batch_size}')
        assert max(pair.passes) == (batch_size if batches else 1)
    print(judge.summary)
    assert not judge.faults, '\n'.join(judge.faults)
    for name, tally in judge.fields.items():
        assert tally.share <= undetermined, f'{name}: {judge.summary}'


@pytest.mark.parametrize(
    'family',
    [
        pytest.param(family, id=name, marks=() if family.fast else pytest.mark.slow)
        for name, family in FAMILIES.items()
    ],
)
def test_random_weights(family, tmp_path):
    if family.needs is not None:
        pytest.importorskip(family.needs, exc_type=ImportError)
    check(build(family, tmp_path), family.undetermined, family.batches)


def photos(shared: Path) -> list[np.ndarray]:
    """The four photos and their mirror images: eight for a full batch."""
    images = [mmcv.imread(path) for path in sorted((shared / 'images').glob('*.jpg'))]
    return images + [np.ascontiguousarray(image[:, ::-1]) for image in images]


def checkpoint_pair(
    shared: Path, config: str, checkpoint: str, images: list[np.ndarray], **detector: Any
) -> Pair:
    """Both inferencers on a real checkpoint, which stock cannot load without help."""
    weights = str(shared / 'models' / checkpoint)
    arguments = {'weights': weights, 'device': 'cpu', **detector}
    cfg = mmpose_config(config)
    with allowed_types():
        stock = Pose2DInferencer(copy.deepcopy(cfg), **arguments)
    ours = BatchPose2DInferencer(cfg, **arguments, no_person='whole_image', on_error='raise')
    return Pair(stock, ours, images)


@pytest.mark.slow
def test_rtmo_checkpoint(shared):
    config = f'{BODY}/rtmo/coco/rtmo-s_8xb32-600e_coco-640x640.py'
    pair = checkpoint_pair(shared, config, 'rtmo-s_four-photos.pth', photos(shared))
    pair.settings = {'bbox_thr': 0.1, 'nms_thr': 0.65}
    check(pair)


@pytest.mark.slow
def test_detector_and_rtmpose_checkpoints(shared):
    mim = Path(BaseInferencer._get_repo_or_mim_dir('mmpose'))
    pair = checkpoint_pair(
        shared,
        f'{BODY}/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py',
        'rtmpose-s_four-photos.pth',
        photos(shared),
        det_model=str(mim / 'demo/mmdetection_cfg/rtmdet_nano_320-8xb32_coco-person.py'),
        det_weights=str(shared / 'models/rtmdet-nano_person.pth'),
        det_cat_ids=[0],
    )
    check(pair)
