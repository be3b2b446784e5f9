"""Rounds of all contenders over the same images, each in its own process."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import inf

from .contenders import DETECTOR, OURS, Contender, Models, references
from .process import ContenderError, ContenderProcess
from .report import Measurement
from .rounds import Rounds, Stopping, run_rounds
from .work import Image

Report = Callable[[str], None]

_MODELS = ('pose2d', 'pose2d_weights', 'det_model', 'det_weights', 'det_cat_ids', 'device')


def measure(
    contenders: Sequence[Contender],
    images: Sequence[Image],
    stopping: Stopping,
    reference: str | None = None,
    ann_file: str | None = None,
    report: Report = lambda line: None,
    keep: Callable[[list[Measurement], bool], None] = lambda measured, cut_off: None,
) -> list[Measurement]:
    """Start all contenders, run rounds until the medians converge, and measure the rest.

    Contenders never run concurrently; waiting ones only occupy memory. The row of a contender
    that cannot run has the reason.

    Args:
        contenders: Contenders in the order of a round.
        images: Images of a round.
        stopping: Rule that ends the rounds.
        reference: System of the reference for ratios, in the row with as many threads; None
            for no ratios.
        ann_file: COCO annotations, for the AP of the rows of this package.
        report: Called with lines about the progress.
        keep: Called if a signal ends the work, with the rows that have run or failed and
            whether the signal ended the rounds.
    """
    by_name = {contender.name: Measurement(contender=contender) for contender in contenders}
    with ExitStack() as stack:
        running = dict(_start(by_name, images, stack, report))

        def run(name: str) -> float | None:
            try:
                by_name[name].samples.append(running[name].ask('run'))
            except ContenderError as error:
                by_name[name].failure = str(error)
                report(f'{name}: {error}')
                return None
            return len(images) / by_name[name].samples[-1]['seconds']

        ended = False
        rounds = Rounds(references=references(contenders, reference))
        try:
            run_rounds(
                {name: partial(run, name) for name in running},
                rounds,
                stopping,
                lambda number, name, rate: report(f'round {number}: {name}: {rate:.2f} images/s'),
            )
            ended = True
            for name in rounds.rates:
                by_name[name].take(name, rounds, stopping.width)
            for name in rounds.rates:
                report(f'limits: {name}')
                _ask_more(by_name[name], running[name], ann_file, report)
                running[name].close()
        except (KeyboardInterrupt, SystemExit):
            begun = [name for name, rates in rounds.rates.items() if rates]
            for name in begun:
                by_name[name].take(name, rounds, stopping.width)
            if begun:
                rows = [row for row in by_name.values() if row.rates or row.failure is not None]
                keep(rows, not ended)
            raise
    return list(by_name.values())


def _ask_more(
    measurement: Measurement, process: ContenderProcess, ann_file: str | None, report: Report
) -> None:
    """Ask for everything except the rates; a value that cannot be measured stays empty."""
    questions = {
        'report': ('report',),  # first, since the others increase the peak memory
        'latency': ('latency',),
        'limits': ('limits',),
    }
    if ann_file is not None and measurement.contender.system == OURS:
        questions['ap'] = ('ap', ann_file)
    for name, question in questions.items():
        try:
            setattr(measurement, name, process.ask(*question))
        except ContenderError as error:
            report(f'{measurement.contender.name}: no {name}: {error}')


def _start(
    measurements: Mapping[str, Measurement],
    images: Sequence[Image],
    stack: ExitStack,
    report: Report,
) -> Iterator[tuple[str, ContenderProcess]]:
    for name, measurement in measurements.items():
        report(f'starting {name}')
        try:
            process = stack.enter_context(ContenderProcess(measurement.contender, images))
        except ContenderError as error:
            measurement.failure = str(error)
            report(f'{name}: {error}')
            continue
        measurement.start = process.start
        yield name, process


def find_persons(models: Models, images: Sequence[Image]) -> list[Image]:
    """The images with the boxes of the detector, which runs in a separate process.

    Raises:
        ContenderError: There is no detector, or it cannot run.
    """
    distinct = list({image.path: image for image in images}.values())
    with ContenderProcess(Contender(system=DETECTOR, models=models), distinct) as process:
        boxes = dict(zip((i.path for i in distinct), process.ask('boxes'), strict=True))
    return [Image(image.path, boxes[image.path]) for image in images]


def best(
    measurements: Sequence[Measurement],
    max_latency: float | None = None,
    max_memory: float | None = None,
) -> Measurement | None:
    """The fastest row of this package within limits; None if no row is within them.

    Args:
        measurements: Rows to choose from.
        max_latency: Maximum seconds from a single image to its result.
        max_memory: Maximum resident memory in bytes.
    """
    fitting = [
        m
        for m in measurements
        if m.failure is None
        and m.report
        and m.contender.system == OURS
        and (max_latency is None or m.latency <= max_latency)
        and (max_memory is None or (m.report['peak_memory']['resident'] or inf) <= max_memory)
    ]
    return max(fitting, key=lambda m: m.images_per_second, default=None)


def flags(measurement: Measurement) -> str:
    """Options of ``tools/batch_infer.py`` that select a row, quoted for a shell."""
    contender, report = measurement.contender, measurement.report
    chosen = {
        **{name: getattr(contender.models, name) for name in _MODELS},
        'engine': report['engines']['pose']['engine'],
        'precision': report['engines']['pose']['precision'],
        **{name: report[name] for name in ('batch_size', 'num_workers')},
        # With a number instead of auto, the engine would be built differently.
        **({'batch_size': 'auto'} if contender.settings.get('batch_size') == 'auto' else {}),
        'det_batch_size': contender.settings.get('det_batch_size'),
        'num_threads': report['num_threads'],
        'cpu_affinity': contender.cpu_affinity,
    }
    words = []
    for name, value in chosen.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            words += [f'--{name.replace("_", "-")}', *map(str, values)]
    if contender.models.flip_test is not None:
        words.append('--flip-test' if contender.models.flip_test else '--no-flip-test')
    return shlex.join([*words, '--rect'] if contender.settings.get('rect') else words)
