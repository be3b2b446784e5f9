"""The command ``mmpose-batch``: the tools of a checkout, for those who installed the package."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

# Command to what it does. Its module has the same name, and a function `main` that takes
# arguments and returns the exit status.
COMMANDS = {
    'infer': 'poses for a folder of images',
    'throughput': 'images per second of settings, from files to results',
    'latency': 'the latency of single images',
    'overhead': 'the time per person outside the network',
    'start': 'the time to the first result',
    'compare-engines': 'how far engines deviate from PyTorch',
    'export': 'a network as an ONNX file',
    'scenes': 'synthetic scenes of persons, with annotations',
    'contact-sheet': 'many drawings on one sheet',
}
# Commands without arguments.
PLAIN = {
    'doctor': 'versions, devices, engines and extras, and what is wrong with them',
    'models': 'names and aliases of models that --pose2d takes',
}


def usage() -> str:
    """What ``mmpose-batch --help`` prints."""
    return '\n'.join(
        [
            'usage: mmpose-batch COMMAND ...',
            '',
            'Batched pose inference with MMPose. Commands:',
            '',
            *(f'  {name:<16}{text}' for name, text in (COMMANDS | PLAIN).items()),
            '',
            '`mmpose-batch COMMAND --help` explains the options of a command.',
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status, 2 if there is no such command."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command, rest = (arguments[0], arguments[1:]) if arguments else ('--help', [])
    if command in ('-h', '--help'):
        print(usage())
        return 0
    if command in COMMANDS or (command in PLAIN and not rest):
        # Each command imports much, so only the one that runs is imported.
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
