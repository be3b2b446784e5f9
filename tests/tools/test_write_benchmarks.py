"""The tool that writes results into a document: valid and invalid arguments."""

from mmpose_batch.benchmarking.document import Table, write_result
from support.factories import Outcome, run_tool


def write(*arguments: object) -> Outcome:
    return run_tool(*arguments, tool='write_benchmarks')


def test_results_are_written_between_their_markers(tmp_path):
    page, result = tmp_path / 'page.md', tmp_path / 'result'
    page.write_text('<!-- a -->\n<!-- end of a -->\n<!-- b -->\nold\n<!-- end of b -->\n')
    result.mkdir()
    plots = [result / 'rates.png']
    plots[0].write_bytes(b'plot')
    (result / 'older.png').write_bytes(b'of another run')
    write_result(result, 'tool', ['photos/'], [Table(('x',), [('1',)])], plots)
    assert write(page, f'a={result}', f'b={result}').status == 0
    assert page.read_text().count('| x |\n| --- |\n| 1 |') == 2
    assert 'old' not in page.read_text()
    names = ['a-rates.png', 'b-rates.png']
    assert sorted(path.name for path in (tmp_path / 'page').iterdir()) == names


def test_errors_are_one_line_and_do_not_change_the_document(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('<!-- a -->\n<!-- end of a -->\n')
    result = tmp_path / 'result'
    result.mkdir()
    write_result(result, 'tool', [], [])
    for argument, message in (
        ('a', 'expected NAME=DIR'),
        (f'a/b={tmp_path}', f'with letters, digits, _ and - in NAME, found a/b={tmp_path}'),
        (f'a={tmp_path}', f'no result of a benchmark in {tmp_path}'),
        (f'b={result}', 'expected <!-- b --> and <!-- end of b --> in the document'),
    ):
        outcome = write(page, argument)
        assert outcome.status == 2
        assert message in outcome.err.splitlines()[-1]
    assert write(tmp_path / 'none.md', f'a={result}').status == 2
    bare = tmp_path / 'bare'
    bare.write_text(page.read_text())
    assert 'the folder of the plots has this name' in write(bare, f'a={result}').err
    assert page.read_text() == '<!-- a -->\n<!-- end of a -->\n'
