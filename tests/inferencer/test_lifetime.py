"""Images are read once and freed early; no thread is busy after a call that ends early."""

import gc
import itertools
import weakref
from collections.abc import Iterator
from typing import Any

import cv2
import mmcv
import mmengine
import numpy as np
import pytest
from support.factories import busy_threads
from support.inferencing import KINDS, PICTURES, wrap_test_step, write_video
from support.tiny import picture

from mmpose_batch import InputError
from mmpose_batch.writers.mmpose import MMPoseWriter

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('drawn', [False, True])
def test_a_file_is_read_and_decoded_once(ours, folder, tmp_path, monkeypatch, kind, drawn):
    calls: dict[str, int] = {}

    def count(module: Any, name: str) -> None:
        function = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(mmengine.fileio, 'get')
    count(mmcv, 'imfrombytes')
    count(mmcv.image.io, 'imfrombytes')
    count(cv2, 'imdecode')
    count(cv2, 'imread')
    options = {'return_vis': True, 'out_dir': str(tmp_path)} if drawn else {}
    list(ours[kind](str(folder), **options))
    files = len(PICTURES)
    assert calls == {'get': files, 'imfrombytes': files, 'imdecode': files}


@pytest.mark.parametrize(('kind', 'num_workers'), [('one_stage', 0), ('top_down', 3)])
def test_yielded_results_are_not_referenced_any_more(one_stage, top_down, kind, num_workers):
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    inferencer = model.ours(batch_size=2, det_batch_size=2, num_workers=num_workers)
    images: list[weakref.ref] = []
    results: list[weakref.ref] = []

    def made(seed: int) -> np.ndarray:
        image = picture(64, 48, seed, persons=1 + seed % 3)
        images.append(weakref.ref(image))
        return image

    def alive(references: list[weakref.ref]) -> int:
        return sum(reference() is not None for reference in references)

    call = inferencer(map(made, range(40)), return_datasamples=True, return_vis=True)
    for index, result in enumerate(call):
        results.append(weakref.ref(result['predictions'][0]))
        results.append(weakref.ref(result['visualization'][0]))
        del result
        if index % 12 == 11:
            gc.collect()  # data samples of MMEngine are part of reference cycles
            # Except the newest, which the generator releases when it is resumed.
            assert alive(results[:-2]) == 0
            # Reading and preprocessing are each at most 2 * workers ahead, reading also by a
            # batch of the detector; and at most 2 batches of images wait in each stage.
            assert alive(images) <= 2 * 2 * num_workers + 2 + 2 * 2 * 2 + 2
    del call
    inferencer(
        [PICTURES[0]], return_vis=True
    ).__next__()  # MMPose's visualizer references the last drawing
    gc.collect()
    assert (alive(images), alive(results)) == (0, 0)


@pytest.mark.parametrize('kind', KINDS)
def test_decoded_images_do_not_wait_for_the_network(one_stage, top_down, monkeypatch, kind):
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    inferencer = model.ours(batch_size=4, det_batch_size=1, num_workers=0)
    decoded: list[weakref.ref] = []

    def read(frame: Any, loader: Any) -> np.ndarray:
        image = picture(64, 48, frame.index, persons=1)
        decoded.append(weakref.ref(image))
        return image

    def none_left(data: dict) -> None:
        assert not any(reference() is not None for reference in decoded)

    monkeypatch.setattr('mmpose_batch.stages.read.read_image', read)
    wrap_test_step(inferencer, monkeypatch, none_left)
    results = list(inferencer([f'{index}.jpg' for index in range(12)]))
    assert [result for result in results if 'error' in result] == []


def leave(results: Iterator[dict], how: str) -> None:
    if how == 'break':
        for _ in results:
            break
        results.close()
    elif how == 'close':
        next(results)
        results.close()
    elif how == 'forget':
        next(results)
        del results
    elif how == 'never begin':
        results.close()
    else:
        error = {'error': LookupError, 'Ctrl-C': KeyboardInterrupt}[how]
        next(results)
        with pytest.raises(error):
            results.throw(error())


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('how', ['break', 'close', 'forget', 'never begin', 'error', 'Ctrl-C'])
def test_no_thread_is_busy_after_a_call_that_is_left_early(ours, kind, how):
    results = ours[kind](itertools.cycle(PICTURES))
    leave(results, how)
    del results
    assert busy_threads() == []


def test_an_interruption_in_the_network_ends_all_work(ours, monkeypatch):
    def interrupted(data: dict) -> Any:
        raise KeyboardInterrupt

    wrap_test_step(ours['one_stage'], monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt) as raised:
        list(ours['one_stage'](itertools.cycle(PICTURES)))
    assert busy_threads() == []
    assert raised.value is not None  # the error and its stack frames are alive until here


def test_a_full_disk_ends_all_work_while_its_error_is_held(ours, tmp_path, monkeypatch):
    def full(*args: Any) -> None:
        raise OSError(28, 'No space left on device')

    path = write_video(tmp_path / 'film.mp4', [picture(96, 64, seed) for seed in range(30)])
    monkeypatch.setattr(MMPoseWriter, 'write', full)
    with pytest.raises(OSError, match='No space') as raised:
        list(ours['one_stage'](path, pred_out_dir=str(tmp_path / 'out')))
    assert busy_threads() == []
    assert raised.value is not None


def test_a_bad_frame_ends_all_work_while_its_error_is_held(one_stage, tmp_path, monkeypatch):
    inferencer = one_stage.ours(on_error='raise')

    def fail(data: dict) -> Any:
        raise RuntimeError('cannot run')

    path = write_video(tmp_path / 'film.mp4', [picture(96, 64, seed) for seed in range(30)])
    wrap_test_step(inferencer, monkeypatch, fail)
    with pytest.raises(InputError, match='cannot run') as raised:
        list(inferencer(path))
    assert busy_threads() == []
    assert raised.value is not None
