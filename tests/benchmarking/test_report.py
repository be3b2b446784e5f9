"""Tables and plots: unknown values are empty, medians that have not converged are marked."""

import io

import numpy as np
import pytest
from mmpose_batch.benchmarking.contenders import Contender, Models
from mmpose_batch.benchmarking.plots import (
    plot_accuracy,
    plot_all,
    plot_batch_sizes,
    plot_rates,
    plot_stages,
    plot_threads,
)
from mmpose_batch.benchmarking.report import (
    HEADER,
    RESOURCES,
    STAGES,
    Measurement,
    cells,
    print_tables,
    resource_cells,
    stage_cells,
    tables,
)
from mmpose_batch.benchmarking.rounds import Rounds
from PIL import Image as PillowImage
from rich.console import Console

MODELS = Models(pose2d='rtmo-s')
SHARES = {'stacking': 0.05, 'network': 0.75, 'decoding': 0.2}


def measured(system: str = 'ours', rate: float = 4.0, **settings) -> Measurement:
    settings = {'engine': 'torch', 'precision': 'fp32', **settings}
    threads = settings.pop('num_threads', None)
    ours = system == 'ours'
    contender = Contender(
        system=system, models=MODELS, settings=settings if ours else {}, num_threads=threads
    )
    stages = {'waiting': 1.0, 'network': 6.0, 'writing': 1.0, 'other': 2.0, 'detection': 0.0}
    sample = {'seconds': 10.0, 'persons': 120, 'stages': stages if ours else {}}
    return Measurement(
        contender=contender,
        start={'load': 2.0, 'first_result': 3.25},
        samples=[sample] * 5,
        rates=[rate] * 5,
        ratios=[rate / 2.0] * 5,
        settled=True,
        rate_settled=True,
        limits={'test_step_shares': SHARES, 'network_only': 6.0, 'limit': 12.0} if ours else {},
        report={'peak_memory': {'resident': 600 * 2**20}, 'engine_bytes': 12 * 2**20},
        latency=0.3,
    )


def printed(*measurements: Measurement) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_tables(measurements, console)
    return console.file.getvalue()


def test_a_row_has_every_value():
    assert dict(zip(HEADER, cells(measured()), strict=True)) == {
        '': 'torch fp32',
        'images/s': '4.00',
        'ratio (interval)': '2.00 (2.00 to 2.00)',
        'persons/s': '12.0',
        'persons': '120',
        'AP': '',
        'network only': '6.00',
        'of the limit': '50%',
    }
    assert dict(zip(RESOURCES, resource_cells(measured()), strict=True)) == {
        'resources': 'torch fp32',
        'memory': '600 MiB',
        'loaded': '2.0 s',
        'first result': '3.2 s',
        'engine files': '12.0 MiB',
        'single image': '300 ms',
    }


def test_a_row_has_the_memory_and_utilization_of_the_gpu():
    one = measured()
    one.report['peak_memory']['gpu'] = 300 * 2**20
    one.samples = [{**one.samples[0], 'gpu_utilization': busy} for busy in (80.0, 91.0, 93.0)]
    assert resource_cells(one)[RESOURCES.index('memory')] == '600 MiB, GPU 300 MiB, 91% busy'


def test_a_ratio_of_few_rounds_has_no_interval():
    few = measured()
    few.take('ours', Rounds({'ours': [4.0], 'upstream': [2.0]}, {'ours': 'upstream'}), 0.1)
    assert cells(few)[HEADER.index('ratio (interval)')] == '2.00 ?'


def test_unknown_values_are_empty():
    row = dict(zip(HEADER, cells(measured('upstream', 2.0)), strict=True))
    assert row['network only'] == row['of the limit'] == ''
    assert stage_cells(measured('upstream')) == []
    row = measured()
    row.report, row.latency = {'peak_memory': {'resident': 2**20}}, float('nan')
    assert resource_cells(row)[-2:] == ['', '']


def test_without_limits_the_network_includes_stacking_and_decoding():
    row = measured()
    row.limits = {}
    found = dict(zip(STAGES, stage_cells(row)[1:], strict=True))
    assert [found[name] for name in ('stacking', 'network', 'decoding')] == ['', '60%', '']
    assert plot_stages([row]) is not None


def test_a_precision_without_a_limit_has_none():
    int8 = measured()
    int8.limits['limit'] = None
    assert cells(int8)[HEADER.index('of the limit')] == ''


def test_ap_is_in_the_row_of_the_speed():
    row = measured()
    row.ap = 0.12345
    assert cells(row)[HEADER.index('AP')] == '0.123'


def test_systems_that_export_at_every_start_have_no_start_times():
    assert resource_cells(measured('rtmlib'))[1:4] == ['600 MiB', '', '']
    rows = [measured('rtmlib')]
    rows[0].report = {}
    assert resource_cells(rows[0]) == []


def test_the_memory_of_a_gpu_is_shown():
    row = measured()
    row.report['peak_memory']['gpu'] = 2**30
    assert resource_cells(row)[RESOURCES.index('memory')] == '600 MiB, GPU 1024 MiB'


def test_memory_that_the_system_does_not_report_is_unknown():
    row = measured()
    row.report['peak_memory']['resident'] = None
    assert resource_cells(row)[RESOURCES.index('memory')] == 'unknown'


def test_shares_add_up_to_the_time_and_separate_decoding_from_the_network():
    shares = measured().shares()
    assert list(shares) == list(STAGES)
    assert sum(shares.values()) == pytest.approx(1.0)
    inside = [shares[name] for name in SHARES]
    assert inside == pytest.approx([0.6 * share for share in SHARES.values()])


