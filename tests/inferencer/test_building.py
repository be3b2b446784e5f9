"""Options of the constructor: precision, batch size, registry, pipeline."""

import copy

import numpy as np
import pytest
from mmpose.apis.inferencers import Pose2DInferencer
from mmpose.registry import INFERENCERS
from support.inferencing import KINDS, PICTURES
from support.tiny import TinyModel, picture, resize_input

from mmpose_batch import BatchPose2DInferencer

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')


@pytest.mark.parametrize('kind', KINDS)
def test_bf16_runs_on_a_cpu_and_moves_keypoints_a_little(one_stage, top_down, ours, kind):
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    lower = model.ours(precision='bf16', self_check=False)
    assert lower.options.precision == 'bf16'
    images = [image for image in PICTURES if image[0, 0, 0]]
    options = {'return_datasamples': True}
    found, expected = (
        [result['predictions'][0].pred_instances for result in inferencer(images, **options)]
        for inferencer in (lower, ours[kind])
    )
    moved = []
    for mine, reference in zip(found, expected, strict=True):
        assert mine.keypoints.dtype == reference.keypoints.dtype
        assert np.isfinite(mine.keypoints).all()
        if len(mine) == len(reference) > 0:
            moved.append(np.abs(mine.keypoints - reference.keypoints).mean())
    assert len(moved) > 1
    # Images are about 100 px wide; random weights amplify rounding far more than trained ones.
    assert 0 < np.median(moved) < 5


def test_fp16_on_a_cpu_is_an_error_that_names_bf16(one_stage):
    with pytest.raises(ValueError, match='bf16'):
        one_stage.ours(precision='fp16')


@pytest.mark.parametrize(
    'options', [{'precision': 'int8'}, {'num_workers': -1}, {'on_error': 'skip'}, {'batch_size': 0}]
)
def test_wrong_options_are_an_error_before_anything_is_built(one_stage, monkeypatch, options):
    monkeypatch.setattr('mmpose_batch.models.names.MODELS.build', lambda cfg: pytest.fail('built'))
    with pytest.raises(ValueError, match=next(iter(options))):
        one_stage.ours(**options)


def test_the_registry_builds_it(one_stage):
    inferencer = INFERENCERS.build(
        dict(
            type='BatchPose2DInferencer',
            model=one_stage.cfg,
            weights=one_stage.weights,
            device='cpu',
            batch_size=5,
        )
    )
    assert isinstance(inferencer, BatchPose2DInferencer)
    assert isinstance(inferencer, Pose2DInferencer)
    assert inferencer.options.batch_size == 5


@pytest.mark.parametrize(
    ('kind', 'size', 'expected'),
    [('one_stage', (96, 96), 16), ('one_stage', (640, 640), 2), ('top_down', (64, 96), 16)],
)
def test_the_default_batch_fits_the_inputs(one_stage, top_down, kind, size, expected):
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    cfg = copy.deepcopy(model.cfg)
    resize_input(cfg, size)
    assert TinyModel(cfg, model.weights).ours().options.batch_size == expected


def test_the_requested_batch_size_is_used(ours):
    assert {kind: ours[kind].options.batch_size for kind in KINDS} == {
        'one_stage': 3,
        'top_down': 4,
    }


def test_progress_is_shown_with_show_progress(one_stage, capsys):
    inferencer = one_stage.ours(show_progress=True)
    assert len(list(inferencer(PICTURES))) == len(PICTURES)
    assert 'Inference' in capsys.readouterr().out


def test_a_replaced_pipeline_is_used(top_down):
    images = [picture(60, 90, persons=2)]
    inferencer = top_down.ours()
    before = next(inferencer(images))
    standard = inferencer.pipeline
    inferencer.pipeline = copy.deepcopy(standard)
    inferencer.pipeline.transforms[1].padding = 1.0
    assert next(inferencer(images)) != before
    inferencer.pipeline.transforms[1].padding = standard.transforms[1].padding
    assert next(inferencer(images)) == before
