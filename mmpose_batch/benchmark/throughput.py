"""Everybody in turn over the same images, each in a process of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from .contenders import DETECTOR, OURS, Contender, Models
from .process import ContenderError, ContenderProcess
from .report import Measurement
from .rounds import Stopping, run_rounds
from .work import Image

Tell = Callable[[str], None]


def measure(
    contenders: Sequence[Contender],
    images: Sequence[Image],
    stopping: Stopping,
    reference: str | None = None,
    ann_file: str | None = None,
    tell: Tell = lambda line: None,
) -> list[Measurement]:
    """Start all contenders, run rounds until their figures stand, and ask what else there is.

    Contenders run one after the other, never side by side; those that wait hold
    memory and nothing else. One that cannot run has its reason in its row.

    Args:
        contenders: Who, the order of a round.
        images: Of a round.
        stopping: When there were rounds enough.
        reference: The system that ratios are taken to; None for no ratios.
        ann_file: COCO annotations, for the AP of this package's rows.
        tell: Is told what goes on, line by line.
    """
    measurements = [Measurement(contender=contender) for contender in contenders]
    with ExitStack() as stack:
        running = dict(_start(measurements, images, stack, tell))
        if not running:
            return measurements

        def runner(measurement: Measurement, process: ContenderProcess) -> Callable[[], float]:
            def run() -> float:
                measurement.samples.append(process.ask('run'))
                return len(images) / measurement.samples[-1]['seconds']

            return run

        by_name = {m.contender.name: m for m in measurements}
        runs = {name: runner(by_name[name], process) for name, process in running.items()}
        references = [m.contender.name for m in measurements if m.contender.system == reference]
        base = next((name for name in references if name in running), None)
        rounds = run_rounds(
            runs, base, stopping, lambda n, name, rate: tell(f'round {n}: {name}: {rate:.2f}/s')
        )
        for name, process in running.items():
            tell(f'limits: {name}')
            measurement = by_name[name]
            measurement.take(name, rounds, stopping.width)
            # First of all, since what follows takes memory of its own.
            measurement.report = process.ask('report')
            measurement.latency = process.ask('latency')
            measurement.limits = process.ask('limits')
            if ann_file is not None and measurement.contender.system == OURS:
                measurement.ap = process.ask('ap', ann_file)
    return measurements


def _start(
    measurements: Sequence[Measurement], images: Sequence[Image], stack: ExitStack, tell: Tell
) -> Iterator[tuple[str, ContenderProcess]]:
    for measurement in measurements:
        name = measurement.contender.name
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
        and m.contender.system == OURS
        and (max_latency is None or m.latency <= max_latency)
        and (max_memory is None or m.report['peak_memory']['resident'] <= max_memory)
    ]
    return max(fitting, key=lambda m: m.images_per_second, default=None)


def flags(measurement: Measurement) -> str:
    """What gives ``tools/batch_infer.py`` the settings of a row."""
    contender, report = measurement.contender, measurement.report
    chosen = {
        'engine': report['engines']['pose']['engine'],
        'precision': report['engines']['pose']['precision'],
        **{name: report[name] for name in ('batch_size', 'det_batch_size', 'num_workers')},
        'num_threads': report['num_threads'],
        'cpu_affinity': contender.cpu_affinity,
    }
    words = [
        f'--{name.replace("_", "-")} {value}' for name, value in chosen.items() if value is not None
    ]
    if contender.models.flip_test is not None:
        words.append('--flip-test' if contender.models.flip_test else '--no-flip-test')
    return ' '.join([*words, '--rect'] if contender.settings.get('rect') else words)


def write_json(
    path: Path, machine: dict, command: str, measurements: Sequence[Measurement]
) -> None:
    """Write everything that was measured, every sample of it."""
    import orjson

    content = {'machine': machine, 'command': command, 'rows': [m.as_dict() for m in measurements]}
    path.write_bytes(
        orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY, default=str)
    )
