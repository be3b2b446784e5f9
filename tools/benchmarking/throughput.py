"""Everybody in turn over the same images, each in a process of its own."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from .contenders import DETECTOR, OURS, Contender, Models, references
from .process import ContenderError, ContenderProcess
from .report import Measurement
from .rounds import Rounds, Stopping, run_rounds
from .work import Image

Tell = Callable[[str], None]

_MODELS = ('pose2d', 'pose2d_weights', 'det_model', 'det_weights', 'det_cat_ids', 'device')


def measure(
    contenders: Sequence[Contender],
    images: Sequence[Image],
    stopping: Stopping,
    reference: str | None = None,
    ann_file: str | None = None,
    tell: Tell = lambda line: None,
    keep: Callable[[list[Measurement], bool], None] = lambda measured, cut_off: None,
) -> list[Measurement]:
    """Start all contenders, run rounds until their figures stand, and ask what else there is.

    Contenders run one after the other, never side by side; those that wait hold
    memory and nothing else. One that cannot run has its reason in its row.

    Args:
        contenders: Who, the order of a round.
        images: Of a round.
        stopping: When there were rounds enough.
        reference: The system that ratios are taken to, by rows of as many threads;
            None for no ratios.
        ann_file: COCO annotations, for the AP of this package's rows.
        tell: Is told what goes on, line by line.
        keep: Takes the rows that have run, or failed, if a signal ends the work, and
            whether it ended the rounds.
    """
    by_name = {contender.name: Measurement(contender=contender) for contender in contenders}
    with ExitStack() as stack:
        running = dict(_start(by_name, images, stack, tell))

        def run(name: str) -> float | None:
            try:
                by_name[name].samples.append(running[name].ask('run'))
            except ContenderError as error:
                by_name[name].failure = str(error)
                tell(f'{name}: {error}')
                return None
            return len(images) / by_name[name].samples[-1]['seconds']

        ended = False
        rounds = Rounds(references=references(contenders, reference))
        try:
            run_rounds(
                {name: partial(run, name) for name in running},
                rounds,
                stopping,
                lambda number, name, rate: tell(f'round {number}: {name}: {rate:.2f} images/s'),
            )
            ended = True
            for name in rounds.rates:
                by_name[name].take(name, rounds, stopping.width)
            for name in rounds.rates:
                tell(f'limits: {name}')
                _ask_more(by_name[name], running[name], ann_file, tell)
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
    measurement: Measurement, process: ContenderProcess, ann_file: str | None, tell: Tell
) -> None:
    """Ask for what is beside the rates; what cannot be told stays empty."""
    questions = {
        'report': ('report',),  # first of all, since what follows takes memory of its own
        'latency': ('latency',),
        'limits': ('limits',),
    }
    if ann_file is not None and measurement.contender.system == OURS:
        questions['ap'] = ('ap', ann_file)
    for name, question in questions.items():
        try:
            setattr(measurement, name, process.ask(*question))
        except ContenderError as error:
            tell(f'{measurement.contender.name}: no {name}: {error}')


def _start(
    measurements: Mapping[str, Measurement], images: Sequence[Image], stack: ExitStack, tell: Tell
) -> Iterator[tuple[str, ContenderProcess]]:
    for name, measurement in measurements.items():
        tell(f'starting {name}')
        try:
            process = stack.enter_context(ContenderProcess(measurement.contender, images))
        except ContenderError as error:
            measurement.failure = str(error)
            tell(f'{name}: {error}')
            continue
        measurement.start = process.start
        yield name, process


def find_persons(models: Models, images: Sequence[Image]) -> list[Image]:
    """The images with the persons that the detector of some models finds, in a process apart.

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
    """The fastest of this package's rows within limits; None where none is.

    Args:
        measurements: To choose from.
        max_latency: Seconds from one image alone to its result.
        max_memory: Bytes of resident memory.
    """
    fitting = [
        m
        for m in measurements
        if m.failure is None
        and m.report
        and m.contender.system == OURS
        and (max_latency is None or m.latency <= max_latency)
        and (max_memory is None or m.report['peak_memory']['resident'] <= max_memory)
    ]
    return max(fitting, key=lambda m: m.images_per_second, default=None)


def flags(measurement: Measurement) -> str:
    """What gives ``tools/batch_infer.py`` the models and settings of a row, quoted for a shell."""
    contender, report = measurement.contender, measurement.report
    chosen = {
        **{name: getattr(contender.models, name) for name in _MODELS},
        'engine': report['engines']['pose']['engine'],
        'precision': report['engines']['pose']['precision'],
        **{name: report[name] for name in ('batch_size', 'num_workers')},
        # A number in place of what was asked for would have the engine built otherwise.
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
