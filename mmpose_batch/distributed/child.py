"""A child process that runs one function after another, and how it ends."""

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Lock, Thread
from typing import Any

# The exit status of a child can be read once, and starting a child reads that of all others.
_starting_or_ending = Lock()


class ChildDied(Exception):
    """The child process has died or was ended; the message says how."""


class ChildProcess:
    """A child process; it ends when it is killed, or when its parent dies.

    It is not forked from this process: a fork would lack the threads of PyTorch and OpenVINO, and
    could not use CUDA. Where there is a fork server, it has imported a module in advance, so that
    a child that replaces another one starts at once.

    Args:
        module: Name of the module to import in advance.
    """

    def __init__(self, module: str) -> None:
        context = get_context('forkserver' if 'forkserver' in get_all_start_methods() else 'spawn')
        context.set_forkserver_preload([module])
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        with _starting_or_ending:
            self._process.start()
        other.close()

    def call(self, function: Callable, *arguments: Any, timeout: float | None = None) -> Any:
        """Call a function of a module in the child.

        Args:
            function: The function.
            *arguments: Its arguments.
            timeout: Seconds after which the child is ended; None to wait without limit.

        Raises:
            ChildDied: The child has ended before it answered.
            Exception: The exception of the function, with a note of its traceback.
        """
        try:
            self._connection.send((function, arguments))
            ready = wait([self._connection, self._process.sentinel], timeout)
            if not ready:
                self._process.kill()
                raise ChildDied(f'it took longer than {timeout:g} s')
            if self._connection in ready:
                good, value = self._connection.recv()
                if good:
                    return value
                raise value
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass
        wait([self._process.sentinel])
        with _starting_or_ending:
            self._process.join()
        raise ChildDied(_ending(self._process.exitcode))

    def kill(self) -> None:
        """End the child at once; a :meth:`call` in another thread then raises."""
        self._process.kill()
        wait([self._process.sentinel])
        with _starting_or_ending:
            self._process.join()


def _serve(connection: Connection) -> None:
    """Run functions until the parent closes the connection or dies."""
    Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = True, function(*arguments)
        except Exception as error:
            answer = False, _portable(error)
        try:
            connection.send(answer)
        except BrokenPipeError:
            return


def _end_with_parent() -> None:
    """End this process at once when its parent dies, so that it writes nothing any more."""
    parent_process().join()
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """An exception that can be sent to another process, with its traceback in a note."""
    text = traceback.format_exc()
    try:
        copied = pickle.loads(pickle.dumps(error))
    except Exception:
        copied = RuntimeError(f'{type(error).__name__}: {error}')
    copied.add_note(f'in a worker process:\n{text}')
    return copied


def _ending(exitcode: int) -> str:
    """How a process ended, in words."""
    if exitcode >= 0:
        return f'it exited with status {exitcode}'
    try:
        return f'killed by {signal.Signals(-exitcode).name}'
    except ValueError:
        return f'killed by signal {-exitcode}'
