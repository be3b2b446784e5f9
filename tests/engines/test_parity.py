"""The AP of every engine and precision, on synthetic scenes that are not training data.

Each combination runs once by the command-line tool, including verification.
"""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from support.factories import load_tool, run_tool

from mmpose_batch.engines.registry import precisions_of
from mmpose_batch.engines.verification import Difference, compare
from mmpose_batch.hardware import cpu_has_bf16
from mmpose_batch.scenes import write_scenes

pytestmark = pytest.mark.slow

# The first scenes of the series of 500 that the tables of docs/accuracy.md are measured on.
COUNT = 128
SEED = 2
MODELS = ('demo-rtmo', 'demo-rtmpose')
ENGINES = ('torch', 'torch-compile', 'openvino', 'onnxruntime')
# Emulated bf16 takes several times as long, with the same outputs.
PRECISIONS = ('fp32', *(['bf16'] if cpu_has_bf16() else []), 'int8')
COMBINATIONS = [
    pytest.param(model, engine, precision, marks=pytest.mark.xdist_group(f'parity {model}'))
    for model in MODELS
    for engine in ENGINES
    for precision in PRECISIONS
    if precision in precisions_of(engine)
]
# Maximum loss of AP. Over 500 scenes it was 0.0000, 0.0010 and 0.0049.
AP_COST = {'fp32': 0.0005, 'bf16': 0.005, 'int8': 0.015}
KEYPOINT_TOLERANCE_PX = 0.05
SCORE_TOLERANCE = 1e-3


class Found(NamedTuple):
    """The output of a run.

    Attributes:
        predictions: Path of the predictions.
        ap: AP by COCO's metric.
        engines: Report of the engine of each network in run.json.
    """

    predictions: Path
    ap: float
    engines: dict[str, dict]


@pytest.fixture(scope='module')
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('scenes')
    write_scenes(folder, COUNT, SEED, quiet=True)
    return folder


@pytest.fixture(scope='module', autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory):
    """A temporary cache for all tests of this module, instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


def run(scenes: Path, out_dir: Path, model: str, engine: str, precision: str) -> Found:
    outcome = run_tool(
        *(scenes, '--out-dir', out_dir, '--ann-file', scenes / 'annotations.json'),
        *('--device', 'cpu', '--pose2d', model, '--engine', engine, '--precision', precision),
        # The number of images that engines are verified with, so that torch.compile has one size.
        *(('--batch-size', 8) if model == 'demo-rtmo' else ('--det-batch-size', 8)),
    )
    assert outcome.status == 0, outcome.err
    info = json.loads((out_dir / 'run.json').read_text())
    return Found(out_dir / 'predictions.jsonl', info['metrics']['AP'], info['engines'])


@pytest.fixture(scope='module')
def references(scenes, tmp_path_factory) -> dict[str, Found]:
    """Results of eager PyTorch in fp32, by model, computed on first access."""

    class References(dict):
        def __missing__(self, model: str) -> Found:
            folder = tmp_path_factory.mktemp('torch') / 'out'
            self[model] = run(scenes, folder, model, 'torch', 'fp32')
            return self[model]

    return References()


def differences(found: Found, reference: Found) -> Difference:
    """The 95 % quantile of the differences of keypoints and scores, as in the tables."""
    read = load_tool('compare_engines').read_outputs
    return compare(read(reference.predictions), read(found.predictions), quantile=0.95)


@pytest.mark.parametrize(('model', 'engine', 'precision'), COMBINATIONS)
def test_ap_stays_within_the_tolerance_of_the_precision_and_verification_passes(
    scenes, references, tmp_path, model, engine, precision
):
    reference = references[model]
    if (engine, precision) == ('torch', 'fp32'):
        assert reference.ap > 0.7
        return
    found = run(scenes, tmp_path / 'out', model, engine, precision)
    difference = differences(found, reference)
    print(f'{model} {engine} {precision}: AP {reference.ap - found.ap:.4f} lower, {difference}')
    assert found.ap >= reference.ap - AP_COST[precision]
    if precision == 'fp32':
        assert difference.px <= KEYPOINT_TOLERANCE_PX and difference.score <= SCORE_TOLERANCE
    assert (
        found.engines.keys()
        == {
            'demo-rtmo': {'pose'},
            'demo-rtmpose': {'pose', 'detector'},
        }[model]
    )
    for report in found.engines.values():
        assert (report['engine'], report['precision']) == (engine, precision)
        assert report['self_check']['instances'] > 10
