"""What the processor and the device compute natively."""

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
