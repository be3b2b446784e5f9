"""Drawings and files of predictions, as upstream writes them."""

import json
from pathlib import Path

import cv2
import mmcv
import mmengine
import numpy as np
import pytest
from support.factories import our_threads
from support.inferencing import KINDS, PICTURES, assert_close, names_below, persons_of, write_video
from support.tiny import picture

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')


def test_heatmaps_are_drawn_as_by_upstream(ours, upstream):
    images = [PICTURES[0], PICTURES[2]]
    options = {'return_vis': True, 'draw_heatmap': True}
    expected = list(upstream['top_down'](images, **options))
    found = list(ours['top_down'](images, **options))
    for mine, theirs in zip(found, expected, strict=True):
        assert mine['visualization'][0].shape == theirs['visualization'][0].shape
        # The heatmap is below the image.
        assert mine['visualization'][0].shape[0] > images[0].shape[0]
        assert np.mean(mine['visualization'][0] != theirs['visualization'][0]) < 0.01


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('style', ['mmpose', 'openpose'])
def test_an_image_without_detections_can_be_drawn(ours, kind, style):
    options = {'return_vis': True, 'draw_heatmap': True, 'draw_bbox': True, 'bbox_thr': 2.0}
    (result,) = ours[kind](PICTURES[1], skeleton_style=style, **options)
    assert persons_of([result]) == [0]
    assert result['visualization'][0].shape[1] == PICTURES[1].shape[1]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('options', [{'out_dir': ''}, {'vis_out_dir': 'v', 'pred_out_dir': 'p'}])
def test_files_of_the_same_name_in_two_folders_do_not_collide(
    ours, folder, tmp_path, kind, options
):
    options = {key: str(tmp_path / value) for key, value in options.items()}
    results = list(ours[kind](str(folder), **options))
    vis = Path(options.get('vis_out_dir', tmp_path / 'visualizations'))
    predictions = Path(options.get('pred_out_dir', tmp_path / 'predictions'))
    names = names_below(folder)
    assert names_below(vis) == names
    assert names_below(predictions) == [name.replace('.png', '.json') for name in names]
    for name, image, result in zip(names, PICTURES, results, strict=True):
        written = json.loads((predictions / name).with_suffix('.json').read_text())
        assert written == json.loads(mmengine.dump(result['predictions'][0], file_format='json'))
        assert mmcv.imread(vis / name).shape == image.shape


def test_written_files_equal_those_of_upstream(ours, upstream, folder, tmp_path):
    path = str(folder / 'a.png')
    for name, inferencer in (('upstream', upstream['top_down']), ('ours', ours['top_down'])):
        list(inferencer(path, out_dir=str(tmp_path / name)))
    assert names_below(tmp_path / 'ours') == names_below(tmp_path / 'upstream')
    mine, theirs = tmp_path / 'ours', tmp_path / 'upstream'
    assert_close(
        *(json.loads((below / 'predictions/a.json').read_text()) for below in (mine, theirs))
    )
    drawn, expected = (mmcv.imread(below / 'visualizations/a.png') for below in (mine, theirs))
    assert np.mean(drawn != expected) < 0.01


def test_a_video_becomes_one_video_and_one_json(ours, upstream, tmp_path):
    path = write_video(tmp_path / 'film.mp4', [picture(96, 64, seed) for seed in range(8)])
    options = {'bbox_thr': 0.2}
    results = list(ours['one_stage'](path, out_dir=str(tmp_path / 'ours'), **options))
    assert len(results) == 8
    # Results are in the order of the frames, and equal those of single frames.
    alone = list(ours['one_stage'](list(mmcv.VideoReader(path)), **options))
    assert_close([r['predictions'] for r in results], [r['predictions'] for r in alone])
    assert len({str(result['predictions']) for result in results}) > 4

    list(upstream['one_stage'](path, out_dir=str(tmp_path / 'upstream'), **options))
    mine, theirs = tmp_path / 'ours', tmp_path / 'upstream'
    names = ['predictions/film.json', 'visualizations/film.mp4']
    assert names_below(mine) == names_below(theirs) == names
    frames, expected = (json.loads((below / names[0]).read_text()) for below in (mine, theirs))
    assert [frame['frame_id'] for frame in frames] == list(range(8))
    assert_close(frames, expected)
    drawn, expected = (mmcv.VideoReader(str(below / names[1])) for below in (mine, theirs))
    assert (len(drawn), drawn.fps, drawn.resolution) == (8, 12, (96, 64))
    # Each codec loses other details of these noisy pictures, whose drawings differ far more.
    distances = np.array([[cv2.absdiff(a, b).mean() for b in expected] for a in drawn])
    assert distances.diagonal().max() < 20
    assert (distances + 100 * np.eye(8)).min() > 50


def test_files_of_a_video_are_complete_after_leaving_early(ours, tmp_path):
    path = write_video(tmp_path / 'film.mp4', [picture(96, 64, seed) for seed in range(60)])
    results = ours['one_stage'](path, out_dir=str(tmp_path / 'out'))
    for _ in range(3):
        next(results)
    assert 'mmpose_batch_reader' in our_threads()
    results.close()
    assert len(json.loads((tmp_path / 'out/predictions/film.json').read_text())) == 3
    assert len(mmcv.VideoReader(str(tmp_path / 'out/visualizations/film.mp4'))) == 3
