"""The identity of a run: the device in it, and runs from before a part of it."""

from typing import Any

import pytest
import torch

from mmpose_batch.config import BatchOptions
from mmpose_batch.errors import RunError
from mmpose_batch.runs.identity import check_same, of_options

CARD = 'NVIDIA H200'


def identity_of(
    monkeypatch: pytest.MonkeyPatch, device: str, name: str = CARD, tf32: bool | None = None
) -> dict[str, Any]:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: name)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (9, 0))
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    monkeypatch.setattr(torch.backends.cudnn, 'version', lambda: 91000)
    return of_options(BatchOptions(tf32=tf32).resolved(device), device, None)


def test_a_gpu_is_part_of_the_identity_but_not_its_number(monkeypatch):
    one, other = (identity_of(monkeypatch, device) for device in ('cuda:0', 'cuda:1'))
    assert one == other
    assert (one['device'], one['tf32']) == ('cuda', None)
    assert one['gpu'] == {'name': CARD, 'cuda': '13.0', 'cudnn': 91000}


def test_a_cpu_has_no_gpu(monkeypatch):
    assert not {'gpu', 'tf32'} & identity_of(monkeypatch, 'cpu').keys()


@pytest.mark.parametrize(
    ('changes', 'changed'),
    [
        pytest.param({'name': 'NVIDIA H100'}, 'gpu', id='another card'),
        pytest.param({'tf32': False}, 'tf32', id='without TF32'),
        pytest.param({'tf32': True}, None, id='TF32, the default, named'),
    ],
)
@pytest.mark.parametrize('complete', [True, False])
def test_a_run_on_another_gpu_is_not_resumed(monkeypatch, changes, changed, complete):
    before = identity_of(monkeypatch, 'cuda:0')
    now = identity_of(monkeypatch, 'cuda:0', **changes)
    if changed is None:
        check_same(before, now, complete)
        return
    with pytest.raises(RunError, match=rf'changed since the earlier run: {changed} \('):
        check_same(before, now, complete)


@pytest.mark.parametrize('complete', [True, False])
def test_a_run_from_before_the_gpu_was_part_of_it_is_resumed(monkeypatch, complete):
    now = identity_of(monkeypatch, 'cuda:0')
    before = {key: value for key, value in now.items() if key not in ('gpu', 'tf32')}
    check_same(before, now, complete)
    with pytest.raises(RunError, match='tf32'):
        check_same(before, identity_of(monkeypatch, 'cuda:0', tf32=False), complete)
