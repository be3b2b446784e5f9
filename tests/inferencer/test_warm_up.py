"""Warm-up: engines are built for the first images, and its images are decoded once."""

from typing import Any

import numpy as np
import pytest
from support.inferencing import KINDS
from support.tiny import picture, save

from mmpose_batch.engines import warmup
from mmpose_batch.engines.verification import BOUNDS, Bound
from mmpose_batch.images.read import read_image
from mmpose_batch.sources.base import Frame

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')


def test_eager_pytorch_in_bf16_has_equal_results_with_and_without_self_check(top_down, monkeypatch):
    monkeypatch.setitem(BOUNDS, 'bf16', Bound(size=9.0, score=9.0, found=0.0))  # random weights
    images = [picture(90, 120, seed, persons=2) for seed in range(3)]
    checked = top_down.ours(precision='bf16')
    plain = top_down.ours(precision='bf16', self_check=False)
    assert list(checked(images)) == list(plain(images))
    assert checked.runner.report['self_check']['size'] > 0
    assert 'self_check' not in plain.runner.report


@pytest.mark.parametrize(('images', 'batch_size', 'parallel'), [(1, 8, 1), (2, 1, 1), (2, 8, 2)])
def test_an_engine_is_built_for_the_first_images(one_stage, images, batch_size, parallel):
    """With two concurrent batches, each would have only half of the cores."""
    inferencer = one_stage.ours(engine='openvino', batch_size=8)
    list(inferencer([picture(60, 90)] * images, batch_size=batch_size))
    assert inferencer.runner.selection.parallel == parallel


@pytest.mark.parametrize('kind', KINDS)
def test_images_decoded_by_the_warm_up_are_not_decoded_again(
    one_stage, top_down, monkeypatch, tmp_path, kind
):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(warmup, 'measure_rates', lambda run, *_: {2: 1.0})
    paths = [save(tmp_path / f'{seed}.png', picture(60, 90, seed, persons=2)) for seed in range(10)]
    (tmp_path / 'text.png').write_text('no image')
    paths.insert(1, str(tmp_path / 'text.png'))
    read = []

    def counted(frame: Frame, loader: Any) -> np.ndarray:
        read.append(frame.data)
        return read_image(frame, loader)

    monkeypatch.setattr('mmpose_batch.stages.read.read_image', counted)
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    expected = list(model.ours(batch_size=2)(paths))
    assert sorted(read) == sorted(paths)
    read.clear()
    assert list(model.ours(batch_size='auto')(paths)) == expected
    assert sorted(read) == sorted(
        [*paths, str(tmp_path / 'text.png')]
    )  # read twice, since it fails
