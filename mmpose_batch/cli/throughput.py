"""The command ``throughput``: measures images per second, from files to results."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .console import (
    check_engines,
    fail,
    list_images,
    named_models,
    note_demo_models,
    note_noise,
    run_to_end,
)
from .streams import quieten_libraries
from .throughput_parser import parse_args

if TYPE_CHECKING:
    from ..benchmarking.contenders import Contender
    from ..benchmarking.report import Measurement
    from ..benchmarking.work import Image

TOOL = 'benchmark_throughput'
AXES = ('engine', 'precision', 'batch_size', 'num_workers')
ROUNDS = ('rounds', 'max_rounds', 'interval', 'time_limit')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    return run_to_end(TOOL, lambda: run(parse_args(arguments)))


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit status."""
    quieten_libraries()
    # Importing mmpose takes seconds, which --help and wrong options should not need.
    from ..benchmarking.report import print_tables
    from ..benchmarking.rounds import Stopping
    from ..benchmarking.throughput import measure

    def report(line: str) -> None:
        if not args.quiet:
            print(line, file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix='mmpose_batch-') as folder:
        try:
            stopping = Stopping(
                rounds=args.rounds,
                max_rounds=args.max_rounds,
                width=args.interval,
                seconds=args.time_limit,
            )
            rows = build_contenders(args)
            images, ann_file = find_images(args, rows, folder)
        except RuntimeError as error:  # of a contender, or of torch if there is no such device
            return fail(TOOL, 1, error)
        except ValueError as error:
            return fail(TOOL, 2, error)
        if args.inputs and not args.quiet:
            note_demo_models(args)
        warning = note_noise(args.quiet)
        reference = args.against[0] if args.against else None
        keep = partial(write, args, len(images), warning)
        measured = measure(rows, images, stopping, reference, ann_file, report, keep)
    failed = [row for row in measured if row.failure is not None]
    if len(failed) == len(measured):
        return fail(TOOL, 1, failed[-1].failure)
    print_tables(measured)
    keep(measured)
    if args.recommend and not recommend(args, measured):
        return fail(TOOL, 1, 'no row is within the limits')
    return 3 if failed and not _tries(args) else 0


def _tries(args: argparse.Namespace) -> bool:
    """Whether there are rows that the user did not name; these may fail."""
    return args.recommend and None in (args.engine, args.precision)


def build_contenders(args: argparse.Namespace) -> 'list[Contender]':
    """The rows that the arguments select.

    Raises:
        ValueError: The model, an engine or the cores do not exist or cannot be combined.
    """
    from mmengine.device import get_device

    from ..benchmarking.contenders import NEED_BOXES, Models, read_config, sweep
    from ..cores import parse_cores

    if args.cpu_affinity is not None:
        parse_cores(args.cpu_affinity)
    models = Models(
        **named_models(args),
        flip_test=False if args.no_flip_test else None,
        given_boxes=args.given_boxes or bool(set(args.against) & set(NEED_BOXES)),
    )
    cfg = read_config(args.pose2d)
    check_engines(args.engine or ())
    if models.given_boxes and cfg.get('data_mode') != 'topdown':
        raise ValueError('--given-boxes, rtmlib, simple baselines: only valid for top-down models')
    device = args.device or get_device()
    axes = {name: list(dict.fromkeys(values)) for name, values in find_axes(args, device).items()}
    against, threads = (list(dict.fromkeys(v)) for v in (args.against, args.num_threads))
    rows = list(sweep(models, against, axes, threads, args.cpu_affinity, rect=args.rect))
    if _tries(args):
        return leave_out_impossible(rows, device)
    return rows


def find_axes(args: argparse.Namespace, device: str) -> 'dict[str, list]':
    """The settings to vary, and their values: those named, else defaults or candidates."""
    from ..engines.optional import is_installed
    from ..engines.registry import resolve_precision, specs

    axes = {name: getattr(args, name) for name in AXES}
    if args.recommend:
        installed = [spec.name for spec in specs().values() if spec.modules and is_installed(spec)]
        chosen = {
            'engine': ['torch', *installed],
            'precision': ['fp32', resolve_precision('auto', device)],
            'batch_size': [1, 'auto'],
        }
    else:
        chosen = {'engine': ['torch'], 'precision': ['fp32'], 'batch_size': [None]}
    return axes | {name: values for name, values in chosen.items() if axes[name] is None}


