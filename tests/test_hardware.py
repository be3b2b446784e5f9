"""What the processor computes natively."""

import pytest
import torch

from mmpose_batch import hardware


@pytest.mark.parametrize(
    ('machine', 'avx512', 'expected'),
    [('aarch64', False, True), ('x86_64', True, True)],
)
def test_where_products_of_int8_are_added_in_32_bits(machine, avx512, expected, monkeypatch):
    monkeypatch.setattr(hardware.platform, 'machine', lambda: machine)
    monkeypatch.setattr(torch.cpu, '_is_vnni_supported', lambda: avx512, raising=False)
    assert hardware.cpu_has_vnni() == expected
