"""Concurrent batches share only weights."""

import dis
import inspect
import threading
from collections.abc import Callable
from itertools import pairwise

import mmdet.registry
import mmpose.registry
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from mmpose.models.heads import RTMOHead
from mmpose.models.heads.hybrid_heads import YOLOXPoseHead
from support.tiny import TinyModel, mm_config, one_stage_config, picture
from torch import nn

from mmpose_batch.stages.isolation import with_own_head

pytestmark = pytest.mark.usefixtures('mmpose_scope')

YOLOX = 'configs/body_2d_keypoint/yoloxpose/coco/yoloxpose_tiny_4xb64-300e_coco-416.py'
# Landscape and portrait inputs have equally many priors, at different positions.
SIZES = ((128, 64), (64, 128))
# Seconds until a batch that waits for the other is considered deadlocked.
SECONDS = 120


def assigned_by(cls: type, roots: tuple[str, ...] = ('predict', 'forward')) -> set[str]:
    """Attributes that these methods assign to self, or methods whose names they use."""
    waiting, seen, names = list(roots), set(), set()
    while waiting:
        method = waiting.pop()
        function = inspect.unwrap(getattr(cls, method, None) or print)
        if method in seen or not inspect.isfunction(function):
            continue
        seen.add(method)
        waiting += function.__code__.co_names
        steps = list(dis.get_instructions(function))
        names |= {
            store.argval
            for load, store in pairwise(steps)
            if store.opname == 'STORE_ATTR' and load.argval == 'self'
        }
    return names


def test_heads_that_store_state_are_known():
    """Heads of MMDetection store none; once those of MMPose do not either, remove with_own_head."""
    registries = mmpose.registry.MODELS, mmdet.registry.MODELS
    heads = [
        cls
        for registry in registries
        for cls in registry.module_dict.values()
        if 'heads' in cls.__module__ and issubclass(cls, nn.Module)
    ]
    assert len(heads) > 80
    found = {cls: names for cls in heads if (names := assigned_by(cls))}
    state = {'mlvl_priors', 'featmap_sizes'}
    assert found == {RTMOHead: state, YOLOXPoseHead: state}


def test_assigning_to_the_copy_does_not_change_the_model():
    model = nn.Module()
    model.head = nn.Linear(2, 2)
    model.neck = None
    own = with_own_head(model)
    own.head.priors, own.test_cfg = 1, {}
    assert own.head.weight is model.head.weight
    assert not hasattr(model.head, 'priors') and not hasattr(model, 'test_cfg')
    assert torch.equal(own.head(torch.ones(1, 2)), model.head(torch.ones(1, 2)))


class Interleaving:
    """Runs one batch after another has stored its priors, but not yet their size."""

    def __init__(self, head: type[nn.Module], patch: pytest.MonkeyPatch) -> None:
        self._stored, self._passed = threading.Event(), threading.Event()
        assign = nn.Module.__setattr__

        def assign_and_wait(module: nn.Module, name: str, value: object) -> None:
            assign(module, name, value)
            if name == 'mlvl_priors' and not self._stored.is_set():
                self._stored.set()
                assert self._passed.wait(SECONDS), 'deadlock: the other batch waits for this one'

        patch.setattr(head, '__setattr__', assign_and_wait)

    def run(self, one: Callable[[], object], other: Callable[[], object]) -> list:
        """Results of a batch that waits for another, and results of the other."""
        results: list = []
        thread = threading.Thread(target=lambda: results.append(one()))
        thread.start()
        try:
            assert self._stored.wait(SECONDS), 'no priors were stored'
            results.append(other())
        finally:
            self._passed.set()
            thread.join()
        return results[::-1]


def small_head(cls: type[nn.Module]) -> nn.Module:
    cfg = one_stage_config() if cls is RTMOHead else mm_config('mmpose', YOLOX)
    torch.manual_seed(0)
    head = mmpose.registry.MODELS.build(cfg.model.head).eval()
    assert type(head) is cls
    return head


@torch.no_grad()
@pytest.mark.parametrize('cls', [RTMOHead, YOLOXPoseHead])
def test_heads_do_not_share_priors(cls, monkeypatch):
    model = nn.Module()
    model.head = small_head(cls)
    channels = 32 if cls is RTMOHead else 96

    def predict(size: tuple[int, int]) -> np.ndarray:
        sample = BaseDataElement(metainfo={'input_size': size})
        feats = [
            torch.randn(
                *(1, channels, size[1] // stride, size[0] // stride),
                generator=torch.Generator().manual_seed(stride),
            )
            for stride in ((16, 32) if cls is RTMOHead else (8, 16, 32))
        ]
        with torch.no_grad():  # threads do not inherit it
            cfg = {'score_thr': 0.0, 'nms_thr': 0.99}
            (found,) = with_own_head(model).head.predict(feats, [sample], cfg)
        return found.keypoints

    landscape, portrait = (predict(size) for size in SIZES)
    assert landscape.shape == portrait.shape and np.abs(landscape - portrait).max() > 16
    predict(SIZES[0])
    found = Interleaving(cls, monkeypatch).run(lambda: predict(SIZES[1]), lambda: predict(SIZES[0]))
    np.testing.assert_array_equal(found, [portrait, landscape])


def test_concurrent_batches_of_two_shapes_do_not_share_priors(one_stage: TinyModel, monkeypatch):
    pytest.importorskip('openvino')
    ours = one_stage.ours(
        rect=True, batch_size=2, engine='openvino', engine_cache=False, self_check=False
    )
    monkeypatch.delattr(
        ours.model.head, 'predict'
    )  # the fast equivalent stores no state; third-party heads may
    images = [picture(*size) for size in SIZES]

    def run(image: np.ndarray) -> list:
        result, _ = ours([image, image], bbox_thr=0.1)  # single images would run one by one
        return result['predictions'][0]

    expected = [run(image) for image in (images[1], images[0])]
    assert min(map(len, expected)) > 5
    assert ours.runner.parallel == 2
    found = Interleaving(RTMOHead, monkeypatch).run(lambda: run(images[1]), lambda: run(images[0]))
    assert found == expected
