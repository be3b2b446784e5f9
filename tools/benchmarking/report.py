"""What was measured, as rows, a table and Markdown."""

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

# Stages of a run, in its order; what they are called in a table.
STAGES = {
    'waiting': 'waiting for data',
    'detection': 'detector',
    'stacking': 'stacking, normalising',
    'network': 'network',
    'decoding': 'decoding',
    'writing': 'writing',
    'other': 'other',
}
# Beside the network, of what a run's clock counts as the network.
_INSIDE = ('stacking', 'decoding')


@dataclass(kw_only=True, slots=True)
class Measurement:
    """One contender's figures.

    Attributes:
        contender: Who.
        failure: Why it could not run; None if it did.
        start: See :class:`.process.ContenderProcess`.
        samples: What each round returned.
        rates: Images per second of each round.
        ratios: To the reference of each round; empty without one.
        settled: Whether the median of the ratios, or else of the rates, stands.
        rate_settled: Whether that of the rates does.
        limits, report: Of its system.
        latency: Seconds from one image alone to its result.
        ap: On annotated images.
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
        """Keep what the rounds gave."""
        self.rates = rounds.rates[name]
        self.ratios = rounds.ratios(name)
        self.settled = rounds.settled(name, width)
        self.rate_settled = estimate(self.rates).within(width)

    @property
    def images_per_second(self) -> float:
        """The median."""
        return median(self.rates)

    @property
    def persons(self) -> int:
        """Found in a round."""
        return self.samples[-1]['persons']

    @property
    def persons_per_second(self) -> float:
        """The median."""
        return median(sample['persons'] / sample['seconds'] for sample in self.samples)

    def shares(self) -> dict[str, float]:
        """Part of the time that each stage took; empty where nobody knows.

        Where limits are not known, the network's has in it what is before and after it.
        Stacking has normalising in it, unless the engine does that.
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
        """For ``benchmark.json``."""
        return {'name': self.contender.name, **asdict(self), 'shares': self.shares()}


# Of a table that goes into a file.
_FILE_WIDTH = 160

HEADER = (
    *('', 'images/s', 'ratio (interval)', 'persons/s', 'persons', 'AP', 'network only'),
    'of the limit',
)
_START = ('load', 'first_result')
NEEDS = ('what it needs', 'memory', 'loaded', 'first result', 'engine files', 'one image alone')


def cells(measurement: Measurement) -> list[str]:
    """One row of the table."""
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


def _mark(settled: bool) -> str:
    return '' if settled else ' ?'


def needs_cells(measurement: Measurement) -> list[str]:
    """One row of the table of needs; empty where nobody knows.

    With the memory of a GPU comes how busy that was. Those that export a file at every
    start are not judged by that.
    """
    peak = measurement.report.get('peak_memory')
    if measurement.failure or peak is None:
        return []
    lasting = measurement.contender.system not in NEED_BOXES
    gpu = f', GPU {peak["gpu"] / 2**20:.0f} MiB' if peak.get('gpu') else ''
    busy = [s['gpu_utilization'] for s in measurement.samples if 'gpu_utilization' in s]
    gpu += f', {median(busy):.0f}% busy' if busy else ''
    files = measurement.report.get('engine_bytes')
    return [
        measurement.contender.name,
        f'{peak["resident"] / 2**20:.0f} MiB{gpu}',
        *(f'{measurement.start[name]:.1f} s' if lasting else '' for name in _START),
        f'{files / 2**20:.1f} MiB' if files else '',
        '' if isnan(measurement.latency) else f'{measurement.latency * 1e3:.0f} ms',
    ]


def tables(measurements: Sequence[Measurement]) -> list[Table]:
    """Figures, what they took, and where the time went."""
    found = [Table(HEADER, [cells(measurement) for measurement in measurements])]
    for header, of_row in (
        (NEEDS, needs_cells),
        (('part of the time', *STAGES.values()), stage_cells),
    ):
        if rows := [row for row in map(of_row, measurements) if row]:
            found.append(Table(header, rows))
    return found


def failures(measurements: Sequence[Measurement]) -> list[Table]:
    """Who could not run, and why; empty where all did."""
    failed = [(m.contender.name, m.failure) for m in measurements if m.failure is not None]
    return [Table(('failed', 'why'), failed)] if failed else []


def print_tables(measurements: Sequence[Measurement], console: Console | None = None) -> None:
    """Print the tables, who failed, and whether all has settled."""
    console = console or _console()
    for table in tables(measurements):
        print_table(table, console)
    for table in failures(measurements):
        for name, why in table.rows:
            console.print(f'{name}: {why}', soft_wrap=True, markup=False)
    if not all(m.settled and m.rate_settled for m in measurements if m.failure is None):
        console.print('?: this median has not settled; more rounds or a quieter machine would tell')


def stage_cells(measurement: Measurement) -> list[str]:
    """One row of the table of stages; empty where nobody knows."""
    shares = {} if measurement.failure else measurement.shares()
    if not shares:
        return []
    parts = (f'{shares[name]:.0%}' if name in shares else '' for name in STAGES)
    return [measurement.contender.name, *parts]


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table, its first column to the left and the others to the right."""
    shown = rich.table.Table(box=None, pad_edge=False, header_style='bold')
    for index, title in enumerate(table.header):
        shown.add_column(title, justify='left' if index == 0 else 'right')
    for row in table.rows:
        shown.add_row(*row)
    (console or _console()).print(shown)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)
