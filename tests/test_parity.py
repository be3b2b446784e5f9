"""What every engine and precision costs in AP, on scenes that the demo models never saw."""

import json
from pathlib import Path

import pytest
from factories import run_tool

from mmpose_batch.runtime import PRECISIONS_OF, cpu_has_bf16
from mmpose_batch.scenes import write_scenes

pytestmark = pytest.mark.slow

COUNT = 500
SEED = 2  # the series that docs/engines.md tells of
MODELS = ('demo-rtmo', 'demo-rtmpose')
ENGINES = ('torch', 'torch-compile', 'openvino', 'onnxruntime')
# Emulated, bf16 takes several times as long and says nothing else.
PRECISIONS = ('fp32', *(['bf16'] if cpu_has_bf16() else []), 'int8')
COMBINATIONS = [
    (engine, precision)
    for engine in ENGINES
    for precision in PRECISIONS
    if precision in PRECISIONS_OF[engine]
]
# The most that it may cost. Seen were 0.0000, 0.0010 and 0.0049.
AP_COST = {'fp32': 0.0005, 'bf16': 0.005, 'int8': 0.015}
KEYPOINT_TOLERANCE_PX = 0.05
SCORE_TOLERANCE = 1e-3


@pytest.fixture(scope='module')
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('scenes')
    write_scenes(folder, COUNT, SEED, quiet=True)
    return folder


@pytest.fixture(scope='module', autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory):
    """What is built here stays out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='module', params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope='module')
def costs(scenes, model) -> dict[tuple[str, str], tuple[float, float, float] | str]:
    """Pixels, score and AP of every combination, by the tool that makes the table."""
    outcome = run_tool(
        *(scenes, '--ann-file', scenes / 'annotations.json', '--device', 'cpu'),
        *('--pose2d', model, '--engine', *ENGINES, '--precision', *PRECISIONS),
        tool='compare_engines',
    )
    assert outcome.status == 3, outcome.err  # not every engine does every precision
    lines = [line for line in outcome.out.splitlines() if line.startswith('|')]
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]
    return {
        (engine, precision): (float(px), float(score), float(ap)) if ap else px  # why it failed
        for engine, precision, px, score, _, ap, *_ in rows
    }


@pytest.mark.parametrize(('engine', 'precision'), COMBINATIONS)
def test_it_costs_no_more_ap_than_its_precision_may(costs, engine, precision):
    assert not isinstance(costs[engine, precision], str), costs[engine, precision]
    px, score, ap = costs[engine, precision]
    assert ap >= costs['torch', 'fp32'][2] - AP_COST[precision]
    if precision == 'fp32':
        assert px <= KEYPOINT_TOLERANCE_PX and score <= SCORE_TOLERANCE


@pytest.mark.parametrize(
    ('engine', 'precision'), [pair for pair in COMBINATIONS if not pair[0].startswith('torch')]
)
def test_it_passes_its_own_check(scenes, tmp_path, model, engine, precision):
    some = sorted(scenes.glob('*.jpg'))[:64]
    outcome = run_tool(
        *(*some, '--out-dir', tmp_path / 'out', '--device', 'cpu'),
        *('--pose2d', model, '--engine', engine, '--precision', precision),
    )
    assert outcome.status == 0, outcome.err
    engines = json.loads((tmp_path / 'out' / 'run.json').read_text())['engines']
    assert engines.keys() == {'demo-rtmo': {'pose'}, 'demo-rtmpose': {'pose', 'detector'}}[model]
    assert all(report['self_check']['instances'] > 10 for report in engines.values())