@pytest.mark.parametrize(
    ('rates', 'ratios', 'expected'),
    [
        ([4.0] * 5, [2.0] * 5, ('4.00', '2.00 (2.00 to 2.00)')),
        ([3.0, 4.0, 4.0, 4.0, 5.0], [2.0] * 5, ('4.00 ?', '2.00 (2.00 to 2.00)')),
        ([4.0] * 5, [1.0, 2.0, 2.0, 2.0, 3.0], ('4.00', '2.00 (1.00 to 3.00) ?')),
        ([3.0, 4.0, 4.0, 4.0, 5.0], [], ('4.00 ?', '')),
    ],
)
def test_each_median_that_has_not_converged_is_marked(rates, ratios, expected):
    row = measured()
    others = [rate / ratio for rate, ratio in zip(rates, ratios, strict=False)]
    row.take('ours', Rounds({'ours': rates, 'upstream': others}, {'ours': 'upstream'}), width=0.1)
    assert tuple(cells(row)[1:3]) == expected
    marked = any('?' in cell for cell in expected)
    assert ('?: has not converged' in printed(row)) == marked


def test_a_table_only_has_rows_with_values():
    rates, needs, stages = tables([measured('upstream'), measured(), measured('rtmlib')])
    assert [row[0] for row in rates.rows] == ['upstream', 'torch fp32', 'rtmlib']
    assert [row[0] for row in needs.rows] == ['upstream', 'torch fp32', 'rtmlib']
    assert [row[0] for row in stages.rows] == ['torch fp32']
    assert len(tables([measured('rtmlib')])) == 2


def test_a_failure_is_a_row():
    failed = Measurement(contender=measured().contender, failure='engine: not installed')
    text = printed(measured('upstream'), failed)
    assert f'{failed.contender.name}: engine: not installed\n' in text
    assert 'share of the time' not in text


# ------------------------------------------------------------------------------- plots


def test_every_plot_with_data_is_written(tmp_path):
    rows = [
        measured('upstream', 2.0),
        *(measured(rate=3.0 + size, batch_size=size) for size in (1, 2, 4)),
        *(measured(rate=2.0 * n, engine='openvino', num_threads=n) for n in (1, 2)),
        Measurement(contender=measured().contender, failure='no'),
    ]
    paths = plot_all(rows, tmp_path / 'new')
    assert [path.name for path in paths] == [
        'rates.png',
        'batch_sizes.png',
        'threads.png',
        'stages.png',
    ]
    for path in paths:
        pixels = np.asarray(PillowImage.open(path).convert('L'))
        assert (pixels < 200).mean() > 0.01  # the plot is not empty


def test_a_line_connects_rows_that_agree_in_all_other_settings():
    rows = [
        measured(rate=size * threads, batch_size=size, num_threads=threads)
        for size in (1, 2)
        for threads in (1, 2)
    ]
    for plot, names in (
        (plot_batch_sizes, {'torch fp32, 1 threads', 'torch fp32, 2 threads'}),
        (plot_threads, {'torch fp32, batch 1', 'torch fp32, batch 2'}),
    ):
        lines = plot(rows).axes[0].lines
        assert {line.get_label() for line in lines} == names
        assert all(list(line.get_xdata()) == [1, 2] for line in lines)


def test_accuracy_is_plotted_if_it_is_known():
    rows = [measured(rate=3.0), measured(rate=5.0, engine='openvino'), measured('upstream', 2.0)]
    assert plot_accuracy(rows) is None
    rows[0].ap, rows[1].ap = 0.75, 0.76
    axes = plot_accuracy(rows).axes[0]
    places = [tuple(points.get_offsets()[0]) for points in axes.collections]
    assert places == [(0.75, 3.0), (0.76, 5.0)]
    bottom, top = axes.get_ylim()
    assert bottom == 0
    assert top > 5.2  # a complete marker fits below the frame
    left, right = axes.get_xlim()
    assert right - left == pytest.approx(0.02)  # differences within noise look small


def test_engines_have_their_colours_and_batch_sizes_their_markers():
    rows = [measured(engine=e, batch_size=b) for e in ('torch', 'auto') for b in ('auto', 4)]
    for row in rows:
        row.ap = 0.75
    drawn = plot_accuracy(rows).axes[0].collections
    colors = [tuple(points.get_facecolor()[0]) for points in drawn]
    markers = [len(points.get_paths()[0].vertices) for points in drawn]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert markers[0] == markers[2] != markers[1] == markers[3]


def test_the_legend_of_the_stages_fits_the_figure():
    figure = plot_stages([measured()])
    figure.draw_without_rendering()
    width = figure.bbox.width
    for legend in figure.legends:
        extent = legend.get_window_extent()
        assert extent.x0 >= 0 and extent.x1 <= width


def test_nothing_is_plotted_without_data(tmp_path):
    assert plot_all([], tmp_path) == []
    assert [path.name for path in plot_all([measured('upstream')], tmp_path)] == ['rates.png']


@pytest.mark.parametrize('plot', [plot_rates, plot_batch_sizes, plot_stages])
def test_axes_have_labels_and_no_legend_hides_data(plot):
    figure = plot([measured(rate=3.0 + size, batch_size=size) for size in (1, 2, 4)])
    axes = figure.axes[0]
    assert axes.get_xlabel()
    assert axes.get_legend() is None
    figure.draw_without_rendering()
    inside = axes.get_window_extent()
    for legend in figure.legends:
        assert not inside.overlaps(legend.get_window_extent())
