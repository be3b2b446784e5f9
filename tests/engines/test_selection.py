"""The phases of a selection, and what is reported of its result."""

from dataclasses import FrozenInstanceError

import pytest

from mmpose_batch.engines.selection import Phase, Selection, State
from mmpose_batch.engines.verification import Difference, Samples

SELECTION = Selection(engine='torch', precision='fp32', description='PyTorch 2')
NEW = State()
SAMPLING = NEW.to(Phase.SAMPLING, samples=Samples())
SELECTED = NEW.to(Phase.SELECTED, selection=SELECTION)


@pytest.mark.parametrize(
    ('state', 'phase', 'allowed'),
    [
        (NEW, Phase.NEW, False),
        (NEW, Phase.SAMPLING, True),
        (NEW, Phase.SELECTED, True),
        (SAMPLING, Phase.NEW, True),
        (SAMPLING, Phase.SAMPLING, False),
        (SAMPLING, Phase.SELECTED, True),
        (SELECTED, Phase.NEW, False),
        (SELECTED, Phase.SAMPLING, False),
        (SELECTED, Phase.SELECTED, True),
    ],
)
def test_a_phase_follows_some_phases_only(state, phase, allowed):
    owned = {Phase.SAMPLING: {'samples': Samples()}, Phase.SELECTED: {'selection': SELECTION}}
    if allowed:
        assert state.to(phase, **owned.get(phase, {})).phase is phase
    else:
        with pytest.raises(ValueError, match=f'no way from {state.phase.value} to {phase.value}'):
            state.to(phase, **owned.get(phase, {}))


@pytest.mark.parametrize(
    ('phase', 'owned'),
    [
        (Phase.SAMPLING, {}),
        (Phase.SELECTED, {}),
        (Phase.SELECTED, {'selection': SELECTION, 'samples': Samples()}),
    ],
)
def test_a_phase_has_what_belongs_to_it_and_nothing_else(phase, owned):
    with pytest.raises(ValueError, match=f'{phase.value} does not go with'):
        NEW.to(phase, **owned)


def test_what_is_selected_does_not_change():
    with pytest.raises(FrozenInstanceError):
        SELECTION.engine = 'openvino'


def test_only_what_is_known_is_reported():
    assert SELECTION.report() == {
        'engine': 'torch',
        'precision': 'fp32',
        'description': 'PyTorch 2',
    }
    assert str(SELECTION) == 'PyTorch 2, fp32'


def test_what_was_found_out_is_reported():
    difference = Difference(3, 1.0, 0, quantile=0.95, px=0.01, size=0.001, score=0.0)
    selection = Selection(
        engine='openvino',
        precision='int8',
        description='OpenVINO',
        file='abc',
        calibration='key',
        calibrated_with=20,
        self_check=difference,
        seconds_of_a_batch={'torch': 0.5, 'openvino': 0.25},
        batch_size=4,
        instances_per_second={2: 8.0, 4: 9.0},
    )
    assert selection.report() == {
        'engine': 'openvino',
        'precision': 'int8',
        'file': 'abc',
        'calibrated_with': 20,
        'calibration': 'key',
        'self_check': difference.as_dict(),
        'seconds_of_a_batch': {'torch': 0.5, 'openvino': 0.25},
        'description': 'OpenVINO',
        'batch_size': 4,
        'instances_per_second': {2: 8.0, 4: 9.0},
    }
    times = 'the fastest here (seconds of a batch: torch 0.500, openvino 0.250)'
    assert str(selection) == f'OpenVINO, int8; {times}; {difference}'
