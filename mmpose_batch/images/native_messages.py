"""Messages of libpng and libjpeg on standard error, prefixed with the names of images or dropped.

The libraries write to file descriptor 2 directly, from worker threads. A small process, which runs
this file as a script, reads everything that is written to this descriptor and prints it to the
terminal. Being a separate process, it also prints the last messages of a process that crashes.
Between the messages it finds marks where the decoding of an image begins and ends.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Prefixes of the libraries' messages (libpng's pngerror.c, libjpeg's jerror.h).
PREFIXES = (
    b'libpng warning: ',
    b'libpng error: ',
    b'Corrupt JPEG data: ',
    b'Premature end of JPEG file',
    b'Warning: unknown JFIF revision number ',
    b'Unknown Adobe color transform code ',
    b'Inconsistent progression sequence for component ',
    b'Invalid SOS parameters for sequential JPEG',
    b'Application transferred too many scanlines',
)
# Marks: decoding begins (>), decoding ends (<), the context manager ends (.).
_MARK = re.compile(rb'\0([<>.])([^\0]*)\0')
# Maximum bytes of a name, so that a mark is written atomically between the writes of other threads.
_MAX_NAME = 2000

_marks: int | None = None


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Attribute messages of decoders to an image in this block, inside :func:`native_messages`.

    Args:
        name: Path or URL of the image.
    """
    if _marks is None:
        yield
        return
    text = os.fsencode(''.join(char if char.isprintable() else '?' for char in name))[-_MAX_NAME:]
    _write(_marks, b'\0>' + text + b'\0')
    try:
        yield
    finally:
        _write(_marks, b'\0<' + text + b'\0')


def names_messages() -> bool:
    """Whether messages in this process are prefixed with the names of images."""
    return _marks is not None


@contextmanager
def native_messages(quiet: bool = False) -> Iterator[None]:
    """Prefix messages of libpng and libjpeg with the names of images, or drop them.

    Everything else that is written to descriptor 2 is printed unchanged, and ``sys.stderr`` is not
    affected. This has no effect if the descriptor is closed or no process can be started.

    Args:
        quiet: Drop the messages instead.
    """
    global _marks
    try:
        direct = os.dup(2)
    except OSError:
        yield
        return
    reading, writing = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, '-I', '-S', __file__, *(['--quiet'] if quiet else [])],
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=direct,
            start_new_session=True,  # so that Ctrl-C does not interrupt it
        )
    except OSError:
        child = None
    os.close(reading)
    stream, outer_marks = sys.stderr, _marks
    if child is not None:
        sys.stderr = _reopened(stream, direct)
        os.dup2(writing, 2)
        _marks = None if quiet else writing
    try:
        yield
    finally:
        with suppress(OSError, ValueError):  # closed
            sys.stderr.flush()
        sys.stderr, _marks = stream, outer_marks
        os.dup2(direct, 2)
        os.close(direct)
        _write(writing, b'\0.\0')
        os.close(writing)
        if child is not None:
            # Wait for its end of output, not for its exit: other processes may still have the
            # descriptor open.
            child.stdout.read()
            child.stdout.close()
            child.poll()


def _reopened(stream: object, descriptor: int) -> object:
    """A stream on another descriptor if this one writes to 2; otherwise the stream itself."""
    try:
        if stream.fileno() != 2:
            return stream
        stream.flush()
    except (AttributeError, OSError, ValueError):  # None, closed, or a stream in memory
        return stream
    return open(os.dup(descriptor), 'w', 1, stream.encoding, stream.errors)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except OSError:  # no reader
            return


class Filter:
    """Finds messages of decoders in the bytes that are written to a descriptor.

    Args:
        quiet: Drop the messages; otherwise they are prefixed with names.

    Attributes:
        ended: Whether the context manager has ended; other processes may still write.
    """

    def __init__(self, quiet: bool) -> None:
        self.ended = False
        self._quiet = quiet
        self._names: list[bytes] = []
        self._rest = b''  # the beginning of an incomplete mark
        self._line = b''  # the possible beginning of an incomplete message
        self._within_line = False
        self._line_ends = 0  # line ends to come, of messages that two threads wrote into one line

    def feed(self, data: bytes) -> bytes:
        """Process more bytes, and return the bytes to print now."""
        data, self._rest = self._rest + data, b''
        parts = _MARK.split(data)
        start = parts[-1].find(b'\0')
        if start >= 0 and len(parts[-1]) - start < _MAX_NAME + 3:
            parts[-1], self._rest = parts[-1][:start], parts[-1][start:]
        printed = self._text(parts[0])
        for kind, name, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            if kind == b'>':
                self._names.append(name)
            elif kind == b'.':
                self.ended = True
            elif name in self._names:
                self._names.remove(name)
            printed += self._text(text)
        return printed

    def end(self) -> bytes:
        """Return the remaining bytes to print."""
        line, self._line = self._line + self._rest, b''
        return self._finished(line) if line else b''

    def _text(self, text: bytes) -> bytes:
        return b''.join(map(self._piece, text.splitlines(keepends=True)))

    def _piece(self, piece: bytes) -> bytes:
        """Return the bytes to print of a complete or partial line; none if it may be a message."""
        ends = piece.endswith((b'\n', b'\r'))
        if self._within_line:
            self._within_line = not ends
            return piece
        line, self._line = self._line + piece, b''
        if ends:
            return self._finished(line)
        if any(line.startswith(p) or p.startswith(line) for p in PREFIXES):
            self._line = line
            return b''
        self._within_line = True
        return line

    def _finished(self, line: bytes) -> bytes:
        if line == b'\n' and self._line_ends:
            self._line_ends -= 1
            return b''
        if not line.startswith(PREFIXES):
            return line
        self._line_ends += line.count(b'libpng ') - line.startswith(b'libpng ')
        if self._quiet:
            return b''
        # The image is still being decoded when the line of its message ends.
        names = b' or '.join(dict.fromkeys(self._names))
        return (names + b': ' if names else b'') + line


def main() -> None:
    """Print standard input on standard error, filtered, until all of its writers have ended."""
    messages = Filter('--quiet' in sys.argv)
    waited_for = True
    while data := os.read(0, 65536):
        _write(2, messages.feed(data))
        if messages.ended and waited_for:
            os.close(1)
            waited_for = False
    _write(2, messages.end())


if __name__ == '__main__':
    main()
