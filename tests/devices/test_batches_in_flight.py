"""Batches in flight on the pretended CUDA device, with and without a replaced network."""

import threading

import pytest
from support.pretended_cuda import PretendedCuda
from support.tiny import TinyModel, picture

from mmpose_batch.engines.overlap import IN_FLIGHT, OverlappedEngine, Turn

# Seconds after which a test that would wait forever fails.
PATIENCE = 60
IMAGES = [picture(120, 90, seed, persons=2) for seed in range(8)]


@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_a_batch_is_computed_while_the_one_before_is_decoded(
    kind: str,
    precision: str,
    request: pytest.FixtureRequest,
    cuda: PretendedCuda,
    monkeypatch: pytest.MonkeyPatch,
):
    tiny: TinyModel = request.getfixturevalue(kind)
    ours = tiny.ours(
        device=cuda.name, precision=precision, batch_size=2, det_batch_size=2, self_check=False
    )
    expected = list(ours(IMAGES))
    assert isinstance(ours.runner.engine, OverlappedEngine) == (precision == 'fp16')
    assert ours.runner.parallel == IN_FLIGHT
    both, predict, calls = threading.Event(), type(ours.model).predict, []

    def decode_after_the_next_batch(*args: object) -> object:
        calls.append(args)
        samples = predict(*args)
        if len(calls) > 1:
            both.set()
        assert both.wait(PATIENCE), 'the next batch waits for the end of decoding'
        return samples

    monkeypatch.setattr(type(ours.model), 'predict', decode_after_the_next_batch)
    assert list(ours(IMAGES)) == expected
    assert any(result['predictions'][0] for result in expected)


def test_a_copied_turn_is_another_one():
    import copy
    import pickle

    turn = Turn()
    with turn, turn:  # again in the same thread
        for other in (copy.deepcopy(turn), pickle.loads(pickle.dumps(turn))):
            entered = threading.Event()

            def enter(other: Turn = other, entered: threading.Event = entered) -> None:
                with other:
                    entered.set()

            threading.Thread(target=enter).start()
            assert entered.wait(PATIENCE)
