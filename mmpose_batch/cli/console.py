"""Helpers that the commands share: one-line errors, building a model, listing images."""

import argparse
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from ..config import ModelOptions
from ..declare import declared
from .options import take

if TYPE_CHECKING:
    from ..factory import Plan
    from ..inferencer import BatchPose2DInferencer


# First words of a log of these commands, by which it is recognised.
_LOG_HEAD = 'error log of mmpose_batch, '
_LOGS = ('error.log', *(f'error-{number}.log' for number in range(2, 10)))


def note_demo_models(args: argparse.Namespace) -> None:
    """Print a note about the demo models if one of them is used."""
    from ..models.names import is_demo_model

    if any(model and is_demo_model(model) for model in (args.pose2d, args.det_model)):
        print(
            'note: the demo models only work on scenes of tools/make_scenes.py; for photos use, '
            'e.g., --pose2d rtmo-s',
            file=sys.stderr,
        )


def named_models(args: argparse.Namespace) -> dict[str, Any]:
    """The values of the options of :func:`.options.add_model_options`."""
    return take(args, list(declared(ModelOptions)))


def list_images(inputs: Sequence[str]) -> list[str]:
    """Paths of the images that the inputs of a command select.

    Raises:
        ValueError: There are no images, or an input is not usable.
    """
    from ..sources.files import list_inputs

    paths = list_inputs(inputs, videos=False)
    if not paths:
        raise ValueError(f'no images in {", ".join(inputs)}')
    return paths


def note_noise(quiet: bool = False) -> str | None:
    """Print and return a warning if something on this machine disturbs measurements."""
    from ..benchmarking.machine import noise

    warning = noise()
    if warning and not quiet:
        print(f'warning: {warning}', file=sys.stderr)
    return warning


def fail(tool: str, status: int, error: object) -> int:
    """Print an error in one line; returns the exit status."""
    print(f'{tool}: {" ".join(str(error).split())}', file=sys.stderr)
    return status


def log_traceback(error: BaseException, folder: str | None = None) -> str | None:
    """Write the traceback of an exception to a log file.

    Args:
        error: The exception.
        folder: Folder for ``error.log``, such as the output folder. An existing log of
            these commands is appended to. If another file has that name, the log is
            ``error-2.log``, and so on. If the folder is missing or not writable, the
            log is a temporary file, which is not deleted.

    Returns:
        Path of the file; None if nothing can be written.
    """
    head = f'{_LOG_HEAD}{datetime.now(UTC).isoformat(timespec="seconds")}\n'
    text = head + ''.join(traceback.format_exception(error))
    options = {'encoding': 'utf-8', 'errors': 'backslashreplace'}
    for path in (os.path.join(folder, name) for name in _LOGS if folder):
        with suppress(OSError), open(path, 'a' if _is_log(path) else 'x', **options) as file:
            file.write(text)
            return path
    with suppress(OSError):
        options |= {'prefix': 'mmpose_batch-', 'suffix': '.log', 'delete': False}
        with tempfile.NamedTemporaryFile('w', **options) as file:
            file.write(text)
            return file.name
    return None


def _is_log(path: str) -> bool:
    """Whether a file is a log of these commands."""
    with suppress(OSError):
        if os.path.isfile(path):
            with open(path, 'rb') as file:
                return file.read(len(_LOG_HEAD)) == _LOG_HEAD.encode()
    return False


def remove_logs(folder: str) -> None:
    """Remove the logs of earlier failures from a folder in which a run has now succeeded."""
    for path in (os.path.join(folder, name) for name in _LOGS):
        if _is_log(path):
            with suppress(OSError):
                os.unlink(path)


def describe_unexpected(error: BaseException, folder: str | None = None) -> str:
    """One line for an unexpected exception; its traceback is written to a file."""
    path = log_traceback(error, folder)
    text = (str(error).splitlines() or [''])[0]
    return f'{type(error).__name__}: {text}' + (f' (traceback in {path})' if path else '')


