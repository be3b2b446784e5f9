"""Peak memory does not depend on the number of images of a run."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
from support.factories import TOOLS, Models
from support.fidelity import synthetic_image

from mmpose_batch import memory
from mmpose_batch.memory import STATUS

FIRST, COUNT = 300, 2000
LARGE = 400  # a hundred more than in the first measurement
# Maximum growth of peak resident memory from the first images to all, 6 kB per image.
GROWTH = 1.02

# Runs a tool, and writes the peak memory of its process after some records and at its end. (It
# is a separate program, since Linux reports at least the parent's peak for a child.)
WRAPPER = """
import atexit, pathlib, runpy, sys
from mmpose_batch.memory import peak_resident
from mmpose_batch.writers.jsonl import JsonLinesFile
_, out, first, *sys.argv = sys.argv
append, peaks = JsonLinesFile.append, []

def counted(writer, record):
    append(writer, record)
    peaks.append(peak_resident() if len(peaks) == int(first) else None)

JsonLinesFile.append = counted
atexit.register(lambda: pathlib.Path(out).write_text(f'{peaks[int(first)]} {peak_resident()}'))
sys.path.insert(0, sys.argv[0].rpartition('/')[0])
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def peak_memory(arguments: list[str], folder: Path) -> tuple[int, int]:
    """Peak resident memory of the tool, in bytes, after the first images and after all."""
    out = folder / 'peak'
    tool = str(TOOLS / 'batch_infer.py')
    subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', WRAPPER, str(out), str(FIRST), tool, *arguments],
        stdout=subprocess.DEVNULL,
        # Networks this small get slower with several threads.
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        check=True,
    )
    first, all_of_them = map(int, out.read_text().split())
    return first, all_of_them


def photo_folder(folder: Path) -> Path:
    """Photos of several sizes, links to a few files: large ones first, then small ones.

    The large ones reveal images that stay in memory; the few bytes that might stay of each
    record are revealed by many images of any size.
    """
    folder.mkdir()
    sizes = ((640, 480), (480, 640), (640, 427), (500, 375))
    for number in range(COUNT):
        scale, start = (1, 0) if number < LARGE else (4, LARGE)
        path = folder / f'{number:05}.jpg'
        if number - start < len(sizes):
            width, height = sizes[number - start]
            image = synthetic_image(width // scale, height // scale, number)
            cv2.imwrite(str(path), image)
        else:
            os.link(folder / f'{start + (number - start) % len(sizes):05}.jpg', path)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(
    not STATUS.exists() or 'VmHWM' not in STATUS.read_text(),
    reason='asks Linux for the memory of a process',
)
@pytest.mark.parametrize(
    'kind',
    [
        pytest.param(kind, marks=pytest.mark.xdist_group(f'memory {kind}'))
        for kind in ('one_stage', 'top_down')
    ],
)
def test_peak_memory_does_not_grow_with_images(kind: str, models: Models, tmp_path: Path) -> None:
    photos = photo_folder(tmp_path / 'photos')
    out = tmp_path / 'out'
    first, peak = peak_memory(
        [str(photos), '--out-dir', str(out), '--quiet', *getattr(models, kind)], tmp_path
    )
    assert len((out / 'predictions.jsonl').read_text().splitlines()) == COUNT
    print(f'{kind}: peak {first / 2**20:.0f} MiB on {FIRST}, {peak / 2**20:.0f} on {COUNT}')
    assert peak <= GROWTH * first


def test_a_small_child_of_a_large_process_reports_little():
    large = bytearray(200 * 2**20)
    large[::4096] = b'x' * len(large[::4096])  # every page is in memory
    code = f'import runpy; print(runpy.run_path({memory.__file__!r})["peak_resident"]())'
    peak = int(subprocess.check_output([sys.executable, '-c', code]))
    assert memory.peak_resident() > len(large)
    assert 2**20 < peak < 100 * 2**20


@pytest.mark.parametrize(('platform', 'unit'), [('linux', 1024), ('darwin', 1)])
def test_without_proc_the_peak_is_read_from_the_system(platform, unit, tmp_path, monkeypatch):
    usage = SimpleNamespace(ru_maxrss=5000)
    monkeypatch.setattr(memory, 'STATUS', tmp_path / 'status')
    monkeypatch.setattr(memory.sys, 'platform', platform)
    monkeypatch.setattr(memory.resource, 'getrusage', lambda who: usage)
    assert memory.peak_resident() == 5000 * unit
