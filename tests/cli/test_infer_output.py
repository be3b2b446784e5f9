"""Output of `infer`: every format, drawings, run.json and the summary."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import pytest
from mmpose.apis.inferencers import Pose2DInferencer
from support.command import NAMES
from support.factories import (
    Models,
    Outcome,
    files_below,
    read_lines,
    run_tool,
)

import mmpose_batch
from mmpose_batch.models.checkpoint import load_checkpoint
from mmpose_batch.models.names import default_filters

pytestmark = pytest.mark.usefixtures('one_thread', 'shared_inferencers')


@pytest.fixture(scope='module', params=['one_stage', 'whole_image', 'top_down'])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope='module')
def run(
    kind: str,
    photos: Path,
    models: Models,
    one_thread: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Outcome, Path]:
    """A run that writes every kind of output."""
    out_dir = tmp_path_factory.mktemp('run') / 'made' / 'by the tool'
    outcome = run_tool(
        *(photos, '--out-dir', out_dir, *getattr(models, kind)),
        *('--format', 'json', 'coco', '--save-vis', '--draw-bbox', '--batch-size', '3'),
    )
    return outcome, out_dir


def test_all_files_are_there(run):
    outcome, out_dir = run
    assert outcome.status == 0
    assert set(files_below(out_dir)) == {
        *('predictions.jsonl', 'predictions.coco.json', 'failures.jsonl'),
        *(f'predictions/{name}.json' for name in NAMES),
        *(f'vis/{name}' for name in NAMES),
    }
    assert (out_dir / 'failures.jsonl').read_bytes() == b''


def test_records_are_complete_and_in_input_order(run, photos):
    _, out_dir = run
    records = read_lines(out_dir / 'predictions.jsonl')
    assert [record['image'] for record in records] == NAMES
    for record in records:
        assert list(record) == ['image', 'width', 'height', 'instances']
        height, width = cv2.imread(str(photos / record['image'])).shape[:2]
        assert (record['width'], record['height']) == (width, height)
        assert record['instances']
        for instance in record['instances']:
            assert list(instance) == ['keypoints', 'keypoint_scores', 'bbox', 'bbox_score']
            assert np.shape(instance['keypoints']) == (17, 2)
            assert np.shape(instance['keypoint_scores']) == (17,)
            x1, y1, x2, y2 = instance['bbox']
            assert x1 < x2
            assert y1 < y2


def test_json_is_what_upstream_writes(run, kind, photos, models, tmp_path):
    _, out_dir = run
    upstream = upstream_inferencer(kind, models)
    filters = default_filters(upstream.cfg)
    if kind == 'top_down':
        filters['bbox_thr'] = 0.0
    for name in NAMES:
        list(upstream(str(photos / name), pred_out_dir=str(tmp_path), **filters))
        theirs = json.loads((tmp_path / f'{Path(name).stem}.json').read_text())
        ours = json.loads((out_dir / 'predictions' / f'{name}.json').read_text())
        assert_close(ours, theirs)


def upstream_inferencer(kind: str, models: Models) -> Pose2DInferencer:
    """The inferencer of MMPose with the same configs and weights."""
    name = 'rtmo' if kind == 'one_stage' else 'rtmpose'
    detector = models.file('rtmdet.py') if kind == 'top_down' else 'whole_image'
    upstream = Pose2DInferencer(
        models.file(f'{name}.py'), device='cpu', det_model=detector, det_cat_ids=[0]
    )
    upstream.model.load_state_dict(load_checkpoint(models.file(f'{name}.pth'))['state_dict'])
    if kind == 'top_down':
        state = load_checkpoint(models.file('rtmdet.pth'))['state_dict']
        upstream.detector.model.load_state_dict(state)
    return upstream


def assert_close(ours: Any, theirs: Any) -> None:
    """Check that the structure is equal and that values are within the promised tolerance."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_close(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)
    else:
        assert ours == pytest.approx(theirs, abs=0.01)


