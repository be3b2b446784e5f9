"""Arrange images and frames of videos on one contact sheet, to view many results at once."""

import argparse
import math
import mimetypes
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .console import fail


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Example: tools/contact_sheet.py poses/vis --out sheet.png --images 12',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='PATH',
        help='images, videos, and folders of them, which are read recursively',
    )
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
    parser.add_argument(
        '--videos',
        type=int,
        default=4,
        metavar='N',
        help='use the first N videos; each is a row of evenly spaced frames below the images',
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
    for name in ('images', 'videos', 'columns', 'tile'):
        if getattr(args, name) < 1:
            parser.error(f'--{name}: expected an integer >= 1, found {getattr(args, name)}')
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the sheet; returns the exit status."""
    args = parse_args(arguments)
    paths = list(dict.fromkeys(path for name in args.inputs for path in _files(Path(name))))
    videos = [path for path in paths if _is_video(path)]
    known = Image.registered_extensions()
    images = [p for p in paths if p.suffix.lower() in known and not _is_video(p)]
    if not paths or not (images or videos):
        return fail('contact_sheet', 1, f'no images in {" ".join(args.inputs)}')
    try:
        sheet = make_sheet(images[: args.images], args.columns, args.tile, videos[: args.videos])
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        sheet.save(args.out)
    except (ImportError, OSError, ValueError, UnidentifiedImageError) as error:
        return fail('contact_sheet', 1, error)
    print(f'contact sheet: {args.out}')
    return 0


def _files(path: Path) -> Iterable[Path]:
    return sorted(path.rglob('*')) if path.is_dir() else [path]


def _is_video(path: Path) -> bool:
    return (mimetypes.guess_type(path.name)[0] or '').startswith('video/')


def make_sheet(
    images: Sequence[Path], columns: int, tile: int, videos: Sequence[Path] = ()
) -> Image.Image:
    """Images in reading order, and a row for each video; each scaled to fit its tile and centred.

    Args:
        images: Image files.
        columns: Number of images, and of frames of a video, in a row.
        tile: Width and height of a tile in pixels.
        videos: Video files.

    Raises:
        ImportError: There are videos, but PyAV is not installed.
        OSError, ValueError: A file cannot be read.
    """
    if not videos:
        columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new('RGB', (columns * tile, (rows + len(videos)) * tile), 'white')
    for number, path in enumerate(images):
        with Image.open(path) as image:
            _paste(sheet, image, divmod(number, columns), tile)
    for row, path in enumerate(videos, rows):
        for column, image in enumerate(read_strip(path, columns)):
            _paste(sheet, image, (row, column), tile)
    return sheet


def _paste(sheet: Image.Image, image: Image.Image, place: tuple[int, int], tile: int) -> None:
    row, column = place
    fitted = ImageOps.pad(image.convert('RGB'), (tile, tile), color='white')
    sheet.paste(fitted, (column * tile, row * tile))


def read_strip(path: Path, count: int) -> list[Image.Image]:
    """The first, the last, and evenly spaced frames of a video between them.

    Args:
        path: The video.
        count: Number of frames. All are returned if the video has fewer.

    Raises:
        ImportError: PyAV is not installed.
        OSError, ValueError: The video cannot be read.
    """
    from ..pyav import import_av

    av = import_av()
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError(f'{path}: no video stream')
        total = sum(packet.size > 0 for packet in container.demux(video=0))
    chosen = set(np.linspace(0, total - 1, count).round().astype(int).tolist())
    with av.open(str(path)) as container:
        frames = enumerate(container.decode(video=0))
        return [frame.to_image() for number, frame in frames if number in chosen]
