"""Live sources: results do not wait for later images."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from support.inferencing import KINDS, PICTURES
from support.tiny import picture

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.sources.base import Frame, Source
from mmpose_batch.sources.numbering import number
from mmpose_batch.workers import FLUSH, Marker

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')


class Camera:
    """Stands in for ``cv2.VideoCapture`` and counts the frames that are read."""

    count = 0

    def __init__(self, number: int) -> None:
        Camera.count = 0

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray]:
        Camera.count += 1
        return True, picture(60, 90, persons=1)

    def get(self, property_id: int) -> float:
        return 30.0

    def release(self) -> None:
        pass


@pytest.mark.parametrize('kind', KINDS)
def test_frames_of_a_camera_do_not_wait_for_a_batch(one_stage, top_down, monkeypatch, kind):
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    inferencer = model.ours(batch_size=16, det_batch_size=16, engine='openvino')
    monkeypatch.setattr('mmpose_batch.sources.live.cv2.VideoCapture', Camera)
    monkeypatch.setattr('mmpose_batch.sources.live.cv2.waitKey', lambda delay: -1)
    monkeypatch.setattr(BatchPose2DInferencer, 'draw', lambda *_: None)
    results = inferencer('webcam')
    next(results)
    assert Camera.count <= 5
    results.close()
    assert inferencer.runner.selection.parallel == 1


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('engine', ['torch', 'openvino'])
@pytest.mark.parametrize('option', ['a source that sends FLUSH', 'an iterator with max_wait'])
def test_a_single_image_does_not_wait_for_the_next(
    one_stage, top_down, kind, num_workers, engine, option
):
    """Without FLUSH, batches of 16 and the verification of an engine by 8 images would wait."""
    model = {'one_stage': one_stage, 'top_down': top_down}[kind]
    settings = {'batch_size': 16, 'det_batch_size': 16, 'num_workers': num_workers}
    inferencer = model.ours(**settings, engine=engine, engine_cache=False)
    (expected,) = model.ours(**settings, engine=engine)([PICTURES[0]])
    seen = threading.Event()

    def images() -> Iterator[np.ndarray]:
        yield PICTURES[0]
        assert seen.wait(60), 'the result of the first image waits for the second'
        yield PICTURES[1]

    def frames() -> Iterator[Frame | Marker]:
        for frame in number(images()):
            yield frame
            yield FLUSH

    if option == 'a source that sends FLUSH':
        results = inferencer.stream(Source(frames()), inferencer.call_options())
        found = next(results).predictions
    else:
        results = inferencer(images(), max_wait=0.01)
        found = next(results)['predictions']
    assert found == expected['predictions']
    seen.set()
    assert len(list(results)) == 1


@pytest.mark.parametrize('max_wait', [-1, float('nan'), float('inf'), '1', True])
def test_an_invalid_max_wait_is_an_error_at_the_call(ours, max_wait):
    with pytest.raises(ValueError, match='max_wait: expected seconds from 0, or None, found'):
        ours['one_stage']([PICTURES[0]], max_wait=max_wait)
