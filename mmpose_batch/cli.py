"""The command ``mmpose-batch``: the tools of a checkout, for those who installed the package."""

import importlib.util
import os.path as osp
import sys
from collections.abc import Sequence

# Command: the script of tools/ that it runs, and what that does.
TOOLS = {
    'infer': ('batch_infer', 'poses for a folder of images'),
    'throughput': ('benchmark_throughput', 'images per second of settings, from files to results'),
    'latency': ('benchmark_latency', 'the latency of single images'),
    'overhead': ('benchmark_overhead', 'the time per person outside the network'),
    'start': ('benchmark_start', 'the time to the first result'),
    'compare-engines': ('compare_engines', 'how far engines deviate from PyTorch'),
    'export': ('export', 'a network as an ONNX file'),
    'scenes': ('make_scenes', 'synthetic scenes of persons, with annotations'),
    'contact-sheet': ('contact_sheet', 'many drawings on one sheet'),
}
OWN = {
    'doctor': 'versions, devices, engines and extras, and what is wrong with them',
    'models': 'names and aliases of models that --pose2d takes',
}


def tool_folder() -> str:
    """The folder of the tools, installed or in a checkout."""
    package = osp.dirname(osp.abspath(__file__))
    installed = osp.join(package, 'tools')
    return installed if osp.isdir(installed) else osp.join(osp.dirname(package), 'tools')


def usage() -> str:
    """What ``mmpose-batch --help`` prints."""
    lines = [f'  {name:<16}{text}' for name, (_, text) in TOOLS.items()]
    lines += [f'  {name:<16}{text}' for name, text in OWN.items()]
    return '\n'.join(
        [
            'usage: mmpose-batch COMMAND ...',
            '',
            'Batched pose inference with MMPose. Commands:',
            '',
            *lines,
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
    if command in TOOLS:
        return _run_tool(command, rest)
    if command in OWN and not rest:
        from . import doctor

        return {'doctor': doctor.examine, 'models': doctor.show_models}[command]()
    wrong = f'{command} takes no arguments' if command in OWN else f'no command {command!r}'
    print(f'{usage()}\n\nmmpose-batch: {wrong}', file=sys.stderr)
    return 2


def _run_tool(command: str, arguments: list[str]) -> int:
    """Run a script of the tools."""
    name, _ = TOOLS[command]
    folder = tool_folder()
    sys.path.insert(0, folder)  # as Python does for a script
    sys.argv = [f'mmpose-batch {command}', *arguments]  # usage and run files name it
    spec = importlib.util.spec_from_file_location(name, osp.join(folder, f'{name}.py'))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    try:
        return module.main(arguments)
    except SystemExit as end:  # wrong arguments
        return end.code if isinstance(end.code, int) else int(end.code is not None)
