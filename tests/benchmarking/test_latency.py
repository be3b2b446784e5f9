"""Latencies of single images: summaries, and frames at a rate on a simulated clock."""

import numpy as np
import pytest
from mmpose_batch.benchmarking.latency import keep_pace, measure_each, milliseconds, summarise
from mmpose_batch.benchmarking.plots import plot_latencies
from PIL import Image as PillowImage


class Clock:
    """Simulated time, which only advances by sleeping or working."""

    def __init__(self) -> None:
        self.now = 50.0

    def read(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


def pace(seconds: list[float], rate: float):
    clock = Clock()
    return keep_pace(
        lambda index: clock.spend(seconds[index]),
        *(rate, len(seconds)),
        now=clock.read,
        sleep=clock.spend,
    )


def test_a_series_has_mean_extremes_and_quantiles():
    found = summarise(np.arange(1, 1001) / 1000)
    assert found['mean'] == pytest.approx(0.5005)
    assert (found['min'], found['max']) == (0.001, 1.0)
    assert found['p50'] == pytest.approx(0.5005)
    assert found['p99'] == pytest.approx(0.99001)
    assert found['p99.9'] == pytest.approx(0.999001)
    assert found['std'] == pytest.approx(np.std(np.arange(1, 1001) / 1000, ddof=1))
    assert milliseconds({'mean': 0.0123456}) == {'mean': '12.35'}
    assert summarise([1.0])['std'] == 0.0


def test_a_rate_that_is_met_misses_no_deadline():
    found = pace([0.05] * 10, rate=10)
    assert found.ages == pytest.approx([0.05] * 10)
    assert (found.missed, found.waited) == (0, 0)


def test_at_an_impossible_rate_frames_grow_old():
    found = pace([0.2] * 10, rate=10)
    assert found.ages == pytest.approx([0.2 + 0.1 * index for index in range(10)])
    assert found.missed == 10
    assert found.oldest == pytest.approx(1.1)
    assert found.waited == 4  # 5 have run when the tenth and last one arrives


def test_one_slow_frame_delays_those_behind_it():
    found = pace([0.05, 0.25, *[0.05] * 8], rate=10)
    assert found.missed == 3
    assert found.oldest == pytest.approx(0.25)
    assert found.ages[-1] == pytest.approx(0.05)


def test_each_frame_is_measured_once():
    seen = []
    assert len(measure_each(seen.append, range(3, 8))) == 5
    assert seen == [3, 4, 5, 6, 7]


def test_plots_are_written(tmp_path):
    generator = np.random.default_rng(0)
    series = {name: generator.gamma(5, 0.01, 400) for name in ('upstream, files', 'torch, files')}
    paths = plot_latencies(series, tmp_path / 'new')
    assert [path.name for path in paths] == ['histogram.png', 'series.png']
    for path in paths:
        assert (np.asarray(PillowImage.open(path).convert('L')) < 200).mean() > 0.01
    plot_latencies({'one': [0.01]}, tmp_path, "age of a frame's result, ms")
