"""Images that cannot be read, and networks that fail on some of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.inferencing import KINDS, PERSONS, PICTURES, assert_close, names_below, wrap_test_step
from torch import nn

from mmpose_batch import InputError

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')


@pytest.fixture
def paths_with_bad_files(folder: Path, tmp_path: Path) -> list[str]:
    (tmp_path / 'text.png').write_text('no image')
    missing = str(tmp_path / 'missing.png')
    good = [str(folder / name) for name in ('a.png', 'x/c.png', 'x/d.png')]
    return [good[0], str(tmp_path / 'text.png'), good[1], missing, missing, good[2]]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_bad_file_has_a_failure_record_in_order(
    one_stage, top_down, paths_with_bad_files, tmp_path, kind, num_workers
):
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    inferencer = model.ours(num_workers=num_workers)
    out = tmp_path / 'out'
    results = list(inferencer(paths_with_bad_files, return_vis=True, out_dir=str(out)))
    assert [result.get('image') for result in results] == [
        path if position in (1, 3, 4) else None
        for position, path in enumerate(paths_with_bad_files)
    ]
    for result in results:
        if 'error' in result:
            assert (result['predictions'], result['visualization']) == ([], [])
            assert 'expected' in result['error']
            assert '\n' not in result['error']
    good = [result for result in results if 'error' not in result]
    alone = list(inferencer([path for path in paths_with_bad_files if 'pictures' in path]))
    for mixed, single in zip(good, alone, strict=True):
        assert_close(mixed['predictions'], single['predictions'])
    assert len(names_below(out)) == 6  # a drawing and a JSON file for each good image


def test_a_bad_file_ends_the_call_with_on_error_raise(one_stage, paths_with_bad_files):
    inferencer = one_stage.ours(on_error='raise')
    results = inferencer(paths_with_bad_files)
    next(results)
    with pytest.raises(InputError) as raised:
        next(results)
    assert str(raised.value).startswith(f'{paths_with_bad_files[1]}: expected an image')


@pytest.mark.parametrize('kind', KINDS)
def test_a_network_that_fails_on_one_input_fails_that_image_only(ours, plain, monkeypatch, kind):
    inferencer, expected = ours[kind], plain[kind]
    bad = '000002.jpg'

    def fail_on_one(data: dict) -> None:
        if any(sample.img_path == bad for sample in data['data_samples']):
            raise RuntimeError('out of memory\nhint: buy more')

    wrap_test_step(inferencer, monkeypatch, fail_on_one)
    found = list(inferencer(PICTURES))
    assert found[2] == {
        'predictions': [],
        'visualization': [],
        'image': bad,
        'error': 'network: RuntimeError: out of memory hint: buy more',
    }
    for position in (0, 1, 3, 4, 5, 6):
        assert_close(found[position]['predictions'], expected[position]['predictions'])


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('part', ['backbone', 'head'])
def test_images_fail_if_the_network_outputs_nan(one_stage, top_down, kind, part):
    """Without the check, a one-stage model would silently have no detections."""
    inferencer = {'one_stage': one_stage, 'top_down': top_down}[kind].ours(batch_size=3)
    for parameter in getattr(inferencer.model, part).parameters():
        parameter.data.fill_(np.nan)
    failed = [bool(count) or kind == 'one_stage' for count in PERSONS]
    results = list(inferencer(PICTURES))
    assert ['error' in result for result in results] == failed
    for error in (result['error'] for result in results if 'error' in result):
        assert error.startswith('network: expected numbers as outputs of the network, found NaN')


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('name', ['keypoints', 'keypoint_scores', 'bboxes', 'bbox_scores'])
@pytest.mark.parametrize('kind', KINDS)
def test_predictions_that_are_not_finite_fail_their_image_only(
    ours, monkeypatch, kind, name, value
):
    inferencer = ours[kind]
    test_step = type(inferencer.model).test_step

    def spoiled(model: nn.Module, data: dict) -> Any:
        samples = test_step(model, data)
        for sample in samples:
            if sample.img_path == '000002.jpg':
                sample.pred_instances[name][-1] = value
        return samples

    monkeypatch.setattr(type(inferencer.model), 'test_step', spoiled)
    errors = [result.get('error') for result in inferencer(PICTURES)]
    assert f': expected finite {name}, found ' in errors.pop(2)
    assert set(errors) == {None}


def test_a_detector_that_fails_on_one_image_fails_that_image_only(ours, monkeypatch):
    inferencer = ours['top_down']
    detect = inferencer.detector.detect

    def fail_on_five(prepared: list[dict], *thresholds: float) -> Any:
        if any(len(packed['data_samples']) == 5 for packed in prepared):
            raise RuntimeError('too many')
        return detect(prepared, *thresholds)

    monkeypatch.setattr(inferencer.detector, 'detect', fail_on_five)
    results = list(inferencer(PICTURES))
    assert [r.get('error') for r in results] == [
        'detection: RuntimeError: too many' if count == 5 else None for count in PERSONS
    ]
    assert [len(r['predictions'][0]) for r in results if 'error' not in r] == [1, 0, 2, 0, 12, 3]
