r"""Compare the accuracy of engines and precisions with PyTorch in fp32, as a table.

  tools/compare_engines.py photos/ --pose2d CONFIG --pose2d-weights FILE --ann-file ann.json \
      --engine openvino onnxruntime --precision fp32 int8

Each combination runs on all images; PyTorch in fp32 is the reference. The columns are: the
deviation from the reference that 95 % of the keypoints and scores do not exceed, the fraction of
the reference persons that are found, AP if there are annotations, and images per second. The table
is Markdown. The row of a combination that cannot run shows the reason.

Exit status: 0 all combinations ran, 1 could not run, 2 wrong arguments, 3 some could not run.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..config import BatchOptions
from .console import (
    build_inferencer,
    fail,
    list_images,
    named_models,
    note_demo_models,
    parse_with_out_dir,
    run_to_end,
)
from .options import add_model_options, add_options
from .streams import quieten_libraries

if TYPE_CHECKING:
    from ..engines.verification import Instances
    from ..evaluation.evaluator import Annotations
    from ..runs.summary import RunSummary

TOOL = 'compare_engines'
HEADER = ('engine', 'precision', 'px', 'score', 'persons found', 'AP', 'images/s')


class Outcome(NamedTuple):
    """Result of one combination."""

    outputs: 'list[Instances]'
    summary: 'RunSummary'


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong arguments end the process with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='folders, image files, globs')
    add_model_options(parser)
    parser.add_argument(
        '--ann-file', metavar='FILE', help='COCO keypoint annotations, to compute AP'
    )
    add_options(
        parser,
        BatchOptions,
        engine={
            'nargs': '+',
            'metavar': 'E',
            'default': ['openvino', 'onnxruntime'],
            'help': 'engines (default: openvino onnxruntime)',
        },
        precision={
            'nargs': '+',
            'metavar': 'P',
            'choices': None,  # the row of an unknown one shows the reason
            'default': ['fp32'],
            'help': 'precisions (default: fp32)',
        },
        tf32={},
        calib_images={
            'strict': False,
            'help': 'input images that calibrate int8 (default: 64)',
        },
        rect={
            'action': 'store_true',
            'help': 'also run each combination with inputs padded to the next multiple of the '
            'stride instead of to a square',
        },
    )
    parser.add_argument(
        '--no-flip-test',
        action='store_true',
        help='also run each combination without the flip test',
    )
    return parse_with_out_dir(parser, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    return run_to_end(TOOL, lambda: run(parse_args(arguments)))


def run(args: argparse.Namespace) -> int:
    """Compare and print; returns the exit status."""
    quieten_libraries()
    from ..benchmarking.document import Table, markdown_row, write_result
    from ..errors import CheckpointError, EngineError, RunError

    try:
        paths = list_images(args.inputs)
        annotations = read_annotations(args, paths)
        note_demo_models(args)
        settings = {'engine': 'torch', 'precision': 'fp32', 'rect': False, 'tf32': args.tf32}
        reference = infer(args, paths, annotations, note=True, **settings)
    except (CheckpointError, EngineError, RunError) as error:
        return fail(TOOL, 1, error)
    except ValueError as error:
        return fail(TOOL, 2, error)
    rows = [row('torch', 'fp32', reference, reference)]
    print(Table(HEADER, rows).markdown(), flush=True)
    failed = False
    for name, precision, settings in combinations(args):
        try:
            outcome = infer(args, paths, annotations, **settings)
        except (EngineError, RunError, ValueError) as error:
            failed = True
            rows.append([name, precision, str(error), *[''] * 4])
        else:
            rows.append(row(name, precision, outcome, reference))
        print(markdown_row(rows[-1]), flush=True)
    try:
        if args.out_dir:
            write_result(Path(args.out_dir), TOOL, args.command, [Table(HEADER, rows)])
    except OSError as error:
        return fail(TOOL, 1, error)
    return 3 if failed else 0


def combinations(args: argparse.Namespace) -> Iterator[tuple[str, str, dict]]:
    """Name, precision and settings of everything to compare."""
    for engine, precision in itertools.product(args.engine, args.precision):
        settings = {'engine': engine, 'precision': precision, 'self_check': False, 'rect': False}
        settings['tf32'] = args.tf32
        if precision == 'int8':
            settings['calib_images'] = args.calib_images
        if (engine, precision) != ('torch', 'fp32'):  # the reference has its row already
            yield engine, precision, settings
        if args.rect:
            yield f'{engine}, rect', precision, {**settings, 'rect': True}
        if args.no_flip_test:
            yield f'{engine}, no flip test', precision, {**settings, 'flip_test': False}


def read_annotations(args: argparse.Namespace, paths: list[str]) -> 'Annotations | None':
    """Annotations, checked before anything is built; None without ``--ann-file``.

    Raises:
        ValueError: The file does not fit the images, or the config does not exist.
    """
    from ..evaluation.evaluator import Annotations
    from ..models.names import load_config

    if args.ann_file is None:
        return None
    cfg, _ = load_config(args.pose2d)
    return Annotations(args.ann_file, cfg, paths)


def infer(
    args: argparse.Namespace,
    paths: list[str],
    annotations: 'Annotations | None',
    note: bool = False,
    **settings: object,
) -> Outcome:
    """Infer all images with one combination; ``note`` prints how they are evaluated."""
    from ..evaluation.annotations import ImageIds
    from ..evaluation.categories import Categories
    from ..models.names import default_filters
    from ..runs.run import Run
    from ..sources.items import Items
    from ..writers.options import RunOptions

    models = named_models(args)
    inferencer = build_inferencer(
        *(models.pop('pose2d'), models.pop('pose2d_weights')), **models, **settings
    )
    filters = default_filters(inferencer.cfg)
    call = inferencer.call_options(**filters, select_thr=filters['bbox_thr'])
    ids, categories = ImageIds(), None
    if annotations is not None:
        ids, truth = annotations.image_ids, annotations.select(inferencer.predictor.pose.keypoints)
        categories = Categories.of(truth.categories, inferencer.detector, boxes=False)
        if note:
            print('\n'.join(annotations.notes(truth, categories)), file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix='mmpose_batch-') as folder:
        options = RunOptions(out_dir=folder, ann_file=args.ann_file, quiet=True)
        items = Items(paths)
        summary = Run(inferencer, items, call, options, ids, categories)()
        outputs = read_outputs(Path(folder) / 'predictions.jsonl')
    return Outcome(outputs, summary)


def read_outputs(path: Path) -> 'list[Instances]':
    """Keypoints and scores of every image of a run."""
    import numpy as np

    from ..writers.jsonl import read_records

    outputs = []
    for record, _ in read_records(str(path)):
        instances = record.get('instances', [])
        points = np.array([instance['keypoints'] for instance in instances])
        scores = np.array([instance['keypoint_scores'] for instance in instances])
        outputs.append((points, scores))
    return outputs


def row(name: str, precision: str, outcome: Outcome, reference: Outcome) -> list[str]:
    """Cells of one line of the table."""
    from ..engines.verification import compare

    difference = compare(reference.outputs, outcome.outputs, quantile=0.95)
    return [
        *(name, precision, f'{difference.px:.3f}', f'{difference.score:.4f}'),
        f'{difference.found:.1%} of {difference.instances}',
        average_precision(outcome.summary),
        f'{outcome.summary.images_per_second:.2f}',
    ]


def average_precision(summary: 'RunSummary') -> str:
    """AP of a run, or the reason why there is none."""
    if summary.evaluation is None:
        return ''
    reason, ap = summary.evaluation.not_judged, summary.metrics.get('AP')
    return f'{ap:.4f}' if ap is not None else f'no AP: {reason}'
