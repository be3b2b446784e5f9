"""Contenders on threads: the real systems and commands, without a process and its imports."""

import os
import threading
from collections.abc import Callable
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import pytest
from mmpose_batch.benchmarking import limits, process
from mmpose_batch.benchmarking.contenders import Contender
from mmpose_batch.benchmarking.process import serve

# In place of those that take seconds: channels, side and images.
SMALL_CONVOLUTIONS = ((8, 8, 1), (8, 8, 4))


class ServingThread(threading.Thread):
    """Stands in for a contender's process, which a closed connection ends."""

    exitcode = 0

    def __init__(self, target: Callable, args: tuple, daemon: bool) -> None:
        *others, connection = args
        self._connection = Connection(os.dup(connection.fileno()))  # its starter closes the other
        super().__init__(target=serve, args=(*others, self._connection), daemon=daemon)

    def run(self) -> None:
        with self._connection:
            super().run()

    def kill(self) -> None:
        pass


def serve_on_threads(
    monkeypatch: pytest.MonkeyPatch, real: Callable[[Contender], bool] = lambda contender: False
) -> list[str]:
    """Have contenders run on threads of this process.

    Args:
        monkeypatch: Undoes it.
        real: Which of them have a process of their own all the same.

    Returns:
        The names of those that are started, one by one.
    """
    started = []

    def start(target: Callable, args: tuple, daemon: bool) -> Any:
        started.append(args[0].name)
        kind = get_context('spawn').Process if real(args[0]) else ServingThread
        return kind(target=target, args=args, daemon=daemon)

    def build(contender: Contender) -> Any:
        from mmpose_batch.benchmarking.systems import build_system

        return build_system(contender)

    context = SimpleNamespace(Pipe=Pipe, Process=start)
    monkeypatch.setattr(
        process, 'multiprocessing', SimpleNamespace(get_context=lambda method: context)
    )
    monkeypatch.setattr(process, '_set_up', lambda contender: build)
    monkeypatch.setattr(limits, 'CONVOLUTIONS', SMALL_CONVOLUTIONS)
    return started