def show(lines: Iterable[str], stream: TextIO | None = None) -> None:
    """Print lines immediately; control characters in file names do not break a line.

    Raises:
        OSError: They cannot be written.
    """
    from ..sources.folders import printable

    print('\n'.join(map(printable, lines)), file=stream or sys.stdout, flush=True)


@contextmanager
def model_errors() -> Iterator[None]:
    """Turn any error of a config or a device into one line.

    Raises:
        CheckpointError, EngineError, RunError, ValueError: Passed on unchanged.
        RunError: Replaces any other exception.
    """
    from ..errors import CheckpointError, EngineError, RunError

    try:
        yield
    except (CheckpointError, EngineError, RunError, ValueError):
        raise
    except Exception as error:  # a config is code, and MMEngine passes on all that it raises
        raise RunError(f'the model cannot be built: {describe_unexpected(error)}') from error


def build_inferencer(*arguments: Any, **settings: Any) -> 'BatchPose2DInferencer':
    """Build an inferencer, with the default threads of command lines.

    Raises:
        CheckpointError, EngineError, ValueError: As :func:`mmpose_batch.build_inferencer`.
        RunError: Replaces any other exception.
    """
    from ..factory import plan_inferencer

    with model_errors():
        return with_default_threads(plan_inferencer(*arguments, **settings)).build()


def with_default_threads(plan: 'Plan', processes: int = 1, threads: int | None = None) -> 'Plan':
    """Set the default numbers of threads, unless the user chose a number or named cores.

    Args:
        plan: The plan of an inferencer.
        processes: Number of processes that share the cores.
        threads: Threads of an earlier run, which a resumed run must have too; None without one.
    """
    from ..cores import available_cores, default_threads

    names = 'num_threads', 'cpu_affinity'  # named cores imply a number
    settings = dict(plan.settings)
    if all(settings.get(name) is None for name in names):
        settings['num_threads'] = threads or max(1, default_threads() // max(1, processes))
    if processes > 1 and settings.get('num_workers') is None:
        settings['num_workers'] = max(1, min(8, available_cores() // processes))
    return replace(plan, settings=settings)


def check_engines(names: Iterable[str]) -> None:
    """Check that engines are registered. Read the config first: it may register more.

    Raises:
        ValueError: An engine is not registered.
    """
    from ..engines.registry import AUTO, get

    for name in names:
        if name != AUTO:
            get(name)


def parse_with_out_dir(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    check: Callable[[argparse.ArgumentParser, argparse.Namespace], None] = lambda *_: None,
) -> argparse.Namespace:
    """Parse and check the arguments of a command that writes a ``benchmark.json``.

    ``--out-dir`` is created, or rejected, before the work begins.
    """
    parser.add_argument('--out-dir', metavar='DIR', help='folder for benchmark.json and plots')
    args = parser.parse_args(arguments)
    check(parser, args)
    args.command = sys.argv[1:] if arguments is None else list(arguments)
    if args.out_dir:
        with suppress(OSError):
            os.makedirs(args.out_dir, exist_ok=True)
        if not os.path.isdir(args.out_dir) or not os.access(args.out_dir, os.W_OK):
            parser.error(f'--out-dir: cannot write into {args.out_dir}')
    return args


def run_to_end(tool: str, run: Callable[[], int], folder: str | None = None) -> int:
    """Run a command: signals end it cleanly, and every error is printed in one line.

    Args:
        tool: Name of the command, which starts the line.
        run: Function that does the work and returns the exit status.
        folder: Folder for the traceback of an unexpected exception, see :func:`log_traceback`.

    Returns:
        The exit status.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return run()
    except KeyboardInterrupt:
        return fail(tool, 130, 'interrupted')
    except OSError as error:  # e.g. a full disk
        return fail(tool, 1, error)
    except Exception as error:
        return fail(tool, 1, f'unexpected {describe_unexpected(error, folder)}')
