"""The package needs no features that only Linux has."""

import json
import os
import subprocess
import sys

from support.factories import TOOLS, write_photos

# Hides features that Windows or macOS lack from this package, but not from its dependencies, and
# then runs a tool with the given arguments.
HIDE = """
import builtins, io, os, pathlib, runpy, signal, sys
import filelock._native  # the library chooses its implementation for the system on import
import mmpose_batch  # stands in for torchvision, which MMPose imports
import mmengine, mmpose.apis.inferencers, mmdet.apis, orjson, rich.progress, loky
from mmpose.registry import INFERENCERS

UNIX_ONLY = {'fcntl', 'grp', 'pty', 'pwd', 'resource', 'syslog', 'termios', 'tty'}
NAMES = (
    *('sched_getaffinity', 'sched_setaffinity', 'fork', 'getuid', 'geteuid', 'getgid', 'getppid'),
    *('killpg', 'setsid', 'getpgid', 'uname', 'statvfs', 'getloadavg', 'sysconf', 'chown'),
    *('mkfifo', 'O_DIRECTORY', 'O_NOFOLLOW', 'O_CLOEXEC', 'posix_fadvise', 'sendfile', 'pread'),
)
hidden = []


def is_ours(depth):
    name = sys._getframe(depth).f_globals.get('__name__', '')
    return name.partition('.')[0] in ('mmpose_batch', 'console', '__main__')


def importing(name, *more, import_=builtins.__import__, **kinds):
    if name.partition('.')[0] in UNIX_ONLY and is_ours(2):
        hidden.append(name)
        raise ImportError(f'no module named {name}')
    return import_(name, *more, **kinds)


def opening(file, flags, *more, open_=os.open, **kinds):
    if os.path.isdir(file) and is_ours(2):
        raise PermissionError(13, 'Permission denied', file)  # as on Windows
    return open_(file, flags, *more, **kinds)


for module in [name for name in sys.modules if name.partition('.')[0] == 'mmpose_batch']:
    del sys.modules[module]
del INFERENCERS.module_dict['BatchPose2DInferencer']
for name in UNIX_ONLY:
    sys.modules.pop(name, None)
for name in NAMES:
    if hasattr(os, name):
        delattr(os, name)
for name in ('SIGKILL', 'SIGHUP', 'SIGUSR1', 'SIGALRM', 'SIGQUIT', 'setitimer', 'alarm'):
    delattr(signal, name)
builtins.__import__ = importing
os.open = opening
exists = pathlib.Path.exists
pathlib.Path.exists = lambda path, **kinds: not str(path).startswith('/proc') and exists(path)
import mmpose_batch.memory, mmpose_batch.scenes.dataset
assert 'resource' in hidden, 'nothing was hidden'
mmpose_batch.memory.peak_resident()
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_a_run_needs_nothing_that_only_linux_has(tmp_path):
    write_photos(tmp_path / 'photos', 2)
    command = [TOOLS / 'batch_infer.py', tmp_path / 'photos', '--out-dir', tmp_path / 'out']
    more = ['--pose2d', 'demo', '--save-vis', '--format', 'json', 'coco', '--num-threads', '1']
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', HIDE, *map(str, command), *more],
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / 'out' / 'run.json').read_text())['status'] == 'finished'
    assert len((tmp_path / 'out' / 'predictions.jsonl').read_text().splitlines()) == 2
