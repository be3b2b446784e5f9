"""Progress: a bar on a terminal, lines in a log, or nothing; and the times of stages."""

import io

import pytest

from mmpose_batch import progress
from mmpose_batch.progress import LOG_INTERVAL, ProgressReport, StageClock, format_duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Time:
    """A clock that a test sets."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(progress, 'time', time)
    return time


def run(stream: io.StringIO, time: Time, seconds: float, **options: object) -> str:
    """Report on the remaining ones of ten images, which take that many seconds each."""
    with ProgressReport(10, stream=stream, **options) as report:
        for _ in range(10 - options.get('done', 0)):
            time.now += seconds
            report.advance()
    return stream.getvalue()


def test_a_log_gets_a_line_every_ten_seconds(time):
    # An image takes 4 s: a line at the third (12 s), the sixth and the ninth.
    assert run(io.StringIO(), time, LOG_INTERVAL * 0.4).splitlines() == [
        '3/10 images, 0.2 images/s, 0:28 left',
        '6/10 images, 0.2 images/s, 0:16 left',
        '9/10 images, 0.2 images/s, 0:04 left',
    ]


def test_a_fast_run_leaves_no_line_in_a_log(time):
    assert run(io.StringIO(), time, LOG_INTERVAL / 20) == ''


def test_the_rate_does_not_include_an_earlier_run(time):
    lines = run(io.StringIO(), time, LOG_INTERVAL, done=8).splitlines()
    assert lines[0] == '9/10 images, 0.1 images/s, 0:10 left'


def test_a_terminal_gets_a_bar(time):
    shown = run(Terminal(), time, 1.0)
    assert '10/10' in shown
    assert '1.0 images/s' in shown


@pytest.mark.parametrize('stream', [io.StringIO, Terminal], ids=['log', 'terminal'])
def test_quiet_shows_nothing(time, stream):
    assert run(stream(), time, LOG_INTERVAL, quiet=True) == ''


def test_the_bar_is_gone_after_an_error(time):
    stream = Terminal()
    with pytest.raises(LookupError), ProgressReport(10, stream=stream) as report:
        report.advance()
        raise LookupError
    length = len(stream.getvalue())
    time.now += 10
    assert len(stream.getvalue()) == length  # no thread is drawing any more


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
def test_durations_are_formatted_like_a_clock(seconds, text):
    assert format_duration(seconds) == text


def test_the_time_of_a_stage_adds_up(time):
    clock = StageClock()
    for seconds in (1.5, 2.0):
        with clock.stage('network'):
            time.now += seconds
    with clock.stage('writing'):
        time.now += 0.25
    time.now += 10  # in no stage
    assert clock.seconds == {'network': 3.5, 'writing': 0.25}


def test_the_time_of_a_failed_stage_counts_too(time):
    clock = StageClock()
    with pytest.raises(LookupError), clock.stage('network'):
        time.now += 2
        raise LookupError
    assert clock.seconds == {'network': 2}


def test_waiting_does_not_include_the_time_of_inner_stages(time):
    # A stream that reads (1 s per item, waiting) and detects (5 s per item, another stage).
    clock = StageClock()

    def read():
        for item in range(3):
            time.now += 1
            yield item

    def detect(items):
        for item in items:
            with clock.stage('detection'):
                time.now += 5
            yield item

    items = clock.waiting('waiting', detect(clock.waiting('waiting', read())))
    for _ in items:
        time.now += 100  # in the consumer
    assert clock.seconds == {'waiting': 3, 'detection': 15}


def test_waiting_includes_the_end_of_the_stream_and_passes_on_errors(time):
    clock = StageClock()

    def read():
        yield 1
        time.now += 2
        raise LookupError('two')

    items = clock.waiting('waiting', read())
    assert next(items) == 1
    with pytest.raises(LookupError, match='two'):
        next(items)
    assert clock.seconds == {'waiting': 2}
