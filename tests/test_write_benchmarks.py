"""The tool that writes results into a document: what it takes and refuses."""

from factories import Outcome, run_tool

from mmpose_batch.benchmark.document import Table, write_result


def write(*arguments: object) -> Outcome:
    return run_tool(*arguments, tool='write_benchmarks')


def test_results_come_to_their_places(tmp_path):
    page, result = tmp_path / 'page.md', tmp_path / 'result'
    page.write_text('<!-- a -->\n<!-- end of a -->\n<!-- b -->\nold\n<!-- end of b -->\n')
    result.mkdir()
    write_result(result, 'tool', ['photos/'], [Table(('x',), [('1',)])])
    assert write(page, f'a={result}', f'b={result}').status == 0
    assert page.read_text().count('| x |\n| --- |\n| 1 |') == 2
    assert 'old' not in page.read_text()


def test_what_is_wrong_is_one_line_and_leaves_the_document(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('<!-- a -->\n<!-- end of a -->\n')
    for argument, message in (
        ('a', 'expected NAME=DIR, found a'),
        (f'a={tmp_path}', f'no result of a benchmark in {tmp_path}'),
        (f'b={tmp_path}', 'expected <!-- b --> and <!-- end of b --> in the document'),
    ):
        outcome = write(page, argument)
        assert outcome.status == 2
        assert message in outcome.err.splitlines()[-1]
    assert write(tmp_path / 'none.md', f'a={tmp_path}').status == 2
    assert page.read_text() == '<!-- a -->\n<!-- end of a -->\n'
