"""In fp32 the numbers are stock's, for every family of 2D models that MMPose ships.

Each case builds MMPose's own, untouched ``Pose2DInferencer`` and ours with the
same weights and compares every field of every instance: same instances, same
order, within the bounds of ``fidelity.py``.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fidelity
import mmcv
import numpy as np
import pytest
from fidelity import (
    Pair,
    mmpose_config,
    one_thread,
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
        input_size: Of the network, smaller than the config's; None keeps that.
        scenes: How many images a one-stage model gets.
        settings: Of every call.
        fast: Takes a few seconds.
        undetermined: Accepted share, where random weights make it larger.
        batches: MMPose's head can do more than one image in a pass.
        needs: A package that MMPose takes the backbone from, not always there.
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
HAND = 'hand_2d_keypoint/topdown_heatmap'
FACE = 'face_2d_keypoint'
WHOLEBODY = 'wholebody_2d_keypoint'
HALF = (96, 128)  # of 192x256, the usual input of a person

# Not here: DWPose's own configs, which train (DWPoseDistiller); its students are
# RTMPose models and one of them is below. DeepFashion, whose dataset has no
# meta information before it is loaded, so that stock cannot build it without a
# checkpoint; DeepFashion2 is below.
FAMILIES = {
    # coordinate classification
    'rtmpose': Family(f'{BODY}/rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py', fast=True),
    'simcc': Family(
        f'{BODY}/simcc/coco/simcc_mobilenetv2_wo-deconv-8xb64-210e_coco-256x192.py', fast=True
    ),
    'simcc-deconv': Family(f'{BODY}/simcc/coco/simcc_vipnas-mbv3_8xb64-210e_coco-256x192.py'),
    'animal': Family('animal_2d_keypoint/rtmpose/ap10k/rtmpose-m_8xb64-210e_ap10k-256x256.py'),
    'face-rtmpose': Family(f'{FACE}/rtmpose/face6/rtmpose-t_8xb256-120e_face6-256x256.py'),
    'rtmw': Family(f'{WHOLEBODY}/rtmpose/cocktail14/rtmw-m_8xb1024-270e_cocktail14-256x192.py'),
    'dwpose': Family(
        f'{WHOLEBODY}/rtmpose/ubody/rtmpose-t_8xb64-270e_coco-ubody-wholebody-256x192.py'
    ),
    # regression and integral regression
    'rle': Family(
        f'{BODY}/topdown_regression/coco/'
        'td-reg_mobilenetv2_rle-pretrained-8xb64-210e_coco-256x192.py',
        fast=True,
    ),
    'regression': Family(f'{BODY}/topdown_regression/coco/td-reg_res50_8xb64-210e_coco-256x192.py'),
    'integral-dsnt': Family(
        f'{BODY}/integral_regression/coco/ipr_res50_dsnt-8xb64-210e_coco-256x256.py'
    ),
    'integral-debias': Family(
        f'{BODY}/integral_regression/coco/ipr_res50_debias-8xb64-210e_coco-256x256.py'
    ),
    # heatmaps, one of each backbone and each way of decoding
    'mobilenet': Family(f'{HEATMAP}/td-hm_mobilenetv2_8xb64-210e_coco-256x192.py', HALF, fast=True),
    'hrnet': Family(f'{HEATMAP}/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py', HALF),
    'hrnet-udp': Family(f'{HEATMAP}/td-hm_hrnet-w32_udp-8xb64-210e_coco-256x192.py', HALF),
    'hrnet-udp-regress': Family(
        f'{HEATMAP}/td-hm_hrnet-w32_udp-regress-8xb64-210e_coco-256x192.py', HALF
    ),
    'hrnet-selected-keypoints': Family(
        f'{HEATMAP}/td-hm_hrnet-w32_8xb64-210e_coco-aic-256x192-combine.py', HALF
    ),
    'face-dark': Family(
        f'{FACE}/topdown_heatmap/wflw/td-hm_hrnetv2-w18_dark-8xb64-60e_wflw-256x256.py', (128, 128)
    ),
    'hand': Family(f'{HAND}/rhd2d/td-hm_mobilenetv2_8xb64-210e_rhd2d-256x256.py', (128, 128)),
    'fashion': Family(
        'fashion_2d_keypoint/topdown_heatmap/deepfashion2/'
        'td-hm_res50_1xb64-210e_deepfasion2-skirt-256x192.py',
        HALF,
    ),
    'wholebody-dark': Family(
        f'{WHOLEBODY}/topdown_heatmap/coco-wholebody/'
        'td-hm_vipnas-mbv3_dark-8xb64-210e_coco-wholebody-256x192.py',
        HALF,
        # DARK divides by the curvature of a maximum, and random weights make
        # maxima at the border that have none: 5.9 % measured.
        undetermined=0.1,
    ),
    'resnet-visibility': Family(
        f'{HEATMAP}/td-hm-vis_res50_8xb64-210e_coco-aic-256x192-merge.py', HALF
    ),
    'resnetv1d': Family(f'{HEATMAP}/td-hm_resnetv1d50_8xb64-210e_coco-256x192.py', HALF),
    'resnext': Family(f'{HEATMAP}/td-hm_resnext50_8xb64-210e_coco-256x192.py', HALF),
    'seresnet': Family(f'{HEATMAP}/td-hm_seresnet50_8xb64-210e_coco-256x192.py', HALF),
    'resnest': Family(f'{HEATMAP}/td-hm_resnest50_8xb64-210e_coco-256x192.py', HALF),
    'scnet': Family(f'{HEATMAP}/td-hm_scnet50_8xb64-210e_coco-256x192.py', (128, 128)),
    'vipnas': Family(f'{HEATMAP}/td-hm_vipnas-res50_8xb64-210e_coco-256x192.py', HALF),
    'litehrnet': Family(f'{HEATMAP}/td-hm_litehrnet-18_8xb64-210e_coco-256x192.py', HALF),
    'shufflenet-v1': Family(f'{HEATMAP}/td-hm_shufflenetv1_8xb64-210e_coco-256x192.py', HALF),
    'shufflenet-v2': Family(f'{HEATMAP}/td-hm_shufflenetv2_8xb64-210e_coco-256x192.py', HALF),
    'alexnet': Family(f'{HEATMAP}/td-hm_alexnet_8xb64-210e_coco-256x192.py', HALF),
    'vgg': Family(f'{HEATMAP}/td-hm_vgg16-bn_8xb64-210e_coco-256x192.py', HALF),
    'cpm': Family(f'{HEATMAP}/td-hm_cpm_8xb64-210e_coco-256x192.py', (72, 96)),
    'hourglass': Family(f'{HEATMAP}/td-hm_hourglass52_8xb32-210e_coco-256x256.py', (128, 128)),
    'mspn': Family(f'{HEATMAP}/td-hm_mspn50_8xb32-210e_coco-256x192.py', HALF),
    'rsn': Family(f'{HEATMAP}/td-hm_rsn18_8xb32-210e_coco-256x192.py', HALF),
    'cspnext-udp': Family(
        f'{HEATMAP}/cspnext-tiny_udp_8xb256-210e_coco-256x192.py',
        HALF,
        undetermined=0.2,  # as DARK above: 12.3 % measured
    ),
    'swin': Family(f'{HEATMAP}/td-hm_swin-t-p4-w7_8xb32-210e_coco-256x192.py', HALF),
    'pvt': Family(f'{HEATMAP}/td-hm_pvt-s_8xb64-210e_coco-256x192.py', HALF),
    'hrformer': Family(f'{HEATMAP}/td-hm_hrformer-small_8xb32-210e_coco-256x192.py', HALF),
    'vit': Family(
        f'{HEATMAP}/td-hm_ViTPose-small-simple_8xb64-210e_coco-256x192.py', needs='mmpretrain'
    ),
    # one stage
    'rtmo': Family(
        f'{BODY}/rtmo/body7/rtmo-t_8xb32-600e_body7-416x416.py',
        (160, 160),
        settings={'bbox_thr': 0.7},
        fast=True,
    ),
    'yoloxpose': Family(
        f'{BODY}/yoloxpose/coco/yoloxpose_tiny_4xb64-300e_coco-416.py',
        (160, 160),
        settings={'bbox_thr': 0.5},
        fast=True,
    ),
    'associative-embedding': Family(
        f'{BODY}/associative_embedding/coco/ae_hrnet-w32_8xb24-300e_coco-512x512.py', (128, 128)
    ),
    'dekr': Family(
        f'{BODY}/dekr/coco/dekr_hrnet-w32_8xb10-140e_coco-512x512.py',
        (128, 128),
        scenes=3,
        batches=False,
    ),
    'cid': Family(
        f'{BODY}/cid/coco/cid_hrnet-w32_8xb20-140e_coco-512x512.py',
        (128, 128),
        scenes=3,
        batches=False,
    ),
    'edpose': Family(
        f'{BODY}/edpose/coco/edpose_res50_8xb2-50e_coco-800x1333.py', (192, 320), scenes=2
    ),
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
        assert (max(pair.passes) > 1) == (batches and batch_size > 1)
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
        reason = f'needs {family.needs} and a torchvision of the installed torch'
        pytest.importorskip(family.needs, reason=reason, exc_type=ImportError)
    with one_thread():
        check(build(family, tmp_path), family.undetermined, family.batches)


def photos(shared: Path) -> list[np.ndarray]:
    """The four photos and their mirror images: eight for a full batch."""
    images = [mmcv.imread(path) for path in sorted((shared / 'images').glob('*.jpg'))]
    return images + [np.ascontiguousarray(image[:, ::-1]) for image in images]


def checkpoint_pair(
    shared: Path, config: str, checkpoint: str, engine: str = 'torch', **detector: Any
) -> Pair:
    """Both inferencers on a real checkpoint, which stock cannot load without help."""
    weights = str(shared / 'models' / checkpoint)
    arguments = {'weights': weights, 'device': 'cpu', **detector}
    cfg = mmpose_config(config)
    with allowed_types():
        stock = Pose2DInferencer(copy.deepcopy(cfg), **arguments)
    ours = BatchPose2DInferencer(
        cfg, **arguments, no_person='whole_image', on_error='raise', engine=engine
    )
    return Pair(stock, ours, photos(shared))


def rtmo_pair(shared: Path, engine: str = 'torch') -> Pair:
    config = f'{BODY}/rtmo/coco/rtmo-s_8xb32-600e_coco-640x640.py'
    pair = checkpoint_pair(shared, config, 'rtmo-s_four-photos.pth', engine)
    pair.settings = {'bbox_thr': 0.1, 'nms_thr': 0.65}
    return pair


def top_down_pair(shared: Path, engine: str = 'torch') -> Pair:
    mim = Path(BaseInferencer._get_repo_or_mim_dir('mmpose'))
    return checkpoint_pair(
        shared,
        f'{BODY}/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py',
        'rtmpose-s_four-photos.pth',
        engine,
        det_model=str(mim / 'demo/mmdetection_cfg/rtmdet_nano_320-8xb32_coco-person.py'),
        det_weights=str(shared / 'models/rtmdet-nano_person.pth'),
        det_cat_ids=[0],
    )


@pytest.mark.slow
def test_rtmo_checkpoint(shared):
    check(rtmo_pair(shared))  # 0.2 % undetermined, up to 0.19 px where stock itself moves by 0.17


@pytest.mark.slow
def test_detector_and_rtmpose_checkpoints(shared):
    # Its scores go up to 2.2, and to no more than 1e-4 are they determined: 1.6 %
    # measured beyond that, up to 1.6e-4.
    check(top_down_pair(shared), undetermined=0.04)


@pytest.fixture(scope='module')
def small_pair(tmp_path_factory):
    with one_thread():
        return build(FAMILIES['rle'], tmp_path_factory.mktemp('weights'))


@pytest.fixture(scope='module')
def small_judge(small_pair):
    with one_thread():
        return small_pair.judge()


@pytest.mark.parametrize('fault', ['boxes', 'order', 'score', 'network'])
def test_a_fault_is_not_taken_for_rounding(small_pair, small_judge, fault, monkeypatch):
    monkeypatch.setattr(fidelity, 'NUDGES', 2)
    hook = small_pair.ours.model.head.fc.register_forward_hook(
        lambda module, inputs, outputs: outputs * (1.001 if fault == 'network' else 1)
    )
    with one_thread(), hook:
        predictions = small_pair.run_ours(8, shift=0.5 if fault == 'boxes' else 0)
    if fault == 'order':
        predictions = [
            {name: value[::-1] for name, value in prediction.items()} for prediction in predictions
        ]
    elif fault == 'score':
        predictions[0]['keypoint_scores'][0, 0] += 2 * fidelity.SCORE_TOLERANCE
    small_judge.faults.clear()
    with one_thread():
        small_judge.compare(predictions, fault)
    assert small_judge.faults
