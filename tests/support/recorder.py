"""Runs scripts of tools/ with a stand-in for Python that records each command line."""

import os
import shlex
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType

from mmpose_batch.models.names import load_config

from .factories import TOOLS, load_tool, run_script

# Commands without a tool of tools/ are queries, which get an answer, or programs on stdin.
PYTHON = """#!/usr/bin/env bash
echo "${@@Q}" >>"$RECORDED"
case "$*" in
  *cuda.is_available*) echo "$CUDA" ;;
  *cpu_has_bf16*) echo "$BF16" ;;
  *compare_engines.py* | *benchmark_*.py*)
    for last; do :; done # --out-dir comes last
    if [[ -n ${RESULT:-} ]]; then mkdir -p "$last" && cp "$RESULT" "$last/benchmark.json"; fi
    exit "${STATUS:-0}"
    ;;
  *write_benchmarks.py*) [[ -z ${RESULT:-} ]] || exec "$REAL_PYTHON" "$@" ;;
esac
"""


@dataclass(frozen=True)
class Command:
    """A command that a script ran with Python: a tool with its arguments, or a query."""

    words: list[str]

    @property
    def tool(self) -> str:
        return Path(self.words[0]).stem

    @cached_property
    def module(self) -> ModuleType:
        return load_tool(self.tool)

    @cached_property
    def args(self) -> Namespace:
        """Its arguments as parsed by the tool; invalid ones end the test."""
        return self.module.parse_args(self.words[1:])

    @property
    def rows(self) -> list[str]:
        """Names of the contenders that the tool compares; invalid ones raise an error."""
        if self.tool == 'benchmark_overhead':
            cfg, _ = load_config(self.args.pose2d)
            assert cfg.data_mode == 'topdown'
            return [self.args.pose2d]
        if self.tool == 'compare_engines':
            load_config(self.args.pose2d)
            found = [f'{name} {precision}' for name, precision, _ in self.settings]
            return ['torch fp32', *found]
        return [contender.name for contender in self.module.build_contenders(self.args)]

    @property
    def settings(self) -> list[tuple]:
        return list(self.module.combinations(self.args))


@dataclass(frozen=True)
class Recorded:
    """The outcome of a script, and the commands that it ran."""

    outcome: subprocess.CompletedProcess
    commands: list[Command] = field(default_factory=list)

    @property
    def tools(self) -> list[Command]:
        return [command for command in self.commands if not command.words[0].startswith('-')]

    @property
    def questions(self) -> list[str]:
        """The code of each ``python -c``."""
        return [c.words[c.words.index('-c') + 1] for c in self.commands if '-c' in c.words]


def record(folder: Path, script: str, *arguments: object, **environment: object) -> Recorded:
    """Run a script of tools/ with a stand-in for Python first in its PATH.

    Args:
        folder: Folder for the stand-in and its recorded commands.
        script: Name of the script.
        arguments: Arguments of the script.
        environment: ``CUDA`` and ``BF16``, 1 if the machine supports it; ``STATUS``, the exit
            status of every tool that measures; ``RESULT``, a file that each of these copies to
            its ``benchmark.json``; if it is set, tools/write_benchmarks.py really runs.
    """
    played, log = folder / 'played', folder / 'played' / 'recorded'
    played.mkdir(exist_ok=True)
    log.write_text('')
    (played / 'python').write_text(PYTHON)
    (played / 'python').chmod(0o755)
    outcome = run_script(
        script,
        *arguments,
        **{'CUDA': '0', 'BF16': '0', **{name: str(value) for name, value in environment.items()}},
        PATH=f'{played}{os.pathsep}{os.environ["PATH"]}',
        RECORDED=str(log),
        REAL_PYTHON=sys.executable,
    )
    return Recorded(outcome, [Command(shlex.split(line)) for line in log.read_text().splitlines()])


def is_tool_of_ours(command: Command) -> bool:
    """Whether a command runs an executable file of tools/."""
    path = TOOLS / f'{command.tool}.py'
    return path.is_file() and os.access(path, os.X_OK)
