"""A source of another package, which uses only the public interface and the registry."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import rich.progress
from support.tiny import TinyModel, picture

from mmpose_batch.sources import registry
from mmpose_batch.sources.base import Frame, Source
from mmpose_batch.sources.registry import SourceSpec, register
from mmpose_batch.workers import FLUSH

BROKEN = 2  # index of the frame that cannot be used


class Noise:
    """Opens ``noise:N``: N random images, of which one is broken, with FLUSH after every second.

    Attributes:
        events: What was generated, and what a test adds to it.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def open(self, text: str) -> Source:
        count = int(text.removeprefix('noise:'))
        return Source(self._frames(count), length=count)

    def _frames(self, count: int) -> Iterator[Any]:
        for index in range(count):
            self.events.append(('frame', index))
            data = np.zeros((4, 4)) if index == BROKEN else picture(80, 60, index)
            yield Frame(index, data, f'noise_{index}.png', source_id='noise', time=index / 10)
            if index % 2:
                yield FLUSH


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Noise:
    monkeypatch.setattr(registry, 'SOURCES', dict(registry.specs()))
    noise = Noise()
    register(
        SourceSpec(
            name='noise',
            help='`noise:N`, N random images',
            recognises=lambda inputs: isinstance(inputs, str) and inputs.startswith('noise:'),
            open=noise.open,
        )
    )
    return noise


@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_source_of_another_package_is_opened_by_the_inferencer(
    one_stage: TinyModel, noise, num_workers, monkeypatch
):
    totals = []
    track = rich.progress.Progress.track

    def recorded(self: Any, sequence: Any, total: Any = None, **options: Any) -> Iterator[Any]:
        totals.append(total)
        return track(self, sequence, total=total, **options)

    monkeypatch.setattr(rich.progress.Progress, 'track', recorded)
    inferencer = one_stage.ours(batch_size=16, num_workers=num_workers, show_progress=True)
    results = []
    for result in inferencer('noise:5', bbox_thr=0.1):
        noise.events.append(('result', len(results)))
        results.append(result)

    assert totals == [5]
    for batch in ([0, 1], [3], [4]):
        expected = inferencer([picture(80, 60, index) for index in batch], bbox_thr=0.1)
        assert [results[index] for index in batch] == list(expected)
    assert sum(len(result['predictions'][0]) for result in results if 'error' not in result) > 0
    assert results[BROKEN]['image'] == 'noise_2.png'
    assert 'expected a uint8 or float32 array' in results[BROKEN]['error']
    # Batches of 16 would wait for all frames; FLUSH finishes every two.
    for before, after in ((1, 2), (3, 4)):
        order = [noise.events.index(event) for event in (('result', before), ('frame', after))]
        assert order == sorted(order)


def test_sources_of_other_packages_are_tried_first(noise):
    assert list(registry.specs()) == ['noise', 'webcam', 'video', 'files', 'arrays']


def test_a_name_is_registered_once(noise):
    spec = registry.specs()['files']
    with pytest.raises(ValueError, match=re.escape("source: 'files' is registered already")):
        register(spec)
