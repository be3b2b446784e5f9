"""The stages together: how far they work ahead of each other, with stages that only observe."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmpose_batch.batching import BatchRunner, ImageInFlight
from mmpose_batch.pipeline import Pipeline
from mmpose_batch.progress import StageClock
from mmpose_batch.results import ImageResult
from mmpose_batch.sources.base import Frame, in_chunks
from mmpose_batch.workers import WorkerPool

# Seconds after which a test that would wait forever fails.
PATIENCE = 60
BATCH = 8


class Stages:
    """Reads, detects and crops nothing, and counts the images that were cropped.

    Attributes:
        cropped: Number of images that were cropped.
    """

    def __init__(self, with_detector: bool, in_flight: int) -> None:
        self.cropped = 0
        self._changed = threading.Condition()
        detections = BatchRunner(
            lambda inputs: [np.zeros((0, 5))] * len(inputs),
            BATCH,
            fields=('detector_inputs', 'detections'),
        )
        self.pipeline = Pipeline(
            read=self._read,
            detections=detections if with_detector else None,
            pose=SimpleNamespace(crop=self._crop, finish=lambda image: image.result),
            poses=BatchRunner(self.infer, BATCH, pool=WorkerPool(in_flight, 'network')),
            workers=WorkerPool(2, 'images'),
        )
        self.started: list[int] = []

    def run(self, frames: int, chunk: int) -> Iterator[ImageResult]:
        """Results of frames without pixels, in chunks."""
        frames = [Frame(index, f'{index}.jpg', f'{index}.jpg') for index in range(frames)]
        yield from self.pipeline.run(in_chunks(frames, chunk), StageClock())

    def wait_for(self, cropped: int) -> bool:
        """Wait until so many images are cropped; returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self.cropped >= cropped, PATIENCE)

    def infer(self, inputs: list) -> list:
        """Run a batch."""
        self.started.append(len(inputs))
        return inputs

    def _read(self, frame: Frame) -> ImageInFlight:
        image = ImageInFlight(ImageResult(frame))
        image.detector_inputs = [{'inputs': torch.zeros(3, 2, 2)}]
        return image

    def _crop(self, image: ImageInFlight) -> ImageInFlight:
        image.crops = [{'inputs': torch.zeros(3, 2, 2)}]
        with self._changed:
            self.cropped += 1
            self._changed.notify_all()
        return image


@pytest.mark.parametrize('with_detector', [False, True])
def test_the_next_batch_is_ready_when_the_network_has_computed_one(with_detector: bool):
    class Slow(Stages):
        def infer(self, inputs: list) -> list:
            ready = self.wait_for(min(40, (len(self.started) + 2) * BATCH))
            assert ready, 'the threads wait for the network'
            return super().infer(inputs)

    stages = Slow(with_detector, in_flight=0)
    assert len(list(stages.run(40, chunk=40))) == 40
    assert stages.started == [BATCH] * 5


def test_the_next_chunk_begins_while_the_last_batch_of_the_one_before_is_computed():
    class Slow(Stages):
        def infer(self, inputs: list) -> list:
            if len(inputs) < BATCH:
                assert self.wait_for(12 + BATCH), 'the next chunk waits for this one'
            return super().infer(inputs)

    stages = Slow(with_detector=False, in_flight=2)
    assert [result.frame.index for result in stages.run(24, chunk=12)] == list(range(24))
    assert sorted(stages.started) == [4, 4, BATCH, BATCH]


@pytest.mark.parametrize('with_detector', [False, True])
def test_the_number_of_images_ahead_is_bounded(with_detector: bool):
    stages = Stages(with_detector, in_flight=0)
    results = stages.run(1000, chunk=1000)
    next(results)
    ahead = 2 * 2 + BATCH  # of the threads
    assert stages.cropped <= BATCH + ahead + 1
    results.close()
