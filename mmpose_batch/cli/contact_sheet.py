"""Arrange several images on one contact sheet, to view many results at once."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from .console import fail


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Example: tools/contact_sheet.py poses/vis --out sheet.png --images 12',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('folder', help='folder of images, read recursively')
    parser.add_argument(
        '--out',
        required=True,
        default=argparse.SUPPRESS,  # shows no default in --help
        metavar='FILE',
        help='image file to write',
    )
    parser.add_argument(
        '--images', type=int, default=12, metavar='N', help='use the first N images'
    )
    parser.add_argument('--columns', type=int, default=4, metavar='N', help='images per row')
    parser.add_argument(
        '--tile',
        type=int,
        default=300,
        metavar='PIXELS',
        help='width and height of a tile in pixels',
    )
    args = parser.parse_args(arguments)
    for name in ('images', 'columns', 'tile'):
        if getattr(args, name) < 1:
            parser.error(f'--{name}: expected an integer >= 1, found {getattr(args, name)}')
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the sheet; returns the exit status."""
    args = parse_args(arguments)
    known = Image.registered_extensions()
    paths = sorted(p for p in Path(args.folder).rglob('*') if p.suffix.lower() in known)
    if not paths:
        return fail('contact_sheet', 1, f'no images in {args.folder}')
    try:
        sheet = make_sheet(paths[: args.images], args.columns, args.tile)
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        sheet.save(args.out)
    except (OSError, ValueError, UnidentifiedImageError) as error:
        return fail('contact_sheet', 1, error)
    print(f'contact sheet: {args.out}')
    return 0


def make_sheet(paths: Sequence[Path], columns: int, tile: int) -> Image.Image:
    """Images in reading order, each scaled to fit its tile and centred."""
    columns = min(columns, len(paths))
    rows = math.ceil(len(paths) / columns)
    sheet = Image.new('RGB', (columns * tile, rows * tile), 'white')
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            fitted = ImageOps.pad(image.convert('RGB'), (tile, tile), color='white')
        sheet.paste(fitted, (number % columns * tile, number // columns * tile))
    return sheet
