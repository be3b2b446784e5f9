"""The description of the machine."""

from pathlib import Path

import torch
from mmpose_batch.benchmarking.machine import describe_machine, gpu_names

INFORMATION = 'Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 41\nGPU UUID: \t GPU-1\n'


def test_gpus_are_named_as_by_the_driver(tmp_path: Path):
    for slot, text in {'2': INFORMATION.replace('H100', 'H200'), '1': INFORMATION}.items():
        folder = tmp_path / 'gpus' / slot
        folder.mkdir(parents=True)
        (folder / 'information').write_text(text)
    assert gpu_names(tmp_path) == ['NVIDIA H100 80GB HBM3', 'NVIDIA H200 80GB HBM3']


def test_a_machine_without_a_driver_has_no_gpus(tmp_path: Path):
    assert gpu_names(tmp_path / 'nowhere') == []


def test_describing_the_machine_opens_no_cuda_context(monkeypatch):
    def forbidden(*args: object) -> None:
        raise AssertionError('the process only starts others')

    for name in ('get_device_name', 'get_device_properties', 'init', '_lazy_init'):
        monkeypatch.setattr(torch.cuda, name, forbidden)
    assert describe_machine()['cores'] >= 1
