"""The script that measures the tables of the documents, and the help of all scripts."""

import os
from functools import partial
from pathlib import Path

import pytest
from mmpose_batch.benchmarking import overhead
from support.factories import run_script, run_tool, write_photos
from support.recorder import is_tool_of_ours, record

pytestmark = pytest.mark.usefixtures('one_thread')

ROOT = Path(__file__).resolve().parents[2]


run = partial(run_script, 'benchmark_docs')


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Documents with one pair of markers each."""
    folder = tmp_path / 'docs'
    folder.mkdir()
    for name, table in (('benchmarks', 'overhead-wholebody'), ('accuracy', 'parity')):
        text = f'before\n<!-- {table} -->\nold\n<!-- end of {table} -->\nafter\n'
        (folder / f'{name}.md').write_text(text)
    return folder


@pytest.mark.parametrize(('arguments', 'status'), [([], 2), (['--help'], 0), (['--what'], 2)])
@pytest.mark.parametrize(
    ('script', 'usage'), [('benchmark_docs', 'FOLDER [NAME ...]'), ('benchmark_engines', 'OUT_DIR')]
)
def test_scripts_have_help(script, usage, arguments, status):
    outcome = run_script(script, *arguments)
    assert outcome.returncode == status
    assert f'tools/{script}.sh {usage}' in outcome.stdout
    assert 'set -euo' not in outcome.stdout


def test_a_table_that_no_document_has_is_an_error(tmp_path, docs):
    outcome = run(tmp_path, 'parity', 'par.*', DOCS=str(docs))
    assert outcome.returncode == 2
    assert 'no table is named par.*' in outcome.stderr
    assert '== parity' not in outcome.stdout  # nothing has started


def test_a_folder_of_tools_is_not_changed(tmp_path, docs):
    (tmp_path / 'tools').mkdir()
    outcome = run(tmp_path, 'parity', DOCS=str(docs))
    assert outcome.returncode == 2
    assert 'choose another folder' in outcome.stderr
    assert list((tmp_path / 'tools').iterdir()) == []


def test_every_marker_of_the_documents_has_a_command():
    script = (ROOT / 'tools' / 'benchmark_docs.sh').read_text()
    for name in ('benchmarks', 'accuracy'):
        lines = (ROOT / 'docs' / f'{name}.md').read_text().splitlines()
        places = [line[5:-4] for line in lines if line.startswith('<!-- ') and ' of ' not in line]
        assert places
        for place in places:
            assert f'\n    {place})' in script, place


def test_every_table_has_a_command_that_its_tool_accepts(tmp_path, monkeypatch):
    write_photos(tmp_path / 'photos', 1)
    recorded = record(tmp_path, 'benchmark_docs', tmp_path)
    assert recorded.outcome.returncode == 0, recorded.outcome.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        os, 'sched_getaffinity', lambda process: {0, 1}
    )  # the cores that the commands need
    names = [line[3:] for line in recorded.outcome.stdout.splitlines() if line.startswith('== ')]
    assert all(map(is_tool_of_ours, recorded.tools))
    measured = iter(command for command in recorded.tools if command.tool != 'make_scenes')
    for name, command, written in zip(names, measured, measured, strict=True):
        assert written.tool == 'write_benchmarks'
        assert written.args.document.is_file()
        assert written.args.results == [(name, Path(command.args.out_dir))]
        assert len(set(command.rows)) == len(command.rows) > 0, name
    drawn = [command.args.out_dir for command in recorded.tools if command.tool == 'make_scenes']
    assert set(drawn) == {'val'}


@pytest.mark.parametrize(('environment', 'rounds'), [({}, (5, 3)), ({'ROUNDS': 2}, (2, 2))])
def test_rounds_can_be_set(tmp_path, monkeypatch, environment, rounds):
    monkeypatch.chdir(tmp_path)
    recorded = record(tmp_path, 'benchmark_docs', tmp_path, 'rtmo', 'start', **environment)
    throughput, start = (c.args for c in recorded.tools if c.tool != 'write_benchmarks')
    assert (throughput.max_rounds, start.rounds) == rounds


@pytest.mark.parametrize(
    ('name', 'status', 'code'),
    [
        *(('rtmo', 3, 0), ('start', 3, 0), ('parity', 3, 0), ('parity', 1, 1)),
        *(('latency', 3, 3), ('overhead', 1, 1)),  # tables in which every row can run
    ],
)
def test_only_rows_that_cannot_run_are_tolerated(tmp_path, name, status, code):
    recorded = record(tmp_path, 'benchmark_docs', tmp_path, name, STATUS=status)
    assert recorded.outcome.returncode == code
    assert (recorded.tools[-1].tool == 'write_benchmarks') == (code == 0)


def test_a_table_is_written_between_its_markers(tmp_path, docs, monkeypatch):
    """Measures in this process; the document is written by the script itself."""
    model = ['--pose2d', 'rtmpose-m_8xb64-270e_coco-wholebody-256x192', '--pose2d-weights', 'none']
    monkeypatch.setattr(overhead, '_PERSONS_PER_SAMPLE', 1)
    small = ('--persons', '1', '--rounds', '5', '--out-dir', tmp_path / 'measured')
    outcome = run_tool(*model, *small, tool='benchmark_overhead')
    assert outcome.status == 0, outcome.err

    result = tmp_path / 'measured' / 'benchmark.json'
    recorded = record(
        *(tmp_path, 'benchmark_docs', tmp_path, 'overhead-wholebody'), DOCS=docs, RESULT=result
    )
    assert recorded.outcome.returncode == 0, recorded.outcome.stderr
    measured, _ = recorded.tools
    assert measured.words == [
        'tools/benchmark_overhead.py',
        *(*model, '--out-dir', 'out/overhead-wholebody'),
    ]
    text = (docs / 'benchmarks.md').read_text()
    assert 'old' not in text
    assert 'before' in text and 'after' in text
    assert 'tools/benchmark_overhead.py --pose2d rtmpose-m_8xb64-270e_coco-wholebody' in text
    assert '| cropping, data samples |' in text
    assert 'old' in (docs / 'accuracy.md').read_text()
