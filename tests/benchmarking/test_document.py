"""Results as files, and as sections of a hand-written document."""

import json
import sys

import numpy as np
import pytest
from mmpose_batch.benchmarking.document import Table, add_plots, put, read_section, write_result

TEXT = """# Title

<!-- pair -->
what was there
<!-- end of pair -->

What it means: \\1 is kept.

<!-- live -->
<!-- end of live -->
"""
TABLE = Table(('name', 'images/s'), [('upstream', '1.00'), ('ours', '2.00')])


@pytest.fixture
def result(tmp_path):
    folder = tmp_path / 'result'
    folder.mkdir()
    engines = ['--engine', *['openvino'] * 12]
    arguments = ['photos/', '--pose2d', 'rtmo-s', *engines, '--out-dir', 'a --b']
    plots = [folder / 'rates.png']
    samples = {'samples': {1: float('nan')}}
    write_result(folder, 'benchmark_throughput', arguments, [TABLE], plots, **samples)
    return folder


def test_a_result_has_the_machine_and_the_command(result):
    content = json.loads((result / 'benchmark.json').read_text())
    assert content['command'][:3] == ['tools/benchmark_throughput.py', 'photos/', '--pose2d']
    assert content['machine']['cores'] >= 1
    assert content['machine']['memory'] > 2**28
    assert {'torch', 'numpy', 'mmengine'} < set(content['machine']['versions'])
    assert content['tables'][0]['rows'][1] == ['ours', '2.00']
    assert content['plots'] == ['rates.png']
    assert content['samples'] == {'1': None}


def test_every_sample_can_be_written(tmp_path):
    write_result(tmp_path, 'tool', [], [], samples=np.arange(3.0), path=tmp_path)
    content = json.loads((tmp_path / 'benchmark.json').read_text())
    assert content['samples'] == [0, 1, 2]
    assert content['path'] == str(tmp_path)


def test_no_optional_library_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'psutil', None)
    write_result(tmp_path, 'tool', [], [])
    assert (tmp_path / 'benchmark.json').exists()


def test_plots_can_be_added_later(result):
    before = json.loads((result / 'benchmark.json').read_text())
    add_plots(result, [result / 'stages.png'])
    after = json.loads((result / 'benchmark.json').read_text())
    assert after == {**before, 'plots': ['stages.png']}


def test_a_section_has_machine_command_table_and_plots(result):
    section = read_section('pair', result, 'benchmarks')
    text = put(TEXT, 'pair', section)
    before, after = text.split('<!-- end of pair -->')
    assert before.startswith('# Title\n\n<!-- pair -->\n20')
    assert 'what was there' not in text
    assert '| name | images/s |\n| --- | ---: |\n| upstream | 1.00 |' in before
    assert '```\ntools/benchmark_throughput.py photos/ --pose2d rtmo-s --engine' in before
    assert " \\\n    '--out-dir' 'a --b'\n```" in before.replace('--out-dir', "'--out-dir'")
    assert '![pair, rates](benchmarks/pair-rates.png)' in before
    assert section.plots == {'benchmarks/pair-rates.png': result / 'rates.png'}
    assert after == TEXT.split('<!-- end of pair -->')[1]
    assert put(text, 'pair', section) == text
    assert put(TEXT.replace('pair -->', 'pair -->  '), 'pair', section).startswith(before)


def test_a_section_reports_rounds_ended_by_a_signal(result):
    path = result / 'benchmark.json'
    for cut_off in (False, True):
        path.write_text(json.dumps(json.loads(path.read_text()) | {'cut_off': cut_off}))
        text = read_section('speed', result, 'pictures').text
        assert ('A signal ended the rounds early.' in text) == cut_off


def test_a_section_reports_a_busy_machine(result):
    path = result / 'benchmark.json'
    for warning in (None, 'the machine is busy'):
        path.write_text(json.dumps(json.loads(path.read_text()) | {'warning': warning}))
        text = read_section('speed', result, 'pictures').text
        assert ('Warning at the start: the machine is busy.' in text) == bool(warning)


def test_cells_are_escaped():
    assert Table(('a', 'b'), [('x | y', 'one\ntwo')]).markdown().endswith('| x \\| y | one two |')


def test_missing_markers_are_reported(result):
    section = read_section('other', result, 'benchmarks')
    with pytest.raises(ValueError, match='expected <!-- other --> and <!-- end of other -->'):
        put(TEXT, 'other', section)


@pytest.mark.parametrize('content', [None, 'text', '{}', '[]', '{"machine": {}, "command": ""}'])
def test_a_folder_without_a_result_is_reported(content, tmp_path):
    if content is not None:
        (tmp_path / 'benchmark.json').write_text(content)
    with pytest.raises(ValueError, match='no result of a benchmark in'):
        read_section('pair', tmp_path, 'benchmarks')
