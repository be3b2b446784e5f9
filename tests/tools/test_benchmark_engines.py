"""Command lines of the script that measures every engine."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from support.recorder import Recorded, is_tool_of_ours, record

from mmpose_batch import hardware
from mmpose_batch.config import BatchOptions

# Names of engines and precisions, batch sizes, and models on each kind of machine.
CPU = (('torch', 'openvino', 'onnxruntime'), ('fp32', 'int8'), (1, 4, 16))
BF16 = (CPU[0], ('fp32', 'int8', 'bf16'), CPU[2])
GPU = (('torch', 'torch-compile'), ('fp32', 'fp16'), (1, 4, 16, 64, 256))
DEMO, LARGE = ('demo-rtmo', 'demo-rtmpose'), ('rtmo-l', 'rtmpose-m')


def run(folder: Path, *options: object, **environment: object) -> Recorded:
    return record(folder, 'benchmark_engines', folder / 'out', *options, **environment)


@pytest.mark.parametrize(
    ('machine', 'combinations', 'timed'),
    [
        ({}, CPU, DEMO),
        ({'BF16': 1}, BF16, DEMO),
        ({'CUDA': 1}, GPU, LARGE),
        ({'SIZES': '2'}, (*CPU[:2], (2,)), DEMO),
    ],
)
def test_every_combination_is_measured(tmp_path, machine, combinations, timed):
    engines, precisions, sizes = combinations
    recorded = run(tmp_path, **machine)
    assert recorded.outcome.returncode == 0, recorded.outcome.stderr
    scenes, *measured = recorded.tools
    assert all(map(is_tool_of_ours, recorded.tools))
    assert scenes.args.out_dir == str(tmp_path / 'out' / 'scenes')

    parity, speed = measured[:2], measured[2:]
    for command, model, variant in zip(parity, DEMO, ('rect', 'no flip test'), strict=True):
        assert (command.tool, command.args.pose2d) == ('compare_engines', model)
        assert command.args.inputs == [scenes.args.out_dir]
        assert command.args.ann_file == f'{scenes.args.out_dir}/annotations.json'
        assert command.args.out_dir == str(tmp_path / 'out' / f'parity-{model}')
        pairs = [(engine, precision) for engine in engines for precision in precisions]
        names = (f'{e}{way} {p}' for e, p in pairs for way in ('', f', {variant}'))
        assert command.rows == list(names)
        for _, _, settings in command.settings:  # raises if a setting is invalid
            BatchOptions(**{name: value for name, value in settings.items() if value is not None})

    expected = [
        (kind, model, size)
        for kind, model in zip(('one-stage', 'top-down'), timed, strict=True)
        for size in sizes
    ]
    for command, (kind, model, size) in zip(speed, expected, strict=True):
        assert (command.tool, command.args.pose2d) == ('benchmark_throughput', model)
        assert command.args.inputs == [scenes.args.out_dir]
        assert command.args.out_dir == str(tmp_path / 'out' / f'{kind}-{size}')
        assert command.rows == [
            'upstream',
            *(f'{e} {p}, batch {size}' for e in engines for p in precisions),
        ]


@pytest.mark.parametrize(
    ('environment', 'scenes', 'images'),
    [({}, 500, 256), ({'SCENES': 6, 'IMAGES': 2}, 6, 2)],
)
def test_the_extent_can_be_set(tmp_path, environment, scenes, images):
    recorded = run(tmp_path, '--max-rounds', 7, SIZES='1', **environment)
    drawn, *parity, one_stage, top_down = recorded.tools
    assert drawn.args.count == scenes
    assert len(parity) == 2  # they have no rounds
    for command in (one_stage, top_down):
        assert (command.args.images, command.args.max_rounds) == (images, 7)


@pytest.mark.parametrize(('status', 'count', 'code'), [(3, 5, 0), (1, 2, 1), (130, 2, 130)])
def test_only_rows_that_cannot_run_are_tolerated(tmp_path, status, count, code):
    recorded = run(tmp_path, SIZES='1', STATUS=status)
    assert (len(recorded.tools), recorded.outcome.returncode) == (count, code)


@pytest.mark.parametrize('has', [True, False])
def test_the_hardware_decides_on_engines_and_precisions(tmp_path, monkeypatch, has):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: has)
    monkeypatch.setattr(hardware, 'cpu_has_bf16', lambda: has)
    questions = run(tmp_path, SIZES='1').questions
    assert len(questions) == 2
    for question in questions:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(question, {})
        assert printed.getvalue() == f'{int(has)}\n'
