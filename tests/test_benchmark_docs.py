"""The script that measures the documents' tables, and what all scripts say of themselves."""

from functools import partial
from pathlib import Path

import pytest
from factories import run_script

ROOT = Path(__file__).resolve().parents[1]


run = partial(run_script, 'benchmark_docs')


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Documents with one place each."""
    folder = tmp_path / 'docs'
    folder.mkdir()
    for name, table in (('benchmarks', 'overhead-wholebody'), ('engines', 'parity')):
        text = f'before\n<!-- {table} -->\nold\n<!-- end of {table} -->\nafter\n'
        (folder / f'{name}.md').write_text(text)
    return folder


@pytest.mark.parametrize(('arguments', 'status'), [([], 2), (['--help'], 0), (['--what'], 2)])
@pytest.mark.parametrize(
    ('script', 'usage'), [('benchmark_docs', 'FOLDER [NAME ...]'), ('benchmark_engines', 'OUT_DIR')]
)
def test_scripts_say_what_they_do(script, usage, arguments, status):
    outcome = run_script(script, *arguments)
    assert outcome.returncode == status
    assert f'tools/{script}.sh {usage}' in outcome.stdout
    assert 'set -euo' not in outcome.stdout


def test_a_table_that_no_document_has_is_an_error(tmp_path, docs):
    outcome = run(tmp_path, 'parity', 'par.*', DOCS=str(docs))
    assert outcome.returncode == 2
    assert 'no table is named par.*' in outcome.stderr
    assert '== parity' not in outcome.stdout  # nothing is begun


def test_a_folder_of_tools_is_left_alone(tmp_path, docs):
    (tmp_path / 'tools').mkdir()
    outcome = run(tmp_path, 'parity', DOCS=str(docs))
    assert outcome.returncode == 2
    assert 'another folder is wanted' in outcome.stderr
    assert list((tmp_path / 'tools').iterdir()) == []


def test_every_place_of_the_documents_has_a_command():
    script = (ROOT / 'tools' / 'benchmark_docs.sh').read_text()
    for name in ('benchmarks', 'engines'):
        lines = (ROOT / 'docs' / f'{name}.md').read_text().splitlines()
        places = [line[5:-4] for line in lines if line.startswith('<!-- ') and ' of ' not in line]
        assert places
        for place in places:
            assert f'\n    {place})' in script, place


@pytest.mark.slow
def test_a_table_comes_where_it_belongs(tmp_path, docs):
    outcome = run(tmp_path, 'overhead-wholebody', DOCS=str(docs))
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    text = (docs / 'benchmarks.md').read_text()
    assert 'old' not in text
    assert 'before' in text and 'after' in text
    assert 'tools/benchmark_overhead.py --pose2d rtmpose-m_8xb64-270e_coco-wholebody' in text
    assert '| crops and their samples |' in text
    assert 'old' in (docs / 'engines.md').read_text()
