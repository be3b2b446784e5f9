"""Draw a folder of synthetic scenes with persons, and annotations in COCO format."""

import argparse
from collections.abc import Sequence

from ..scenes import SceneOptions, write_scenes
from .console import fail


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Example: tools/make_scenes.py scenes/ --count 10000 --persons 1 8',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    usual = SceneOptions()
    parser.add_argument('out_dir', help='folder for 000000.jpg, ... and annotations.json')
    parser.add_argument('--count', type=int, default=100, help='number of scenes')
    parser.add_argument(
        '--seed', type=int, default=0, help='random seed; equal seeds give equal scenes'
    )
    parser.add_argument(
        '--persons',
        type=int,
        nargs=2,
        default=usual.persons,
        metavar=('MIN', 'MAX'),
        help='minimum and maximum number of persons in a scene',
    )
    parser.add_argument(
        '--heights',
        type=float,
        nargs=2,
        default=usual.heights,
        metavar=('MIN', 'MAX'),
        help='height of a standing person, as a fraction of the image height',
    )
    parser.add_argument(
        '--occluders',
        type=int,
        default=usual.occluders,
        help='maximum number of objects in front of the persons',
    )
    parser.add_argument('--num-workers', type=int, help='number of processes; None: one per core')
    parser.add_argument('--quiet', action='store_true', help='show no progress bar')
    args = parser.parse_args(arguments)
    if args.count < 1:
        parser.error(f'--count: expected an integer >= 1, found {args.count}')
    if args.seed < 0:
        parser.error(f'--seed: expected an integer >= 0, found {args.seed}')
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw and write; returns the exit status."""
    args = parse_args(arguments)
    try:
        options = SceneOptions(
            persons=tuple(args.persons), heights=tuple(args.heights), occluders=args.occluders
        )
    except ValueError as error:
        return fail('make_scenes', 2, error)
    try:
        path = write_scenes(
            args.out_dir, args.count, args.seed, options, args.num_workers, args.quiet
        )
    except OSError as error:
        return fail('make_scenes', 1, error)
    print(f'{args.count} scenes, annotated in {path}')
    return 0
