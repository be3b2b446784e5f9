"""The report of the doctor."""

import torch

from mmpose_batch import cli
from mmpose_batch.cli import doctor


def test_the_doctor_finds_no_problem_here(capsys):
    assert cli.main(['doctor']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == 'no problems'
    found = dict(line.split(maxsplit=1) for line in lines if line and 'engine' not in line)
    assert {'python', 'torch', 'mmpose', 'cpu'} <= found.keys()
    assert any(line.split() == ['engine', 'torch', 'fp32,', 'fp16,', 'bf16'] for line in lines)


def test_missing_packages_are_reported_with_the_pip_command(capsys, monkeypatch):
    def fail(name: str) -> None:
        raise ImportError(f'No module named {name!r}')

    monkeypatch.setattr(doctor, 'import_module', fail)
    monkeypatch.setattr('mmpose_batch.engines.optional.import_module', fail)
    monkeypatch.setattr(doctor, 'PACKAGES', ('torch', 'nowhere'))
    assert cli.main(['doctor']) == 1
    out = capsys.readouterr().out
    assert 'nowhere                 not installed' in out
    assert "mmcv.ops                cannot be imported: No module named 'mmcv.ops'" in out
    assert "pip install 'mmpose-batch[openvino]'" in out
    assert "HEIC and HEIF images unavailable: pip install 'mmpose-batch[heif]'" in out
    assert out.splitlines()[-1] == '4 problems'


def test_gpus_are_described(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'GTX 1080')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (6, 1))
    cli.main(['doctor'])
    expected = 'cuda:0                  GTX 1080, compute capability 6.1, native precision fp32'
    assert expected in capsys.readouterr().out.splitlines()
