"""What was measured, as rows, a table and Markdown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from .contenders import Contender
from .rounds import Rounds, estimate

# Stages of a run, in its order; what they are called in a table.
STAGES = {
    'waiting': 'waiting for data',
    'detection': 'detector',
    'network': 'network',
    'decoding': 'decoding',
    'writing': 'writing',
    'other': 'other',
}


@dataclass(kw_only=True, slots=True)
class Measurement:
    """One contender's figures.

    Attributes:
        contender: Who.
        failure: Why it could not run; None if it did.
        start: Seconds until loaded and until the first result.
        samples: What each round returned.
        rates: Images per second of each round.
        ratios: To the reference of each round; empty without one.
        settled: Whether the median stands.
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
    limits: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    latency: float = float('nan')
    ap: float | None = None

    def take(self, name: str, rounds: Rounds, width: float) -> None:
        """Keep what the rounds gave."""
        self.rates = rounds.rates[name]
        if rounds.reference is not None:
            self.ratios = rounds.ratios(name)
        self.settled = rounds.settled(name, width)

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
        """Part of the time that each stage took; empty where nobody knows."""
        if not self.samples or not self.samples[0]['stages']:
            return {}
        total = sum(sample['seconds'] for sample in self.samples)
        shares = {
            name: sum(sample['stages'].get(name, 0.0) for sample in self.samples) / total
            for name in STAGES
        }
        inside = self.limits.get('network_share', 1.0)
        shares['decoding'] = shares['network'] * (1 - inside)
        shares['network'] *= inside
        return shares

    def as_dict(self) -> dict[str, Any]:
        """For ``benchmark.json``."""
        return {'name': self.contender.name, **asdict(self), 'shares': self.shares()}


# Of a table that goes into a file.
_FILE_WIDTH = 160

HEADER = (
    *('', 'images/s', 'ratio (interval)', 'persons/s', 'persons', 'network only', 'of the limit'),
    *('memory', 'first result'),
)


def cells(measurement: Measurement) -> list[str]:
    """One row of the table."""
    name = measurement.contender.name
    if measurement.failure is not None:
        return [name, measurement.failure, *[''] * (len(HEADER) - 2)]
    ratio = ''
    if measurement.ratios:
        found = estimate(measurement.ratios)
        ratio = f'{found.median:.2f} ({found.low:.2f} to {found.high:.2f})'
    unsettled = '' if measurement.settled else ' ?'
    network, limit = measurement.limits.get('network_only'), measurement.limits.get('limit')
    gpu = measurement.report['peak_memory'].get('gpu')
    memory = f'{measurement.report["peak_memory"]["resident"] / 2**20:.0f} MiB'
    return [
        name,
        f'{measurement.images_per_second:.2f}{unsettled}',
        ratio,
        f'{measurement.persons_per_second:.1f}',
        str(measurement.persons),
        '' if network is None else f'{network:.2f}',
        '' if None in (network, limit) else f'{network / limit:.0%}',
        memory + (f', GPU {gpu / 2**20:.0f} MiB' if gpu else ''),
        f'{measurement.start["first_result"]:.1f} s',
    ]


def print_tables(measurements: Sequence[Measurement], console: Console | None = None) -> None:
    """Print figures and where the time went."""
    console = console or _console()
    print_table(HEADER, [cells(measurement) for measurement in measurements], console)
    stages = [row for row in map(stage_cells, measurements) if row]
    if stages:
        print_table(('part of the time', *STAGES.values()), stages, console)
    if any(not m.settled for m in measurements if m.failure is None):
        console.print('?: the median has not settled; more rounds or a quieter machine would tell')


def stage_cells(measurement: Measurement) -> list[str]:
    """One row of the table of stages; empty where nobody knows."""
    shares = {} if measurement.failure else measurement.shares()
    return [measurement.contender.name, *(f'{x:.0%}' for x in shares.values())] if shares else []


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None
) -> None:
    """Print a table, its first column to the left and the others to the right."""
    table = Table(box=None, pad_edge=False, header_style='bold')
    for index, title in enumerate(header):
        table.add_column(title, justify='left' if index == 0 else 'right')
    for row in rows:
        table.add_row(*row)
    (console or _console()).print(table)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)
