"""With ``det_interval``, the detector runs on some frames of videos; batches stay full."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.inferencing import assert_close, wrap_test_step
from support.tiny import OurDetector, picture

from mmpose_batch import BatchPose2DInferencer
from mmpose_batch.predictor import Predictor
from mmpose_batch.progress import DetectionCounts, StageClock
from mmpose_batch.sources.base import Frame, Source, in_chunks

pytestmark = pytest.mark.usefixtures('one_thread', 'no_thread_is_busy')


def predictor(inferencer: BatchPose2DInferencer, every: int) -> Predictor:
    """A predictor of a shared inferencer with another interval and its own stand-in detector."""
    options = replace(inferencer.options, det_interval=every)
    return Predictor(inferencer.predictor.pose, inferencer.runner, OurDetector(), options)


def clip(length: int, **fields: Any) -> list[Frame]:
    image = picture(120, 90, 5, 3)
    return [
        Frame(index, image, 'clip.mp4', source_id='clip', frame_id=index, **fields)
        for index in range(length)
    ]


def infer(
    predictor: Predictor, inferencer: BatchPose2DInferencer, frames: Sequence[Frame]
) -> tuple[list[Any], DetectionCounts]:
    clock = StageClock()
    source = Source(in_chunks(frames, 23))
    results = list(predictor.stream(source, inferencer.call_options(), clock))
    assert [result.frame for result in results] == list(frames)
    assert {result.error for result in results} == {None}
    return [result.predictions for result in results], clock.detections


def test_frames_of_a_video_fill_batches_of_both_networks(ours, monkeypatch):
    sizes: list[int] = []
    wrap_test_step(ours['top_down'], monkeypatch, lambda data: sizes.append(len(data['inputs'])))
    every, fifth = (predictor(ours['top_down'], every) for every in (1, 5))
    expected, none = infer(every, ours['top_down'], clip(46))
    assert every.detector.batches == [2] * 11 + [1] + [2] * 11 + [1]
    found, counts = infer(fifth, ours['top_down'], clip(46))
    assert_close(found, expected)
    assert fifth.detector.batches == [2, 2, 2, 2, 2, 2]  # 0, 5, 10, 15, 20 and 22 of each chunk
    assert (none, counts) == (DetectionCounts(), DetectionCounts(12, 0, 34))
    whole = [4] * 17 + [1]  # 69 persons in each chunk
    assert sizes == 4 * whole


def test_images_and_precomputed_boxes_are_as_without_the_option(ours):
    images = [Frame(index, picture(120, 90, index, 3), f'{index}.jpg') for index in range(7)]
    boxes = clip(7, bboxes=np.array([[10, 10, 60, 60, 0.5]], np.float32))
    for frames in (images, boxes):
        every, fifth = (predictor(ours['top_down'], every) for every in (1, 5))
        expected, _ = infer(every, ours['top_down'], frames)
        found, counts = infer(fifth, ours['top_down'], frames)
        assert found == expected
        assert fifth.detector.batches == every.detector.batches
        assert counts == DetectionCounts()


def test_a_frame_that_cannot_be_read_fails_alone(ours):
    frames = clip(11)
    frames[5] = replace(frames[5], data=np.zeros((0, 0, 3), np.uint8))
    fifth = predictor(ours['top_down'], 5)
    clock = StageClock()
    call = ours['top_down'].call_options()
    results = list(fifth.stream(Source(in_chunks(frames)), call, clock))
    assert [result.frame.index for result in results if result.error is not None] == [5]
    assert [len(result.predictions[0]) for result in results if result.error is None] == [3] * 10
    assert clock.detections == DetectionCounts(2, 2, 6)


def test_a_live_source_detects_every_frame(ours):
    fifth = predictor(ours['top_down'], 5)
    source = Source(clip(3), live=True)
    assert len(list(fifth.stream(source, ours['top_down'].call_options()))) == 3
    assert fifth.detector.batches == [2, 1]
