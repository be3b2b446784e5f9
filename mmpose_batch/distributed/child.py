"""A child process that runs one function after another, and how it ends."""

import os
import pickle
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe, get_all_start_methods, get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Lock, Thread
from typing import Any

# The exit status of a child can be read once, and starting a child reads that of all others.
_starting_or_ending = Lock()
# Seconds in which a child whose parent has closed the connection waits for the parent's end.
_TIME_TO_REMOVE = 30.0
# Seconds in which all files of a process that is killed are closed.
_TIME_TO_CLOSE = 1.0
# Attempts to start a child, and seconds between them, if the fork server is killed.
_STARTS, _PAUSE = 5, 0.2
# By process id, a pipe whose second end is closed only when that process ends.
_lifelines: dict[int, tuple[Connection, Connection]] = {}


class ChildDied(Exception):
    """The child process has died or was ended; the message says how."""


class ChildProcess:
    """A child process; it ends when it is killed, or when its parent dies.

    It is not forked from this process: a fork would lack the threads of PyTorch and OpenVINO, and
    could not use CUDA. Where there is a fork server, it has imported a module in advance, so that
    a child that replaces another one starts at once.

    Args:
        module: Name of the module to import in advance.
        temporary: Folder of the parent, which the child removes if the parent is killed. It does
            not if only the fork server is.

    Raises:
        ChildDied: The fork server is killed again and again.
    """

    def __init__(self, module: str, temporary: str | None = None) -> None:
        context = get_context('forkserver' if 'forkserver' in get_all_start_methods() else 'spawn')
        context.set_forkserver_preload([module])
        self._connection, other = context.Pipe()
        arguments = (other, _lifeline(), temporary)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._start()
        other.close()

    def _start(self) -> None:
        """Start the process, by another fork server if the first one is killed meanwhile."""
        for _ in range(_STARTS):
            try:
                with _starting_or_ending:
                    self._process.start()
                return
            except (EOFError, ConnectionError, FileNotFoundError) as error:
                cause = error
            time.sleep(_PAUSE)  # until the server is seen to have ended
        raise ChildDied('the server that starts it was killed') from cause

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

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


def _lifeline() -> Connection:
    """An end of a pipe at which a child sees that this process has ended."""
    with _starting_or_ending:
        if os.getpid() not in _lifelines:
            _lifelines[os.getpid()] = Pipe(duplex=False)
        return _lifelines[os.getpid()][0]


def _serve(connection: Connection, lifeline: Connection, temporary: str | None) -> None:
    """Run functions until the parent closes the connection or dies."""
    watcher = Thread(target=_end_with_parent, args=(lifeline, temporary), daemon=True)
    watcher.start()
    for name in ('SIGINT', 'SIGHUP'):  # Ctrl-C and a closed terminal end the parent, too
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(EOFError, ConnectionResetError, BrokenPipeError):
        while True:
            function, arguments = connection.recv()
            try:
                answer = True, function(*arguments)
            except Exception as error:
                answer = False, _portable(error)
            connection.send(answer)
    watcher.join(_TIME_TO_REMOVE)  # else this process might end before it has removed the folder


def _end_with_parent(lifeline: Connection, temporary: str | None) -> None:
    """End this process when its parent dies, which then cannot remove its temporary folder.

    Also if the parent has given this process up, since the fork server was killed. It continues
    with other processes, which need the folder.
    """
    parent_process().join()
    if temporary is not None and wait([lifeline], _TIME_TO_CLOSE):
        shutil.rmtree(temporary, ignore_errors=True)  # the other children do the same
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
