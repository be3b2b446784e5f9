"""Pairs of inferencers, ours and upstream's, with the real checkpoints and photos."""

import copy
import functools
from pathlib import Path

import mmcv
import numpy as np
from mmengine.infer import BaseInferencer
from mmpose.apis.inferencers import Pose2DInferencer

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.models.checkpoint import allowed_types

from .families import BODY
from .fidelity import Pair, Upstream, mmpose_config

_DETECTOR = 'demo/mmdetection_cfg/rtmdet_nano_320-8xb32_coco-person.py'
_CONFIGS = {
    'rtmo-s': f'{BODY}/rtmo/coco/rtmo-s_8xb32-600e_coco-640x640.py',
    'pair': f'{BODY}/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py',
}
_FILES = {'rtmo-s': 'rtmo-s_four-photos.pth', 'pair': 'rtmpose-s_four-photos.pth'}
_SETTINGS = {'rtmo-s': {'bbox_thr': 0.1, 'nms_thr': 0.65}, 'pair': {}}


def checkpoint_pair(shared: Path, name: str, engine: str = 'torch') -> Pair:
    """Both inferencers with a real checkpoint; pairs with the same one share upstream's.

    Args:
        shared: Folder of checkpoints and photos.
        name: ``rtmo-s``, or ``pair``: RTMDet-nano and RTMPose-s.
        engine: Engine of our inferencer.
    """
    ours = BatchPose2DInferencer(
        mmpose_config(_CONFIGS[name]),
        **_arguments(shared, name),
        no_person='whole_image',
        on_error='raise',
        engine=engine,
    )
    return Pair(_upstream(shared, name), ours)


@functools.lru_cache(maxsize=1)
def _upstream(shared: Path, name: str) -> Upstream:
    with allowed_types():  # by default, torch.load rejects MMEngine's files
        inferencer = Pose2DInferencer(
            copy.deepcopy(mmpose_config(_CONFIGS[name])), **_arguments(shared, name)
        )
    return Upstream(inferencer, _photos(shared), settings=_SETTINGS[name])


def _photos(shared: Path) -> list[np.ndarray]:
    """The four photos and their mirror images: eight images, a full batch."""
    images = [mmcv.imread(path) for path in sorted((shared / 'images').glob('*.jpg'))]
    return images + [np.ascontiguousarray(image[:, ::-1]) for image in images]


def _arguments(shared: Path, name: str) -> dict:
    arguments = {'weights': str(shared / 'models' / _FILES[name]), 'device': 'cpu'}
    if name == 'rtmo-s':
        return arguments
    mmpose = Path(BaseInferencer._get_repo_or_mim_dir('mmpose'))
    return {
        **arguments,
        'det_model': str(mmpose / _DETECTOR),
        'det_weights': str(shared / 'models/rtmdet-nano_person.pth'),
        'det_cat_ids': [0],
    }
