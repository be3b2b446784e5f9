"""The closing summary of a run."""

import pytest

from mmpose_batch.runs.summary import RunSummary

VIDEO = {'videos': 1, 'frames': 250}


@pytest.mark.parametrize(
    ('counts', 'expected'),
    [
        ({'images': 6}, ['images    6']),
        ({'images': 6, 'resumed': 4}, ['images    6 (4 of them by an earlier run)']),
        (VIDEO, ['videos    1', 'frames    250']),
        (
            {**VIDEO, 'resumed': 200},
            ['videos    1', 'frames    250 (200 of them by an earlier run)'],
        ),
        ({'images': 6, **VIDEO}, ['images    6', 'videos    1', 'frames    250']),
        (
            {'images': 6, **VIDEO, 'resumed': 256},
            [
                'images    6',
                'videos    1',
                'frames    250',
                'resumed   256 images and frames by an earlier run',
            ],
        ),
    ],
)
def test_what_an_earlier_run_has_done_is_counted_by_kind(counts, expected):
    lines = list(RunSummary(**counts).lines())
    assert lines[: len(expected)] == expected
    assert lines[len(expected)].startswith('persons')


@pytest.mark.parametrize(
    ('devices', 'deaths', 'expected'),
    [
        (1, 0, 'workers   1 process'),
        (2, 1, 'workers   2 processes; 1 died and was replaced'),
        (2, 8, 'workers   2 processes; 8 died and were replaced'),
    ],
)
def test_workers_and_their_deaths(devices, deaths, expected):
    summary = RunSummary(images=1, workers=('cpu',) * devices, deaths=deaths)
    assert expected in list(summary.lines())
