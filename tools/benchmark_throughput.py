#!/usr/bin/env python
r"""Images per second from files to results, beside stock MMPose, in one run.

  tools/benchmark_throughput.py photos/ --pose2d CONFIG --pose2d-weights FILE \
      --engine torch openvino --precision fp32 --batch-size 1 2 4

Every round runs stock and each setting once over the same images, in turn, so that a machine whose
speed drifts slows all of them alike; printed are medians over the rounds and the ratio to stock,
round by round. Both sides read files and make results; neither draws or writes.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from console import build_inferencer, fail, quieten_libraries

if TYPE_CHECKING:
    from mmpose_batch import BatchPose2DInferencer

TOOL = 'benchmark_throughput'
LEAST = {'images': 1, 'rounds': 1, 'batch_size': 1, 'num_workers': 0, 'num_threads': 1}
Runner = Callable[[list[str]], int]


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong arguments end the process with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='folders, image files, globs')
    parser.add_argument('--pose2d', default='rtmo-s', metavar='MODEL', help='config file or name')
    parser.add_argument(
        '--pose2d-weights',
        metavar='FILE',
        help='checkpoint (default: that of the name or config; none: random)',
    )
    parser.add_argument('--det-model', metavar='MODEL', help='for top-down models')
    parser.add_argument('--det-weights', metavar='FILE')
    parser.add_argument('--det-cat-ids', type=int, nargs='+', metavar='ID')
    parser.add_argument('--device', help='cpu, cuda:0, ... (default: the best there is)')
    parser.add_argument(
        '--images', type=int, default=64, help='repeat the inputs to this many (default: 64)'
    )
    parser.add_argument('--rounds', type=int, default=5, help='rounds that count (default: 5)')
    parser.add_argument(
        '--engine', nargs='+', default=['torch'], metavar='E', help='default: torch'
    )
    parser.add_argument('--precision', nargs='+', default=['fp32'], metavar='P')
    parser.add_argument(
        '--batch-size', nargs='+', type=int, default=[None], metavar='N', help='default: automatic'
    )
    parser.add_argument('--num-workers', nargs='+', type=int, default=[None], metavar='N')
    parser.add_argument(
        '--rect', action='store_true', default=None, help='ours: pad to the stride, not to a square'
    )
    parser.add_argument(
        '--no-flip-test', action='store_true', help='no mirrored images, for both sides'
    )
    parser.add_argument('--num-threads', type=int, metavar='N', help="torch's threads")
    parser.add_argument('--json', metavar='FILE', help='also write every sample here')
    args = parser.parse_args(arguments)
    for name, least in LEAST.items():
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < least:
                option = name.replace('_', '-')
                parser.error(f'--{option}: expected a number from {least}, found {value}')
    folder = os.path.dirname(os.path.abspath(args.json or '.'))
    if not os.access(folder, os.W_OK):  # found out before the rounds, not after
        parser.error(f'--json: cannot write into {folder}')
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    args = parse_args(arguments)
    quieten_libraries()
    import torch  # and mmpose with it takes seconds: --help answers before

    from mmpose_batch import CheckpointError, EngineError, InputError
    from mmpose_batch.run import RunError

    if args.num_threads:
        torch.set_num_threads(args.num_threads)
    try:
        paths = find_images(args)
        runners = build_runners(args)
    except (CheckpointError, EngineError, RunError) as error:
        return fail(TOOL, 1, error)
    except ValueError as error:
        return fail(TOOL, 2, error)
    warn_of_noise(args.rounds)
    try:
        rates, persons = measure(runners, paths, args.rounds)
    except EngineError as error:
        return fail(TOOL, 1, error)
    except InputError as error:
        reason = f'every image must be good for stock too; this one is not: {error}'
        return fail(TOOL, 1, reason)
    report(rates, persons)
    if args.json:
        with open(args.json, 'w', encoding='utf-8') as file:
            json.dump({'arguments': vars(args), 'images_per_second': rates}, file, indent=2)
    return 0


def warn_of_noise(rounds: int) -> None:
    """Say what makes the figures worth little."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > 0.5 * cores:
        print(f'warning: the machine is busy (load {load:.1f} on {cores} cores)', file=sys.stderr)
    if rounds < 3:
        print('warning: fewer than 3 rounds do not tell a ratio from noise', file=sys.stderr)


def find_images(args: argparse.Namespace) -> list[str]:
    """The inputs, over and over, until there are as many as asked for."""
    from mmpose_batch.sources import list_inputs

    paths = list_inputs(args.inputs)
    if not paths:
        raise ValueError(f'no images in {", ".join(args.inputs)}')
    return list(itertools.islice(itertools.cycle(paths), args.images))


