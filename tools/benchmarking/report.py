"""Measurements as tables."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isnan
from statistics import median
from typing import Any

import rich.table
from rich.console import Console

from .contenders import NEED_BOXES, Contender
from .document import Table
from .rounds import Rounds, estimate

# Stages in the order of a run, and their names in a table.
STAGES = {
    'waiting': 'waiting for data',
    'detection': 'detector',
    'stacking': 'stacking, normalising',
    'network': 'network',
    'decoding': 'decoding',
    'writing': 'writing',
    'other': 'other',
}
# Stages that the clock of a run counts as the network.
_INSIDE = ('stacking', 'decoding')


@dataclass(kw_only=True, slots=True)
class Measurement:
    """The measurement of one contender; the names of its fields are those in ``benchmark.json``.

    Attributes:
        contender: The contender.
        failure: Reason why it could not run; None if it ran.
        start: Start times, see :class:`.process.ContenderProcess`.
        samples: Result of each round.
        rates: Images per second of each round.
        ratios: Ratio to the reference in each round; empty without a reference.
        settled: Whether the median of the ratios, or of the rates if there are none, has
            converged.
        rate_settled: Whether the median of the rates has converged.
        limits, report: Results of these methods of its system.
        latency: Seconds from a single image to its result.
        ap: AP on annotated images.
    """

    contender: Contender
    failure: str | None = None
    start: dict[str, float] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    settled: bool = False
    rate_settled: bool = False
    limits: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    latency: float = float('nan')
    ap: float | None = None

    def take(self, name: str, rounds: Rounds, width: float) -> None:
        """Store the results of the rounds."""
        self.rates = rounds.rates[name]
        self.ratios = rounds.ratios(name)
        self.settled = rounds.has_converged(name, width)
        self.rate_settled = estimate(self.rates).within(width)

    @property
    def images_per_second(self) -> float:
        """Median images per second."""
        return median(self.rates)

    @property
    def persons(self) -> int:
        """Number of persons found in a round."""
        return self.samples[-1]['persons']

    @property
    def persons_per_second(self) -> float:
        """Median persons per second."""
        return median(sample['persons'] / sample['seconds'] for sample in self.samples)

    def shares(self) -> dict[str, float]:
        """Fraction of the time in each stage; empty if unknown.

        Without limits, the fraction of the network includes the steps before and after it.
        Stacking includes normalising, unless the engine normalises.
        """
        if not self.samples or not self.samples[0]['stages']:
            return {}
        total = sum(sample['seconds'] for sample in self.samples)
        shares = {
            name: sum(sample['stages'].get(name, 0.0) for sample in self.samples) / total
            for name in STAGES
        }
        inside = self.limits.get('test_step_shares')
        step = shares['network']
        for name in ('stacking', 'network', 'decoding') if inside else ():
            shares[name] = step * inside[name]
        return {name: shares[name] for name in STAGES if inside or name not in _INSIDE}

    def as_dict(self) -> dict[str, Any]:
        """Content for ``benchmark.json``."""
        return {'name': self.contender.name, **asdict(self), 'shares': self.shares()}


# Width of a table that is not printed to a terminal.
_FILE_WIDTH = 160

HEADER = (
    *('', 'images/s', 'ratio (interval)', 'persons/s', 'persons', 'AP', 'network only'),
    'of the limit',
)
_START = ('load', 'first_result')
RESOURCES = ('resources', 'memory', 'loaded', 'first result', 'engine files', 'single image')


def cells(measurement: Measurement) -> list[str]:
    """One row of the table of rates."""
    name = measurement.contender.name
    if measurement.failure is not None:
        return [name, 'failed', *[''] * (len(HEADER) - 2)]
    rate = f'{measurement.images_per_second:.2f}{_mark(measurement.rate_settled)}'
    ratio = ''
    if measurement.ratios:
        found = estimate(measurement.ratios)
        interval = '' if isnan(found.low) else f' ({found.low:.2f} to {found.high:.2f})'
        ratio = f'{found.median:.2f}{interval}{_mark(measurement.settled)}'
    network, limit = measurement.limits.get('network_only'), measurement.limits.get('limit')
    return [
        name,
        rate,
        ratio,
        f'{measurement.persons_per_second:.1f}',
        str(measurement.persons),
        '' if measurement.ap is None else f'{measurement.ap:.3f}',
        '' if network is None else f'{network:.2f}',
        '' if None in (network, limit) else f'{network / limit:.0%}',
    ]


def _mark(converged: bool) -> str:
    return '' if converged else ' ?'


def resource_cells(measurement: Measurement) -> list[str]:
    """One row of the table of resources; empty if unknown.

    The memory of a GPU comes with its utilization. Start times are omitted for systems that
    export a file at every start.
    """
    peak = measurement.report.get('peak_memory')
    if measurement.failure or peak is None:
        return []
    has_start = measurement.contender.system not in NEED_BOXES
    gpu = f', GPU {peak["gpu"] / 2**20:.0f} MiB' if peak.get('gpu') else ''
    busy = [s['gpu_utilization'] for s in measurement.samples if 'gpu_utilization' in s]
    gpu += f', {median(busy):.0f}% busy' if busy else ''
    files, memory = measurement.report.get('engine_bytes'), peak['resident']
    return [
        measurement.contender.name,
        ('unknown' if memory is None else f'{memory / 2**20:.0f} MiB') + gpu,
        *(f'{measurement.start[name]:.1f} s' if has_start else '' for name in _START),
        f'{files / 2**20:.1f} MiB' if files else '',
        '' if isnan(measurement.latency) else f'{measurement.latency * 1e3:.0f} ms',
    ]


def tables(measurements: Sequence[Measurement]) -> list[Table]:
    """Tables of rates, resources and stages."""
    found = [Table(HEADER, [cells(measurement) for measurement in measurements])]
    for header, of_row in (
        (RESOURCES, resource_cells),
        (('share of the time', *STAGES.values()), stage_cells),
    ):
        if rows := [row for row in map(of_row, measurements) if row]:
            found.append(Table(header, rows))
    return found


def failures(measurements: Sequence[Measurement]) -> list[Table]:
    """Table of the rows that could not run, with reasons; empty if all ran."""
    failed = [(m.contender.name, m.failure) for m in measurements if m.failure is not None]
    return [Table(('failed', 'reason'), failed)] if failed else []


def print_tables(measurements: Sequence[Measurement], console: Console | None = None) -> None:
    """Print the tables, the failures, and a note if a median has not converged."""
    console = console or _console()
    for table in tables(measurements):
        print_table(table, console)
    for table in failures(measurements):
        for name, reason in table.rows:
            console.print(f'{name}: {reason}', soft_wrap=True, markup=False)
    if not all(m.settled and m.rate_settled for m in measurements if m.failure is None):
        console.print('?: has not converged; use more rounds or a quieter machine')


def stage_cells(measurement: Measurement) -> list[str]:
    """One row of the table of stages; empty if unknown."""
    shares = {} if measurement.failure else measurement.shares()
    if not shares:
        return []
    parts = (f'{shares[name]:.0%}' if name in shares else '' for name in STAGES)
    return [measurement.contender.name, *parts]


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table, with the first column aligned to the left and the others to the right."""
    shown = rich.table.Table(box=None, pad_edge=False, header_style='bold')
    for index, title in enumerate(table.header):
        shown.add_column(title, justify='left' if index == 0 else 'right')
    for row in table.rows:
        shown.add_row(*row)
    (console or _console()).print(shown)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)
