r"""Export a network to an ONNX file and check that its outputs match those of PyTorch.

  tools/export.py rtmpose-s --out rtmpose-s.onnx
  tools/export.py my_config.py --weights my.pth --out my.onnx --batch-size 8
  tools/export.py my_detector.py --detector --weights det.pth --out det.onnx

The input of the file is the output of the config's data preprocessor: a normalised float32 batch of
shape N x 3 x H x W. Its outputs are what the head decodes: SimCC vectors, heatmaps, or the levels
of a one-stage head.

Exit status: 0 the file is written and checked, 1 the export failed, 2 wrong arguments.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from .console import fail, run_to_end
from .streams import quieten_libraries

TOOL = 'export'
# Maximum difference from PyTorch, as a fraction of the largest output.
TOLERANCE = 1e-3


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong arguments end the process with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', help='config file, or name or alias of a model')
    parser.add_argument('--out', required=True, metavar='FILE', help='ONNX file to write')
    parser.add_argument(
        '--weights',
        metavar='FILE',
        help="checkpoint (default: the checkpoint of the model name); 'none': random weights",
    )
    parser.add_argument('--detector', action='store_true', help='MODEL is an MMDetection model')
    parser.add_argument(
        '--batch-size',
        type=int,
        metavar='N',
        help='fixed batch size of the file (default: any size)',
    )
    parser.add_argument(
        '--input-size',
        type=int,
        nargs=2,
        metavar=('W', 'H'),
        help="input width and height of the network (default: the config's)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    return run_to_end(TOOL, lambda: run(parse_args(arguments)))


def run(args: argparse.Namespace) -> int:
    """Export, check, and print the inputs and outputs of the file; returns the exit status."""
    quieten_libraries()
    from ..errors import CheckpointError, EngineError

    try:
        if args.batch_size is not None and args.batch_size < 1:
            raise ValueError(f'--batch-size: expected an integer >= 1, found {args.batch_size}')
        if args.input_size and min(args.input_size) < 1:
            raise ValueError('--input-size: expected integers >= 1')
        lines = export(args)
    except ImportError as error:
        return fail(TOOL, 1, f"{error}: pip install 'mmpose-batch[onnxruntime]'")
    except (CheckpointError, EngineError, OSError) as error:
        return fail(TOOL, 1, error)
    except ValueError as error:
        return fail(TOOL, 2, error)
    print('\n'.join(lines))
    return 0


def export(args: argparse.Namespace) -> list[str]:
    """Write the file under a temporary name, check it, and rename it; returns lines to print.

    Raises:
        ExportError: Its outputs deviate from those of PyTorch.
        ValueError: The config does not belong to the scope.
    """
    import torch

    from ..engines.onnx_export import check_onnx, export_onnx, load_network
    from ..errors import ExportError

    scope = 'mmdet' if args.detector else 'mmpose'
    try:
        network, size = load_network(args.model, args.weights, scope)
    except (AttributeError, KeyError) as error:
        hint = '' if args.detector else '; see --detector'
        raise ValueError(f'{args.model}: not a config of {scope} ({error}){hint}') from error
    size = tuple(args.input_size[::-1]) if args.input_size else size
    torch.manual_seed(0)
    out = Path(args.out)
    part = out.with_name(f'.{out.name}.part')
    try:
        export_onnx(network, part, size, args.batch_size)
        batches = [args.batch_size] if args.batch_size else [1, 3]
        differences = [check_onnx(network, part, size, count) for count in batches]
        difference = max(differences)
        if not all(each <= TOLERANCE for each in differences):  # nor NaN
            raise ExportError(
                f'the outputs of the file deviate by {difference:.2g} times the largest output'
            )
        shapes = describe(part)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return [
        f'{out}: {out.stat().st_size / 1e6:.1f} MB',
        *shapes,
        f'maximum deviation {difference:.1g}',
    ]


def describe(path: Path) -> list[str]:
    """Lines that list the inputs and outputs of the file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return [
        f'{kind} {value.name}: {" x ".join(map(str, value.shape))}'
        for kind, values in (('in ', session.get_inputs()), ('out', session.get_outputs()))
        for value in values
    ]
