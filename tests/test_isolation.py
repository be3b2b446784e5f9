"""Two batches at a time share weights and nothing else."""

import time

import numpy as np
import pytest
import torch
from mmpose.models.heads import RTMOHead
from mmpose.models.heads.hybrid_heads import YOLOXPoseHead
from support.tiny import TinyModel, picture
from torch import nn

from mmpose_batch.isolation import with_own_head

# Landscape and portrait: their inputs have equally many priors, at other places.
IMAGES = [picture(*((120, 80), (80, 120))[seed % 2], seed) for seed in range(24)]


@pytest.mark.parametrize('head', [RTMOHead, YOLOXPoseHead])
def test_heads_that_keep_state_are_known(head):
    """If MMPose keeps none any more, with_own_head may go."""
    names = head.predict.__code__.co_names
    assert {'mlvl_priors', 'featmap_sizes'} <= set(names)


def test_what_is_assigned_stays_with_the_copy():
    model = nn.Module()
    model.head = nn.Linear(2, 2)
    model.neck = None
    own = with_own_head(model)
    own.head.kept, own.test_cfg = 1, {}
    assert own.head.weight is model.head.weight
    assert not hasattr(model.head, 'kept') and not hasattr(model, 'test_cfg')
    assert torch.equal(own.head(torch.ones(1, 2)), model.head(torch.ones(1, 2)))


def test_batches_of_two_shapes_at_a_time_take_no_priors_of_each_other(
    one_stage: TinyModel, monkeypatch, tmp_path
):
    pytest.importorskip('openvino')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)

    def run(**settings: object) -> list:
        ours = one_stage.ours(rect=True, batch_size=2, **settings)
        results = list(ours(IMAGES, bbox_thr=0.1))
        assert ours.runner.parallel == (2 if settings else 1)
        return [result['predictions'][0] for result in results]

    expected = run()
    assign = nn.Module.__setattr__

    def assign_slowly(module: nn.Module, name: str, value: object) -> None:
        assign(module, name, value)
        if name == 'mlvl_priors':
            time.sleep(0.02)  # the other thread comes by before the size is assigned

    monkeypatch.setattr(RTMOHead, '__setattr__', assign_slowly)
    found = run(engine='openvino')
    assert sum(map(len, expected)) > 100
    for ours, torchs in zip(found, expected, strict=True):
        assert len(ours) == len(torchs)
        for one, other in zip(ours, torchs, strict=True):
            np.testing.assert_allclose(one['keypoints'], other['keypoints'], atol=0.05)
