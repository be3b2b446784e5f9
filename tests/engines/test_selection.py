"""The phases of the selection of an engine, and the report of its result."""

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
def test_only_some_transitions_are_allowed(state, phase, allowed):
    owned = {Phase.SAMPLING: {'samples': Samples()}, Phase.SELECTED: {'selection': SELECTION}}
    if allowed:
        assert state.to(phase, **owned.get(phase, {})).phase is phase
    else:
        with pytest.raises(
            ValueError, match=f'transition from {state.phase.value} to {phase.value}'
        ):
            state.to(phase, **owned.get(phase, {}))


@pytest.mark.parametrize(
    ('phase', 'owned'),
    [
        (Phase.SAMPLING, {}),
        (Phase.SELECTED, {}),
        (Phase.SELECTED, {'selection': SELECTION, 'samples': Samples()}),
    ],
)
def test_a_phase_has_exactly_its_own_data(phase, owned):
    with pytest.raises(ValueError, match=f'do not belong to phase {phase.value}'):
        NEW.to(phase, **owned)


def test_a_selection_is_immutable():
    with pytest.raises(FrozenInstanceError):
        SELECTION.engine = 'openvino'


def test_only_known_fields_are_reported():
    assert SELECTION.report() == {
        'engine': 'torch',
        'precision': 'fp32',
        'description': 'PyTorch 2',
    }
    assert str(SELECTION) == 'PyTorch 2, fp32'


def test_all_known_fields_are_reported():
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
    times = 'fastest (seconds per batch: torch 0.500, openvino 0.250)'
    assert str(selection) == f'OpenVINO, int8; {times}; {difference}'
