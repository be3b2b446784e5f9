"""What the processor and the device compute natively, and TF32."""

from operator import attrgetter

import pytest
import torch

from mmpose_batch import hardware
from mmpose_batch.engines.registry import resolve_precision


@pytest.mark.parametrize(
    ('machine', 'avx512', 'expected'),
    [('aarch64', False, True), ('x86_64', True, True)],
)
def test_where_products_of_int8_are_added_in_32_bits(machine, avx512, expected, monkeypatch):
    monkeypatch.setattr(hardware.platform, 'machine', lambda: machine)
    monkeypatch.setattr(torch.cpu, '_is_vnni_supported', lambda: avx512, raising=False)
    assert hardware.cpu_has_vnni() == expected


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
    assert hardware.tf32_is_allowed() == allowed
    with pytest.raises(KeyError), hardware.without_tf32():
        inside = tf32_settings()
        assert not hardware.tf32_is_allowed()
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
        hardware.forbid_tf32()
    assert hardware.convolves_in_tf32(torch.device(device)) == expected


@pytest.mark.parametrize(('wanted', 'expected'), [(None, True), (False, False)])
def test_tf32_is_off_for_the_process_only_if_requested(default_tf32, wanted, expected):
    hardware.set_tf32(wanted)
    assert hardware.tf32_is_allowed() == expected
    hardware.set_tf32(True)
    assert hardware.tf32_is_allowed()
    assert not torch.backends.cuda.matmul.allow_tf32


def pretend_card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: f'Card on {device}')


@pytest.mark.parametrize(
    ('capability', 'expected'),
    [((6, 1), 'fp32'), ((7, 0), 'fp16'), ((7, 5), 'fp16'), ((8, 6), 'fp16'), ((9, 0), 'fp16')],
)
def test_auto_is_fp32_on_gpus_that_are_slow_in_fp16(monkeypatch, capability, expected):
    pretend_card(monkeypatch, capability)
    assert resolve_precision('auto', 'cuda:1') == expected
    assert resolve_precision('fp16', 'cuda:1') == 'fp16'  # named
    assert resolve_precision('auto', 'cuda:1', 'openvino', 'GPU') == 'fp16'  # another GPU


@pytest.mark.parametrize(
    ('capability', 'others'), [((6, 1), 'fp32'), ((7, 5), 'fp16 or fp32'), ((8, 0), None)]
)
def test_bf16_is_rejected_on_gpus_that_lack_it(monkeypatch, capability, others):
    pretend_card(monkeypatch, capability)
    if others is None:
        assert resolve_precision('bf16', 'cuda:1', 'auto') == 'bf16'
        return
    with pytest.raises(ValueError, match='bf16 is not supported on Card on cuda:1') as raised:
        resolve_precision('bf16', 'cuda:1', 'torch-compile')
    assert str(raised.value).endswith(f'{capability[0]}.{capability[1]}); use {others}')
    assert resolve_precision('bf16', 'cuda:1', 'openvino') == 'bf16'  # on the CPU
