"""The throughput tool: what it prints and what it refuses; no test asks how fast anything is."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from factories import Models, write_photos

TOOL = Path(__file__).resolve().parents[1] / 'tools' / 'benchmark_throughput.py'

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    sys.path.insert(0, str(TOOL.parent))  # as Python does for a script
    spec = importlib.util.spec_from_file_location('benchmark_throughput', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(TOOL.parent))
    return module


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('photos')
    write_photos(folder, 2)
    return folder


@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
def test_every_setting_is_compared_with_stock(tool, models: Models, photos, tmp_path, capsys, kind):
    arguments = getattr(models, kind)
    if kind == 'top_down':
        arguments = arguments[: arguments.index('--bbox-thr')]
    status = tool.main(
        [
            *(str(photos), *arguments, '--device', 'cpu', '--images', '3', '--rounds', '2'),
            *('--batch-size', '1', '2', '--num-workers', '0', '--json', str(tmp_path / 'out.json')),
        ]
    )
    out, err = capsys.readouterr()
    assert status == 0
    assert 'fewer than 3 rounds' in err
    header, *rows = out.splitlines()[-4:]
    assert 'ratio to stock' in header
    assert [row.split('  ')[0] for row in rows] == [
        'stock',
        'fp32, batch 1, 0 workers',
        'fp32, batch 2, 0 workers',
    ]
    assert len({row.split()[-1] for row in rows[1:]}) == 1  # persons
    samples = json.loads((tmp_path / 'out.json').read_text())['images_per_second']
    assert {name: len(rates) for name, rates in samples.items()} == {
        'stock': 2,
        'fp32, batch 1, 0 workers': 2,
        'fp32, batch 2, 0 workers': 2,
    }


@pytest.mark.parametrize(
    ('more', 'status', 'message'),
    [
        (['--rounds', '0'], 2, '--rounds: expected a number from 1, found 0'),
        (['--images', '0'], 2, '--images: expected a number from 1, found 0'),
        (['--precision', 'int3'], 2, 'precision: expected one of'),
        (['--pose2d-weights', 'no.pth'], 1, 'weights: no such file: no.pth'),
    ],
)
def test_wrong_arguments_are_one_line(tool, models, photos, capsys, more, status, message):
    try:
        found = tool.main([str(photos), *models.one_stage, '--device', 'cpu', *more])
    except SystemExit as stop:
        found = stop.code
    assert found == status
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_bad_image_is_named(tool, models, tmp_path, capsys):
    write_photos(tmp_path, 1)
    (tmp_path / 'text.jpg').write_text('hello\nworld')
    arguments = [str(tmp_path), *models.one_stage, '--device', 'cpu', '--images', '2']
    assert tool.main(arguments) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert 'text.jpg: expected an image, found 11 bytes' in line
