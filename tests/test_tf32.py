"""TF32: when it is in use, and how it is turned off and on again."""

from operator import attrgetter

import pytest
import torch

from mmpose_batch import tf32


def tf32_settings() -> list[object]:
    """PyTorch's older and newer settings; the text of an error instead of one that raises."""
    backends = torch.backends
    owners = [(backends.cudnn, 'allow_tf32'), (backends.cuda.matmul, 'allow_tf32')]
    if hasattr(backends.cudnn, 'conv'):
        owners += [(backends.cudnn.conv, 'fp32_precision'), (backends.cudnn.rnn, 'fp32_precision')]
        owners += [(backends.cuda.matmul, 'fp32_precision')]
    found = []
    for owner, name in owners:
        try:
            found.append(getattr(owner, name))
        except RuntimeError as error:
            found.append(str(error))
    return found


@pytest.fixture
def default_tf32():
    """PyTorch's defaults, also after the test."""

    def reset() -> None:
        for owner in (torch.backends, torch.backends.cudnn):
            if hasattr(owner, 'fp32_precision'):
                owner.fp32_precision = 'none'
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = True

    reset()
    yield
    reset()


OFF = [False, False, 'ieee', 'ieee', 'ieee']


@pytest.mark.parametrize(
    ('owner', 'name', 'value', 'allowed'),
    [
        ('backends.cudnn', 'allow_tf32', True, True),
        ('backends.cudnn', 'allow_tf32', False, False),
        ('backends.cuda.matmul', 'allow_tf32', True, True),
        ('backends.cudnn.conv', 'fp32_precision', 'ieee', False),
        ('backends.cudnn.rnn', 'fp32_precision', 'ieee', True),
        ('backends.cuda.matmul', 'fp32_precision', 'tf32', True),
        ('backends', 'fp32_precision', 'tf32', True),
    ],
)
def test_tf32_is_off_in_a_block_and_as_before_after_it(default_tf32, owner, name, value, allowed):
    found = attrgetter(owner)(torch)
    if not hasattr(found, name):
        pytest.skip(f'torch.{owner}.{name} is of a later version')
    setattr(found, name, value)
    before = tf32_settings()
    assert tf32.tf32_is_allowed() == allowed
    with pytest.raises(KeyError), tf32.without_tf32():
        inside = tf32_settings()
        assert not tf32.tf32_is_allowed()
        raise KeyError
    assert inside == OFF[: len(inside)]
    assert tf32_settings() == before


@pytest.mark.parametrize(
    ('device', 'capability', 'allowed', 'expected'),
    [
        ('cuda:1', (8, 0), True, True),
        ('cuda:0', (9, 0), True, True),
        ('cuda:0', (8, 6), False, False),
        ('cuda:0', (7, 5), True, False),
        ('cpu', None, True, False),
    ],
)
def test_convolutions_are_in_tf32_since_ampere(
    default_tf32, monkeypatch, device, capability, allowed, expected
):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    if not allowed:
        tf32.forbid_tf32()
    assert tf32.convolves_in_tf32(torch.device(device)) == expected


@pytest.mark.parametrize(('wanted', 'expected'), [(None, True), (False, False)])
def test_tf32_is_off_for_the_process_only_if_requested(default_tf32, wanted, expected):
    tf32.set_tf32(wanted)
    assert tf32.tf32_is_allowed() == expected
    tf32.set_tf32(True)
    assert tf32.tf32_is_allowed()
    assert not torch.backends.cuda.matmul.allow_tf32
