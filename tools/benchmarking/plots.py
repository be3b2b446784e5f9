"""Plots of measurements, as PNG files."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .contenders import OURS
from .report import STAGES, Measurement
from .rounds import estimate

_SIZE = (7.0, 4.2)
_DPI = 120
_COLORS = mpl.colormaps['tab10'].colors
_MARKERS = 'osD^vP*X'
# Smaller differences are noise.
_MIN_AP_RANGE = 0.02


def plot_all(measurements: Sequence[Measurement], folder: Path) -> list[Path]:
    """Write every plot that these measurements have data for.

    Returns:
        Paths of the plots.
    """
    good = [measurement for measurement in measurements if measurement.failure is None]
    plots: dict[str, Callable[[Sequence[Measurement]], Figure | None]] = {
        'rates': plot_rates,
        'batch_sizes': plot_batch_sizes,
        'threads': plot_threads,
        'stages': plot_stages,
        'accuracy': plot_accuracy,
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, plot in plots.items():
        figure = plot(good)
        if figure is not None:
            written.append(folder / f'{name}.png')
            figure.savefig(written[-1], dpi=_DPI)
    return written


def plot_rates(measurements: Sequence[Measurement]) -> Figure | None:
    """Images per second of all rows, with the interval of the median."""
    if not measurements:
        return None
    figure, axes = _figure(height=0.6 + 0.38 * len(measurements))
    for row, measurement in enumerate(measurements):
        found = estimate(measurement.rates)
        low, high = np.nan_to_num((found.low, found.high), nan=found.median)
        axes.barh(row, found.median, color=_color(measurement), height=0.7)
        axes.plot((low, high), (row, row), color='black', linewidth=1.2)
        axes.annotate(
            f'{found.median:.1f}',
            (max(high, found.median), row),
            xytext=(4, 0),
            textcoords='offset points',
            va='center',
            fontsize=8,
        )
    axes.set_yticks(range(len(measurements)), [m.contender.name for m in measurements])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel('images/s, from files to results (line: 90 % interval of the median)')
    axes.grid(axis='y', visible=False)
    return figure


def plot_batch_sizes(measurements: Sequence[Measurement]) -> Figure | None:
    """Images per second over the batch size, one line for each engine and precision."""
    return _plot_lines(measurements, 'batch_size', 'batch size', base=2)


def plot_threads(measurements: Sequence[Measurement]) -> Figure | None:
    """Images per second over the number of threads of the network."""
    return _plot_lines(measurements, 'num_threads', 'threads of the network')


def plot_stages(measurements: Sequence[Measurement]) -> Figure | None:
    """Milliseconds per image in each stage."""
    known = [(m, shares) for m in measurements if (shares := m.shares())]
    if not known:
        return None
    figure, axes = _figure(height=1.6 + 0.38 * len(known))
    left = np.zeros(len(known))
    for color, (stage, title) in zip(_COLORS, STAGES.items(), strict=False):
        widths = np.array([shares.get(stage, 0) * 1e3 / m.images_per_second for m, shares in known])
        axes.barh(range(len(known)), widths, left=left, color=color, label=title, height=0.7)
        left += widths
    axes.set_yticks(range(len(known)), [m.contender.name for m, _ in known])
    axes.invert_yaxis()
    axes.set_xlabel('ms per image')
    axes.grid(axis='y', visible=False)
    figure.legend(loc='outside upper center', ncols=4, fontsize=8, frameon=False)
    return figure


def plot_accuracy(measurements: Sequence[Measurement]) -> Figure | None:
    """Images per second over AP, for all rows with a known AP.

    Colours show the engine and precision, markers the other settings.
    """
    known = [measurement for measurement in measurements if measurement.ap is not None]
    if len(known) < 2:
        return None
    figure, axes = _figure()
    colors: dict[tuple, Any] = defaultdict(partial(next, itertools.cycle(_COLORS)))
    markers: dict[tuple, Any] = defaultdict(partial(next, itertools.cycle(_MARKERS)))
    for measurement in known:
        settings = measurement.contender.settings
        computing = tuple(settings.get(name) for name in ('engine', 'precision'))
        others = [item for item in settings.items() if item[0] not in ('engine', 'precision')]
        axes.scatter(
            measurement.ap,
            measurement.images_per_second,
            color=colors[computing],
            marker=markers[*others, measurement.contender.num_threads],
            label=measurement.contender.name,
        )
    axes.set_xlabel('AP')
    low, high = axes.dataLim.intervalx
    margin = max(0.1 * (high - low), (_MIN_AP_RANGE - (high - low)) / 2)
    axes.set_xlim(low - margin, high + margin)
    axes.locator_params(axis='x', nbins=5)
    _label_rates(axes)
    figure.legend(loc='outside right upper', fontsize=8, frameon=False)
    return figure


def _plot_lines(
    measurements: Sequence[Measurement], axis: str, label: str, base: int | None = None
) -> Figure | None:
    """Images per second over one setting, one line for rows that agree in all other settings."""
    lines: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for measurement in measurements:
        contender = measurement.contender
        if axis == 'num_threads':
            x, others = contender.num_threads, replace(contender, num_threads=None)
        else:
            x = contender.settings.get(axis)
            others = replace(contender, settings={**contender.settings, axis: None})
        if isinstance(x, int):  # neither None nor auto
            lines[others.name].append((x, measurement.images_per_second))
    lines = {name: sorted(points) for name, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    figure, axes = _figure()
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker='o', label=name)
    ticks = sorted({x for points in lines.values() for x, _ in points})
    if base is not None:
        axes.set_xscale('log', base=base)
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.set_xlabel(label)
    _label_rates(axes)
    figure.legend(loc='outside right upper', fontsize=8, frameon=False)
    return figure


def _figure(height: float = _SIZE[1]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_SIZE[0], max(1.6, height)), layout='constrained')
    axes = figure.subplots()
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _label_rates(axes: Axes) -> None:
    """Label the y axis, from 0 to somewhat above the highest point."""
    axes.set_ylabel('images/s, from files to results')
    axes.set_ylim(0, 1.08 * axes.dataLim.y1)


def _color(measurement: Measurement) -> str:
    return 'tab:blue' if measurement.contender.system == OURS else 'tab:gray'


def plot_latencies(
    latencies: dict[str, Sequence[float]], folder: Path, quantity: str = 'ms per image'
) -> list[Path]:
    """Write a histogram and the time series of latencies.

    Args:
        latencies: Name to seconds, in the order of measurement.
        folder: Folder for ``histogram.png`` and ``series.png``.
        quantity: Label of the axis, with the unit ms.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = _figure()
    values = {name: np.asarray(seconds) * 1e3 for name, seconds in latencies.items()}
    low = min(found.min() for found in values.values())
    high = max(np.quantile(found, 0.999) for found in values.values())
    bins = np.linspace(low, max(high, low + 1e-3), 80)
    for name, found in values.items():
        axes.hist(np.minimum(found, bins[-1]), bins=bins, histtype='step', label=name)
    axes.set_xlabel(f'{quantity} (the last bin contains all larger values)')
    axes.set_ylabel('images')
    figure.legend(loc='outside upper center', fontsize=8, frameon=False, ncols=2)
    series, below = _figure()
    for name, found in values.items():
        below.plot(found, linewidth=0.6, label=name)
    below.set_xlabel('image')
    below.set_ylabel(quantity)
    below.set_ylim(bottom=0)
    series.legend(loc='outside upper center', fontsize=8, frameon=False, ncols=2)
    paths = [folder / 'histogram.png', folder / 'series.png']
    for path, drawn in zip(paths, (figure, series), strict=True):
        drawn.savefig(path, dpi=_DPI)
    return paths
