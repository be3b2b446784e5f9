"""Draw a folder of synthetic scenes or videos with persons, and annotations in COCO format."""

import argparse
import sys
from collections.abc import Sequence

from ..scenes import ClipOptions, SceneOptions, write_scenes, write_videos
from .console import fail

_COUNT = 100
# Options of videos only: name, type and help.
_VIDEO_OPTIONS = (
    ('seconds', float, 'length of a video'),
    ('fps', float, 'frames per second of the videos'),
    ('speed', float, 'speed of all motion in the videos; people walk as in reality at 1'),
)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Examples: tools/make_scenes.py scenes/ --count 10000 --persons 1 8; '
        'tools/make_scenes.py videos/ --videos 3 --seconds 60 --fps 30 --persons 3',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    scenes, videos = SceneOptions(), ClipOptions()
    parser.add_argument(
        'out_dir', help='folder for 000000.jpg, ... or 000000.mp4, ... and annotations.json'
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        '--count',
        type=int,
        default=argparse.SUPPRESS,
        help=f'number of scenes (default: {_COUNT})',
    )
    kind.add_argument(
        '--videos',
        type=int,
        default=argparse.SUPPRESS,
        metavar='N',
        help='draw N videos instead of scenes: people walk, turn, cross each other, come and go; '
        'annotations have track ids',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='random seed; equal seeds give equal scenes'
    )
    parser.add_argument(
        '--persons',
        type=int,
        nargs=2,
        default=scenes.persons,
        metavar=('MIN', 'MAX'),
        help='minimum and maximum number of persons in a scene, or in a video at the same time; '
        'one number sets both',
    )
    parser.add_argument(
        '--heights',
        type=float,
        nargs=2,
        default=argparse.SUPPRESS,
        metavar=('MIN', 'MAX'),
        help='height of a standing person, as a fraction of the image height (default: '
        f'{_words(scenes.heights)}, for videos {_words(videos.heights)})',
    )
    parser.add_argument(
        '--occluders',
        type=int,
        default=scenes.occluders,
        help='maximum number of objects in front of the persons',
    )
    _add_video_options(parser, videos)
    parser.add_argument('--num-workers', type=int, help='number of processes; None: one per core')
    parser.add_argument('--quiet', action='store_true', help='show no progress bar')
    args = parser.parse_args(_with_both(sys.argv[1:] if arguments is None else arguments))
    _check(parser, args)
    return args


def _add_video_options(parser: argparse.ArgumentParser, usual: ClipOptions) -> None:
    for name, type_, words in _VIDEO_OPTIONS:
        parser.add_argument(
            f'--{name}',
            type=type_,
            default=argparse.SUPPRESS,
            help=f'{words} (default: {getattr(usual, name):g})',
        )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=argparse.SUPPRESS,
        metavar=('WIDTH', 'HEIGHT'),
        help=f'size of the videos in pixels (default: {_words(usual.size)})',
    )


def _with_both(arguments: Sequence[str]) -> list[str]:
    """Repeat a single number after --persons, which argparse cannot do itself."""
    arguments = list(map(str, arguments))
    for place, argument in enumerate(arguments[:-1]):
        number, *after = arguments[place + 1 :]
        if argument == '--persons' and number.isdecimal() and not (after and _is_int(after[0])):
            return [*arguments[: place + 1], number, number, *after]
    return arguments


def _is_int(text: str) -> bool:
    return text.removeprefix('-').isdecimal()


def _words(values: Sequence[float]) -> str:
    return ' '.join(f'{value:g}' for value in values)


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for name in ('count', 'videos'):
        if getattr(args, name, 1) < 1:
            parser.error(f'--{name}: expected an integer >= 1, found {getattr(args, name)}')
    if args.seed < 0:
        parser.error(f'--seed: expected an integer >= 0, found {args.seed}')
    if not hasattr(args, 'videos'):
        for name in (*(option[0] for option in _VIDEO_OPTIONS), 'size'):
            if hasattr(args, name):
                parser.error(f'--{name}: needs --videos')


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw and write; returns the exit status."""
    args = parse_args(arguments)
    given = vars(args)
    names = ('heights', 'occluders', 'seconds', 'fps', 'speed', 'size')
    values = {name: given[name] for name in names if name in given}
    values |= {name: tuple(values[name]) for name in ('heights', 'size') if name in values}
    try:
        kind = ClipOptions if 'videos' in given else SceneOptions
        options = kind(persons=tuple(args.persons), **values)
    except ValueError as error:
        return fail('make_scenes', 2, error)
    count = given.get('videos', given.get('count', _COUNT))
    write, words = (write_videos, 'videos') if 'videos' in given else (write_scenes, 'scenes')
    try:
        path = write(args.out_dir, count, args.seed, options, args.num_workers, args.quiet)
    except (ImportError, OSError) as error:
        return fail('make_scenes', 1, error)
    print(f'{count} {words}, annotated in {path}')
    return 0
