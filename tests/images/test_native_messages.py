"""Messages of libpng and libjpeg: prefixed with names or dropped, without other losses."""

import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest
from mmpose.datasets.transforms import LoadImage
from support.tiny import picture

from mmpose_batch.images.native_messages import PREFIXES, Filter, native_messages
from mmpose_batch.images.read import read_image
from mmpose_batch.sources.base import Frame
from mmpose_batch.workers import WorkerPool

WARNING = b'libpng warning: iCCP: too short\n'


def begins(name: bytes) -> bytes:
    return b'\0>' + name + b'\0'


def ends(name: bytes) -> bytes:
    return b'\0<' + name + b'\0'


A, B = b'a.png', b'b.png'


def filtered(data: bytes, quiet: bool, step: int) -> bytes:
    messages = Filter(quiet)
    pieces = [messages.feed(data[at : at + step]) for at in range(0, len(data), step)]
    return b''.join([*pieces, messages.end()])


@pytest.mark.parametrize('step', [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ('data', 'named', 'quiet'),
    [
        pytest.param(b'a line\n\nand a part', *2 * [b'a line\n\nand a part'], id='other text'),
        pytest.param(b'10 %\r20 %\rlibp', *2 * [b'10 %\r20 %\rlibp'], id='a progress bar'),
        pytest.param(b'not libpng warning: x\n', *2 * [b'not libpng warning: x\n'], id='within'),
        pytest.param(WARNING, WARNING, b'', id='without an image'),
        pytest.param(
            begins(A) + WARNING + ends(A) + WARNING, b'a.png: ' + WARNING + WARNING, b'', id='one'
        ),
        pytest.param(
            begins(A) + begins(B) + WARNING + ends(B) + WARNING + ends(A),
            b'a.png or b.png: ' + WARNING + b'a.png: ' + WARNING,
            b'',
            id='two at once',
        ),
        pytest.param(
            begins(A) + begins(A) + ends(A) + WARNING + ends(A),
            b'a.png: ' + WARNING,
            b'',
            id='twice',
        ),
        pytest.param(
            begins(A) + b'libpng warning: x' + begins(B) + b'libpng error: y\n\n' + ends(A) + b'\n',
            b'a.png or b.png: libpng warning: xlibpng error: y\n\n',
            b'\n',
            id='two threads in one line',
        ),
        pytest.param(
            b'terminate' + begins(A) + b' called' + ends(A) + b'\n',
            *2 * [b'terminate called\n'],
            id='marks within a line',
        ),
        pytest.param(b'a \0 zero\n' + b'x' * 5000, *2 * [b'a \0 zero\n' + b'x' * 5000], id='zero'),
        pytest.param(b'libpng warning: cut', b'libpng warning: cut', b'', id='cut off by a crash'),
    ],
)
def test_messages_are_named_or_dropped_for_any_split_of_the_bytes(data, named, quiet, step):
    assert filtered(data, False, step) == named
    assert filtered(data, True, step) == quiet


@pytest.mark.parametrize('prefix', PREFIXES)
def test_each_kind_of_message_is_recognised(prefix):
    assert filtered(begins(A) + prefix + b'more\n', False, 9) == b'a.png: ' + prefix + b'more\n'


# --------------------------------------------------------------------- messages of decoders


def with_bad_chunk(png: bytes) -> bytes:
    """A PNG with a text chunk whose checksum is wrong: libpng warns and decodes the image."""
    body = b'tEXta\0b'
    crc = struct.pack('>I', zlib.crc32(body) ^ 1)
    return png[:33] + struct.pack('>I', len(body) - 4) + body + crc + png[33:]


def with_rubbish(jpeg: bytes) -> bytes:
    """A JPEG with extraneous bytes before its end marker: libjpeg warns and decodes the image."""
    return jpeg[:-2] + bytes(30) + jpeg[-2:]


@pytest.fixture
def warned_about(tmp_path: Path) -> list[str]:
    """Files whose decoding prints one message each."""
    png, jpeg = (cv2.imencode(s, picture(64, 48))[1].tobytes() for s in ('.png', '.jpg'))
    for name, data in (('a.png', with_bad_chunk(png)), ('b.jpg', with_rubbish(jpeg))):
        (tmp_path / name).write_bytes(data)
    return [str(tmp_path / 'a.png'), str(tmp_path / 'b.jpg')]


def decode_all(paths: Sequence[str], num_workers: int) -> None:
    with WorkerPool(num_workers) as pool:
        frames = [Frame(index, path, 'name') for index, path in enumerate(paths)]
        images = list(pool.map(lambda frame: read_image(frame, LoadImage()), frames, 8))
    assert len(images) == len(paths)


def test_a_message_has_the_name_of_its_image(warned_about, capfd):
    with native_messages():
        decode_all(warned_about, 0)
    png, jpeg = warned_about
    one, other = capfd.readouterr().err.splitlines()
    assert one == f'{png}: libpng warning: tEXt: CRC error'
    assert re.fullmatch(f'{re.escape(jpeg)}: Corrupt JPEG data: .* before marker 0xd9', other)


def test_messages_of_threads_have_the_names_of_their_images(warned_about, capfd):
    png, _ = warned_about
    with native_messages():
        decode_all(8 * [png], 3)
    lines = capfd.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith(f'{png}: libpng warning: ') for line in lines)
    assert sum(line.count('tEXt') for line in lines) == 8


