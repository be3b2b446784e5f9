"""Rounds: contenders in turn, ratios round by round, and an end when medians converge."""

from itertools import cycle

import numpy as np
import pytest
from mmpose_batch.benchmarking import rounds
from mmpose_batch.benchmarking.rounds import Rounds, Stopping, estimate, run_rounds


def runs_of(log: list[str], **rates: list[float]) -> dict:
    def runner(name: str, values: list[float]):
        stream = cycle(values)

        def run() -> float:
            log.append(name)
            return next(stream)

        return run

    return {name: runner(name, values) for name, values in rates.items()}


def rounds_of(runs: dict, stopping: Stopping, **references: str) -> Rounds:
    found = Rounds(references=references)
    run_rounds(runs, found, stopping)
    return found


def test_contenders_run_in_turn():
    log = []
    found = rounds_of(runs_of(log, a=[1.0], b=[2.0]), Stopping(rounds=5))
    assert log == ['a', 'b'] * 5
    assert found.rates == {'a': [1.0] * 5, 'b': [2.0] * 5}


def test_a_drifting_machine_does_not_change_a_ratio():
    drift = [1.0, 0.5, 0.25, 2.0, 1.0]
    runs = runs_of([], upstream=drift, ours=[2 * x for x in drift])
    found = rounds_of(runs, Stopping(max_rounds=5), upstream='upstream', ours='upstream')
    assert found.ratios('ours') == [2.0] * 5
    assert found.all_converged(width=0.1)
    assert not Rounds({'upstream': drift}).all_converged(width=0.1)  # rates without ratios


def test_a_failed_contender_is_excluded_and_the_others_continue():
    runs = runs_of([], upstream=[1.0], ours=[2.0])
    upstream = runs['upstream']
    left = iter(range(2))
    runs['upstream'] = lambda: upstream() if next(left, None) is not None else None
    found = rounds_of(runs, Stopping(rounds=5), ours='upstream')
    assert found.rates == {'ours': [2.0] * 5}
    assert found.ratios('ours') == []
    assert found.has_converged('ours', 0.1)


def test_rounds_continue_until_the_median_has_converged():
    noisy = [1.0, 2.0, 1.0, 2.0, 1.0, *[1.5] * 30]
    found = rounds_of(runs_of([], a=noisy), Stopping(max_rounds=40, width=0.01))
    count = len(found.rates['a'])
    assert 10 < count < 40
    assert found.has_converged('a', 0.01)
    assert not Rounds({'a': noisy[: count - 1]}).has_converged('a', 0.01)


def test_a_noisy_median_does_not_converge_and_the_rounds_end():
    found = rounds_of(runs_of([], a=[1.0, 2.0]), Stopping(max_rounds=8))
    assert len(found.rates['a']) == 8
    assert not found.has_converged('a', 0.1)


def test_no_round_starts_after_the_time_limit(monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(rounds.time, 'monotonic', lambda: next(now))
    found = rounds_of(runs_of([], a=[1.0]), Stopping(rounds=5, seconds=25))
    assert len(found.rates['a']) == 3
    assert not found.has_converged('a', 0.1)  # too few samples


@pytest.mark.parametrize('count', [1, 2, 3, 4])
def test_few_samples_have_no_interval(count):
    found = estimate([1.0] * count)
    assert found.median == 1.0
    assert np.isnan(found.low)
    assert not found.within(0.5)


def test_the_interval_of_five_samples_is_their_extremes():
    found = estimate([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (found.median, found.low, found.high) == (3.0, 1.0, 5.0)


def test_the_interval_contains_the_median_as_often_as_promised():
    generator = np.random.default_rng(0)
    intervals = [estimate(generator.lognormal(size=11)) for _ in range(500)]
    held = np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])
    assert held >= rounds.CONFIDENCE - 0.02


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'rounds': 0}, 'rounds: expected 1 to max_rounds'),
        ({'rounds': 5, 'max_rounds': 4}, 'found 5'),
        ({'width': 0}, 'width, seconds: expected positive numbers'),
        ({'width': float('nan')}, 'width, seconds'),
        ({'seconds': -1}, 'width, seconds'),
    ],
)
def test_rules_that_never_end_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        Stopping(**settings)