def leave_out_impossible(rows: 'list[Contender]', device: str) -> 'list[Contender]':
    """Drop the rows of this package whose engine does not support their precision.

    Raises:
        ValueError: No row of this package is left.
    """
    from ..benchmarking.contenders import OURS
    from ..engines.registry import resolve_precision

    possible, reason = [], None
    for row in rows:
        try:
            if row.system == OURS:
                resolve_precision(row.settings['precision'], device, row.settings['engine'])
            possible.append(row)
        except ValueError as error:
            reason = reason or error
    if not any(row.system == OURS for row in possible):
        raise ValueError(reason)
    return possible


def find_images(
    args: argparse.Namespace, rows: 'list[Contender]', folder: str
) -> 'tuple[list[Image], str | None]':
    """The images of a round, with person boxes if these are given, and the annotation file."""
    from dataclasses import replace

    from ..benchmarking.throughput import find_persons
    from ..benchmarking.work import Image, repeat, with_annotated_persons
    from ..evaluation.annotations import read_annotations
    from ..scenes import SceneOptions, write_scenes

    ann_file = args.ann_file
    if args.scenes:
        people = {} if args.persons is None else {'persons': (args.persons, args.persons)}
        options = SceneOptions(**people)
        ann_file = str(write_scenes(folder, args.scenes, 0, options, quiet=args.quiet))
    elif ann_file is not None:
        read_annotations(ann_file)  # an error is raised before the rounds
    paths = repeat(list_images(args.inputs or [folder]), args.images or args.scenes or 64)
    models = rows[0].models
    if not models.given_boxes:
        return [Image(path) for path in paths], ann_file
    if ann_file is not None:
        return with_annotated_persons(paths, ann_file), ann_file
    found = find_persons(replace(models, given_boxes=False), [Image(path) for path in paths])
    return found, None


def write(
    args: argparse.Namespace,
    images: int,
    warning: str | None,
    measured: 'Sequence[Measurement]',
    cut_off: bool = False,
) -> None:
    """Write every sample and the plots, if there is an ``--out-dir``.

    Args:
        args: The arguments.
        images: Number of images of a round.
        warning: Warning about the machine, if there is one.
        measured: Rows of the table.
        cut_off: Whether a signal ended the rounds.
    """
    if not args.out_dir:
        return
    from ..benchmarking.document import add_plots, write_result
    from ..benchmarking.plots import plot_all
    from ..benchmarking.report import failures, tables

    folder = Path(args.out_dir)
    rows = [measurement.as_dict() for measurement in measured]
    shown = tables(measured) + failures(measured)
    settings = {name: getattr(args, name) for name in ROUNDS}
    more = {
        'settings': {'images': images, **settings},
        'warning': warning,
        'cut_off': cut_off,
        'rows': rows,
    }
    write_result(folder, TOOL, args.command, shown, **more)
    plots = plot_all(measured, folder)
    add_plots(folder, plots)
    print(f'{folder}: benchmark.json, {", ".join(plot.name for plot in plots)}')


def recommend(args: argparse.Namespace, measured: 'Sequence[Measurement]') -> bool:
    """Print the fastest options within the limits; returns whether a row is within them."""
    from ..benchmarking.throughput import best, flags

    latency = None if args.max_latency is None else args.max_latency / 1e3
    memory = None if args.max_memory is None else args.max_memory * 1e9
    chosen = best(measured, latency, memory)
    if chosen is None:
        return False
    unsure = '' if chosen.rate_settled else ', which has not converged'
    print(
        f'fastest: {flags(chosen)}\n({chosen.images_per_second:.2f} images/s{unsure}, '
        f'latency of one image {chosen.latency * 1e3:.0f} ms, '
        f'{chosen.report["peak_memory"]["resident"] / 1e9:.2f} GB)'
    )
    return True
