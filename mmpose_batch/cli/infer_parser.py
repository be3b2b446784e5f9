r"""Estimate 2D poses for folders of images and videos, in batches.

  tools/batch_infer.py scenes/ --out-dir poses
  tools/batch_infer.py photos/ --out-dir poses --pose2d rtmo-s
  tools/batch_infer.py clip.mp4 photos/ --out-dir poses --pose2d human
  tools/batch_infer.py photos/ --out-dir poses --pose2d human --save-vis --format json coco
  tools/batch_infer.py @list.txt --out-dir poses --pose2d my_config.py --pose2d-weights my.pth \
      --det-model my_det_config.py --det-weights det.pth --resume

Files written to --out-dir: predictions.jsonl (one line per image, in input order, then one per
frame of each video), failures.jsonl and run.json; predictions/, parquet/ and
predictions.coco.json if --format asks for them; vis/ with --save-vis.

Exit status: 0 all inputs succeeded, 1 could not run, 2 wrong arguments, 3 finished with failures,
4 more images and frames failed than --max-errors allows.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config import BatchOptions, CallOptions, DrawOptions, ModelOptions, VideoOptions
from ..declare import declared, option
from ..distributed.options import ParallelOptions
from ..writers.options import RunOptions
from .options import OPEN, add_option


@dataclass(frozen=True, kw_only=True, slots=True)
class InputOptions:
    """Options of the command line for the inputs and the config."""

    cfg_options: Sequence[str] | None = option(
        None,
        'changes to the pose config, e.g. model.test_cfg.flip_test=False',
        metavar='KEY=VALUE',
    )
    bboxes: str | None = option(
        None,
        'COCO detection results that replace the detector. Each entry names its image by file_name '
        'or image_id (an id of --ann-file, or the number or stem of a file name). Only category_id '
        '1 is used, unless --ann-file has several categories',
        metavar='FILE',
    )
    limit: int | None = option(
        None, 'process only the first N inputs; a video counts as one', metavar='N', minimum=1
    )
    dry_run: bool = option(
        False,
        'check the arguments and print what would be read, written and run; builds and downloads '
        'nothing',
    )
    recursive: bool = option(True, 'also read subfolders (default: yes)')
    follow_links: bool = option(
        False,
        'also read folders that are symbolic links; a folder is never read twice (default: no)',
    )


OWNERS = (
    *(ModelOptions, BatchOptions, CallOptions, DrawOptions),
    *(InputOptions, VideoOptions, RunOptions, ParallelOptions),
)
DRAWING = ('kpt_thr', 'draw_bbox', 'radius', 'thickness', 'skeleton_style')
# Titles of groups in --help, and their options in order; those in a tuple exclude each other.
GROUPS = {
    'inputs': ('recursive', 'follow_links'),
    'videos': declared(VideoOptions),
    'model': (*declared(ModelOptions), 'cfg_options'),
    'thresholds': ('bbox_thr', 'nms_thr', 'pose_based_nms', 'bboxes', 'no_person'),
    'speed': tuple(n for n in declared(BatchOptions) if n not in ('on_error', 'no_person')),
    'several processes': declared(ParallelOptions),
    'output': ('formats', 'save_vis', *DRAWING, 'ann_file', 'quiet'),
    'run': (('resume', 'overwrite'), 'on_error', 'max_errors', 'limit', 'dry_run'),
}


class ShowAliases(argparse.Action):
    """Prints the names of models and exits, as ``--help`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """See :class:`argparse.Action`."""
        from .models import main

        parser.exit(main())


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; docs/reference/options.md is generated from it too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    groups['inputs'].add_argument(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help='folder, image or video file, quoted glob pattern, or @FILE with one path per line',
    )
    add_option(parser, RunOptions, 'out_dir', required=True)
    owner_of = {name: owner for owner in OWNERS for name in declared(owner)}
    for title, names in GROUPS.items():
        group = groups[title]
        for name in names:
            alternatives = name if isinstance(name, tuple) else (name,)
            place = group if name in owner_of else group.add_mutually_exclusive_group()
            for each in alternatives:
                owner = owner_of[each]
                add_option(place, owner, each, strict=owner not in OPEN)
        if title == 'model':
            group.add_argument(
                '--show-alias',
                action=ShowAliases,
                nargs=0,
                help='print model names and aliases, and exit',
            )
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong arguments end the process with status 2."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.follow_links and not args.recursive:
        parser.error('--follow-links cannot be combined with --no-recursive')
    return args