def build_runners(args: argparse.Namespace) -> dict[str, Runner]:
    """Stock, and one batched inferencer for each combination of settings."""
    from mmpose_batch.models import default_filters

    models = {
        'det_model': args.det_model,
        'det_weights': args.det_weights,
        'det_cat_ids': args.det_cat_ids,
        'device': args.device,
    }
    ours = {**models, 'rect': args.rect, 'flip_test': False if args.no_flip_test else None}
    runners = {}
    for engine, precision in itertools.product(args.engine, args.precision):
        inferencer = build_inferencer(
            *(args.pose2d, args.pose2d_weights),
            **{**ours, 'engine': engine, 'precision': precision, 'on_error': 'raise'},
        )
        filters = default_filters(inferencer.cfg)
        for batch_size, workers in itertools.product(args.batch_size, args.num_workers):
            name = precision if engine == 'torch' else f'{engine} {precision}'
            name += '' if batch_size is None else f', batch {batch_size}'
            name += '' if workers is None else f', {workers} workers'
            runners[name] = batched_runner(inferencer, batch_size, workers, filters)
    # Last, since it tells less of a bad image than the others.
    return {**runners, 'stock': build_stock(args, models)}


def build_stock(args: argparse.Namespace, models: dict) -> Runner:
    """MMPose's own inferencer, untouched; only its checkpoints are let through torch's check."""
    import torch
    from mmpose.apis.inferencers import Pose2DInferencer

    from mmpose_batch.checkpoint import allowed_types
    from mmpose_batch.detection import WHOLE_IMAGE
    from mmpose_batch.models import default_filters, load_config
    from mmpose_batch.options import merge_settings

    cfg, own_weights = load_config(args.pose2d)
    weights = args.pose2d_weights or own_weights
    own = merge_settings(cfg.get('inferencer', {}), models)
    settings = {key: own[key] for key in models if key in own}
    if isinstance(own.get('det_model'), str) and own['det_model'] not in WHOLE_IMAGE:
        # By our names, which stock does not know; its None for the categories finds nobody.
        det_cfg, det_weights = load_config(own['det_model'], 'mmdet')
        defaults = {'det_weights': det_weights, 'det_cat_ids': [0]}
        settings = {**defaults, **settings, 'det_model': det_cfg.filename}
    if settings.get('det_weights') == 'none':
        settings['det_weights'] = None
    if args.no_flip_test:
        cfg.model.test_cfg.flip_test = False
    torch.manual_seed(0)  # as for the others, where weights are random
    with allowed_types():
        stock = Pose2DInferencer(cfg, None if weights == 'none' else weights, **settings)
    filters = default_filters(stock.cfg)
    return lambda paths: sum(len(r['predictions'][0]) for r in stock(paths, **filters))


def batched_runner(
    inferencer: 'BatchPose2DInferencer', batch_size: int | None, workers: int | None, filters: dict
) -> Runner:
    """One setting of a batched inferencer, through the same call as stock."""
    from dataclasses import replace

    settled = inferencer.options
    options = settled if workers is None else replace(settled, num_workers=workers)

    def run(paths: list[str]) -> int:
        inferencer.options = options
        results = inferencer(paths, batch_size=batch_size, **filters)
        return sum(len(result['predictions'][0]) for result in results)

    return run


def measure(
    runners: dict[str, Runner], paths: list[str], rounds: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Images per second of every runner in every round, and the persons that it found."""
    rates: dict[str, list[float]] = {name: [] for name in runners}
    persons = {name: run(paths[:4]) for name, run in runners.items()}  # warm-up
    for number in range(rounds):
        for name, run in runners.items():
            start = time.perf_counter()
            persons[name] = run(paths)
            rates[name].append(len(paths) / (time.perf_counter() - start))
            print(f'round {number + 1}: {name}: {rates[name][-1]:.2f} images/s', file=sys.stderr)
    return rates, persons


def report(rates: dict[str, list[float]], persons: dict[str, int]) -> None:
    """Print the table: median rate, median, least and greatest ratio to stock."""
    rates = {'stock': rates['stock'], **rates}
    width = max(map(len, rates))
    print(f'{"":{width}}  images/s   ratio to stock (least to greatest)   persons')
    for name, samples in rates.items():
        ratios = [ours / stock for ours, stock in zip(samples, rates['stock'], strict=True)]
        spread = f'{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})'
        print(f'{name:{width}}  {statistics.median(samples):8.2f}   {spread:34}   {persons[name]}')


if __name__ == '__main__':
    sys.exit(main())
