"""Standard output and error of a command, which may be closed, and silencing the libraries."""

import errno
import logging
import os
import sys
import warnings
from contextlib import suppress
from typing import Any, TextIO

# Errors of a stream without a reader, or whose terminal is gone.
_CLOSED = (errno.EPIPE, errno.EBADF, errno.EIO)


class _Output:
    """Standard output or error that may be closed: by ``| head -1``, a service or ``pythonw``.

    A closed stream does not end a run. Characters that the encoding of the stream lacks are
    escaped.
    """

    may_be_closed = True

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        with suppress(AttributeError, OSError, ValueError):  # a stream in memory, a closed one
            stream.reconfigure(errors='backslashreplace')

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write to the stream; discard the text once the stream is closed or has failed.

        Raises:
            OSError: Any other error, e.g. a full disk; raised once only.
        """
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._silence(error)
            return len(text)

    def flush(self) -> None:
        """Flush the stream if it is open; raises as :meth:`write` does."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._silence(error)

    def _silence(self, error: OSError | ValueError) -> None:
        closed = self._stream.closed or getattr(error, 'errno', None) in _CLOSED
        # When the process ends, the rest of the buffer is flushed there.
        with suppress(AttributeError, OSError, ValueError):
            descriptor, nowhere = self._stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
        self._stream = open(os.devnull, 'w')  # noqa: SIM115 - until the process ends
        if not closed:
            raise error


def ignore_closed_output() -> None:
    """Let a run continue when standard output or error is closed or missing."""
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, 'w')  # noqa: SIM115 - until the process ends
        if not getattr(stream, 'may_be_closed', False):
            setattr(sys, name, _Output(stream))


def quieten_libraries() -> None:
    """Silence the messages of libraries, and allow closed output streams."""
    ignore_closed_output()
    warnings.filterwarnings('ignore')
    os.environ.setdefault('PYTHONWARNINGS', 'ignore')  # for child processes too
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')  # a bad file gets a failure record
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance().setLevel(logging.ERROR)
