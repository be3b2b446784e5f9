"""A bar on a terminal, lines in a log, nothing when asked for nothing."""

import io

import pytest

from mmpose_batch import progress
from mmpose_batch.progress import LOG_INTERVAL, ProgressReport, format_duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Time:
    """A clock that goes on only when told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(progress, 'time', time)
    return time


def run(stream: io.StringIO, time: Time, seconds: float, **options: object) -> str:
    """Ten images, or those left of them, each taking that many seconds."""
    with ProgressReport(10, stream=stream, **options) as report:
        for _ in range(10 - options.get('done', 0)):
            time.now += seconds
            report.advance()
    return stream.getvalue()


def test_a_log_gets_a_line_now_and_then(time):
    # An image takes 4 s: a line at the third (12 s), the sixth and the ninth.
    assert run(io.StringIO(), time, LOG_INTERVAL * 0.4).splitlines() == [
        '3/10 images, 0.2 images/s, 0:28 left',
        '6/10 images, 0.2 images/s, 0:16 left',
        '9/10 images, 0.2 images/s, 0:04 left',
    ]


def test_a_fast_run_leaves_no_line_in_a_log(time):
    assert run(io.StringIO(), time, LOG_INTERVAL / 20) == ''


def test_what_an_earlier_run_did_is_no_speed_of_this_one(time):
    lines = run(io.StringIO(), time, LOG_INTERVAL, done=8).splitlines()
    assert lines[0] == '9/10 images, 0.1 images/s, 0:10 left'


def test_a_terminal_gets_a_bar(time):
    shown = run(Terminal(), time, 1.0)
    assert '10/10' in shown
    assert '1.0 images/s' in shown


@pytest.mark.parametrize('stream', [io.StringIO, Terminal], ids=['log', 'terminal'])
def test_quiet_is_quiet(time, stream):
    assert run(stream(), time, LOG_INTERVAL, quiet=True) == ''


def test_the_bar_is_gone_after_an_error(time):
    stream = Terminal()
    with pytest.raises(LookupError), ProgressReport(10, stream=stream) as report:
        report.advance()
        raise LookupError
    length = len(stream.getvalue())
    time.now += 10
    assert len(stream.getvalue()) == length  # no thread goes on drawing


def test_reports_do_not_mix_with_results_on_stdout(time, capsys):
    with ProgressReport(2) as report:
        time.now += LOG_INTERVAL
        report.advance()
    captured = capsys.readouterr()
    assert captured.out == ''
    assert captured.err.startswith('1/2 images')


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (0, '0:00'),
        (59.4, '0:59'),
        (59.6, '1:00'),
        (125, '2:05'),
        (3600, '1:00:00'),
        (90061, '25:01:01'),
    ],
)
def test_durations_are_read_like_a_clock(seconds, text):
    assert format_duration(seconds) == text
