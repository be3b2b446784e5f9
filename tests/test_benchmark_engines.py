"""The script that measures every engine: its CPU part runs."""

import json
from pathlib import Path

import pytest
import torch
from factories import run_script


def rows(folder: Path) -> list[list[str]]:
    return json.loads((folder / 'benchmark.json').read_text())['tables'][0]['rows']


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='fetches weights where there is a GPU')
def test_its_cpu_part_runs(tmp_path):
    outcome = run_script(
        'benchmark_engines',
        *(tmp_path / 'out', '--rounds', 1, '--max-rounds', 1),
        SCENES='6',
        IMAGES='2',
        SIZES='2',
        XDG_CACHE_HOME=str(tmp_path / 'cache'),
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    for kind, model, variant in (
        ('one-stage', 'demo-rtmo', 'rect'),
        ('top-down', 'demo-rtmpose', 'no flip test'),
    ):
        parity, speed = (rows(tmp_path / 'out' / name) for name in (f'parity-{model}', f'{kind}-2'))
        assert {row[0] for row in parity} >= {'torch', 'openvino', f'openvino, {variant}'}
        rates = {row[0]: row[1].rstrip(' ?') for row in speed}
        for name in ('stock', 'torch fp32, batch 2', 'openvino fp32, batch 2'):
            assert float(rates[name]) > 0, outcome.stdout
