"""The command ``mmpose-batch``, which runs the scripts of tools/ from an installed package."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

# Command to description. The module of a command has the same name and a function `main` that
# takes arguments and returns the exit status.
COMMANDS = {
    'infer': 'estimate poses for images',
    'ray': 'estimate poses on a Ray cluster',
    'throughput': 'measure images per second, from files to results',
    'latency': 'measure the latency of single images',
    'overhead': 'measure the time per person outside the network',
    'start': 'measure the time to the first result',
    'compare-engines': 'compare the accuracy of engines with PyTorch',
    'export': 'export a network to an ONNX file',
    'scenes': 'draw synthetic scenes of persons, with annotations',
    'contact-sheet': 'arrange many drawings on one sheet',
}
# Commands without arguments.
PLAIN = {
    'doctor': 'report versions, devices, engines, extras and problems',
    'models': 'list model names and aliases for --pose2d',
}


def usage() -> str:
    """Text of ``mmpose-batch --help``."""
    return '\n'.join(
        [
            'usage: mmpose-batch COMMAND ...',
            '',
            'Batched pose inference with MMPose. Commands:',
            '',
            *(f'  {name:<16}{text}' for name, text in (COMMANDS | PLAIN).items()),
            '',
            '`mmpose-batch COMMAND --help` shows the options of a command.',
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status, 2 if there is no such command."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command, rest = (arguments[0], arguments[1:]) if arguments else ('--help', [])
    if command in ('-h', '--help') or (command in PLAIN and rest in (['-h'], ['--help'])):
        print(f'mmpose-batch {command}: {PLAIN[command]}' if command in PLAIN else usage())
        return 0
    if command in COMMANDS or (command in PLAIN and not rest):
        # Commands import large libraries, so only the one that runs is imported.
        module = import_module(f'.{command.replace("-", "_")}', __package__)
        return module.main() if command in PLAIN else _run(module.main, command, rest)
    wrong = f'{command} takes no arguments' if command in PLAIN else f'no command {command!r}'
    print(f'{usage()}\n\nmmpose-batch: {wrong}', file=sys.stderr)
    return 2


def _run(run: Callable[[Sequence[str]], int], command: str, arguments: list[str]) -> int:
    sys.argv = [f'mmpose-batch {command}', *arguments]  # argparse takes the program's name from it
    try:
        return run(arguments)
    except SystemExit as end:  # wrong arguments
        return end.code if isinstance(end.code, int) else int(end.code is not None)