def test_records_json_and_coco_have_equal_values(run):
    _, out_dir = run
    coco = iter(json.loads((out_dir / 'predictions.coco.json').read_text()))
    for number, record in enumerate(read_lines(out_dir / 'predictions.jsonl')):
        upstream = json.loads((out_dir / 'predictions' / f'{record["image"]}.json').read_text())
        for instance, person in zip(record['instances'], upstream, strict=True):
            for key in ('keypoints', 'keypoint_scores', 'bbox_score'):
                np.testing.assert_allclose(instance[key], person[key], atol=0.001)
            np.testing.assert_allclose(instance['bbox'], person['bbox'][0], atol=0.001)
            result = next(coco)
            points = np.reshape(result['keypoints'], (17, 3))
            np.testing.assert_allclose(points[:, :2], instance['keypoints'])
            np.testing.assert_allclose(points[:, 2], instance['keypoint_scores'])
            x, y, width, height = result['bbox']
            np.testing.assert_allclose([x, y, x + width, y + height], instance['bbox'], atol=0.002)
            assert result['file_name'] == record['image']
            assert result['image_id'] == number  # the position, since the names are not numbers
    assert next(coco, None) is None


def test_drawings_are_the_photos_with_something_drawn(run, photos):
    _, out_dir = run
    for name in NAMES:
        photo = mmcv.imread(photos / name).astype(float)
        drawing = mmcv.imread(out_dir / 'vis' / name).astype(float)
        assert drawing.shape == photo.shape
        changed = np.abs(drawing - photo).max(axis=2) > 60
        assert 0 < changed.mean() < 0.7


def test_run_json_has_the_options_and_the_seconds_of_each_stage(run, kind):
    _, out_dir = run
    info = json.loads((out_dir / 'run.json').read_text())
    records = read_lines(out_dir / 'predictions.jsonl')
    assert info['status'] == 'finished'
    assert info['counts'] == {
        'images': 5,
        **dict.fromkeys(('frames', 'videos', 'unusable_videos', 'damaged_frames', 'resumed'), 0),
        'persons': sum(len(record['instances']) for record in records),
        'failures': 0,
    }
    assert info['device'] == 'cpu'
    assert info['options']['batch_size'] == 3
    assert info['options']['precision'] == 'fp32'
    assert info['options']['num_threads'] == 1
    seconds = info['seconds']
    stages = {'waiting', 'detection', 'network', 'writing', 'other'}
    assert set(seconds) == {'total', *stages}
    assert sum(seconds[stage] for stage in stages) == pytest.approx(seconds['total'], abs=0.01)
    assert seconds['network'] > 0
    assert (seconds['detection'] > 0) == (kind == 'top_down')
    assert info['images_per_second'] == pytest.approx(5 / seconds['total'])
    assert 100 * 2**20 < info['peak_resident_bytes'] < 64 * 2**30
    versions = info['identity']['versions']
    assert versions['mmpose_batch'] == mmpose_batch.__version__
    names = ('python', 'mmpose', 'mmdet', 'mmengine', 'mmcv', 'torch', 'numpy', 'cv2')
    assert all(re.match(r'\d+\.\d+', versions[name]) for name in names)


def test_jsonl_alone_is_the_default(photos, models, tmp_path):
    run_tool(photos, '--out-dir', tmp_path, *models.one_stage)
    assert set(files_below(tmp_path)) == {'predictions.jsonl', 'failures.jsonl'}


def test_the_summary(run):
    outcome, out_dir = run
    counts = json.loads((out_dir / 'run.json').read_text())['counts']
    lines = outcome.out.splitlines()
    assert lines[:3] == ['images    5', f'persons   {counts["persons"]}', 'failures  0']
    assert re.fullmatch(r'speed     \d+\.\d\d images/s in 0:\d\d', lines[3])
    stages = ('waiting', 'detection', 'network', 'writing', 'other')
    assert re.fullmatch('time      ' + ', '.join(rf'{stage} \d+ %' for stage in stages), lines[4])
    shares = [int(share) for share in re.findall(r'(\d+) %', lines[4])]
    assert 97 <= sum(shares) <= 103