def test_a_quiet_run_has_no_messages(warned_about, capfd):
    with native_messages(quiet=True):
        decode_all(4 * warned_about, 3)
        os.write(2, b'something else\n')
    assert capfd.readouterr().err == 'something else\n'


def test_afterwards_stderr_is_as_before(warned_about, capfd):
    before, stream = len(os.listdir('/proc/self/fd')), sys.stderr
    with native_messages():
        pass
    assert sys.stderr is stream
    assert len(os.listdir('/proc/self/fd')) == before
    decode_all(warned_about[:1], 0)
    assert capfd.readouterr().err == 'libpng warning: tEXt: CRC error\n'


def test_if_no_process_can_be_started_messages_are_unchanged(warned_about, capfd, monkeypatch):
    monkeypatch.setattr(sys, 'executable', '/nowhere/python')
    with native_messages(quiet=True):
        decode_all(warned_about[:1], 0)
    assert capfd.readouterr().err == 'libpng warning: tEXt: CRC error\n'


# ------------------------------------------------------------------------- other processes


def run_script(body: str, **options: object) -> subprocess.CompletedProcess:
    """Run a script that ends within the context manager, or after it."""
    code = f'import os, signal, sys\nfrom mmpose_batch.images.native_messages import *\n{body}'
    return subprocess.run(
        [sys.executable, '-c', code], stderr=subprocess.PIPE, timeout=120, check=False, **options
    )


def test_the_last_messages_before_a_crash_are_printed():
    done = run_script(
        'with native_messages(quiet=True):\n'
        '    os.write(2, b"terminate called")\n'
        '    os.kill(os.getpid(), signal.SIGKILL)\n'
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == b'terminate called'


def test_a_traceback_is_printed():
    done = run_script('with native_messages(quiet=True):\n    raise LookupError("why")\n')
    assert done.returncode == 1
    assert done.stderr.endswith(b'LookupError: why\n')


def test_python_still_writes_to_the_terminal_directly():
    main, terminal = os.openpty()
    done = subprocess.run(
        [
            *(sys.executable, '-c'),
            'import sys\nfrom mmpose_batch.images.native_messages import native_messages\n'
            'with native_messages():\n'
            '    print(sys.stderr.isatty(), sys.stderr.line_buffering, file=sys.stderr)',
        ],
        stderr=terminal,
        timeout=120,
        check=False,
    )
    os.close(terminal)
    assert done.returncode == 0
    assert os.read(main, 100).split() == [b'True', b'True']
    os.close(main)


def test_a_run_does_not_wait_for_its_remaining_child_processes():
    done = run_script(
        'import subprocess\n'
        'with native_messages():\n'
        '    left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)\n'
        'os.write(2, b"after")\n'
        'left.stdin.close()\n'
    )
    assert done.returncode == 0
    assert b'after' in done.stderr


@pytest.mark.parametrize('descriptor', ['2', '0', '1'])
def test_closed_descriptors_are_not_an_error(descriptor):
    done = run_script(
        f'os.close({descriptor})\nwith native_messages():\n    os.write(2, b"x\\n")\n'
        if descriptor != '2'
        else 'os.close(2)\nwith native_messages():\n    pass\n'
    )
    assert done.returncode == 0
