"""Memory: the peak does not depend on how many images a run has."""

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

# Peak resident memory on ten times the images, at most this much more.
GROWTH = 1.05

# Runs a tool, and writes what its process held. (As a child's, Linux tells no less than ours.)
WRAPPER = """
import atexit, pathlib, runpy, sys
from mmpose_batch.memory import peak_resident
_, out, *sys.argv = sys.argv
atexit.register(lambda: pathlib.Path(out).write_text(str(peak_resident())))
sys.path.insert(0, sys.argv[0].rpartition('/')[0])
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def peak_memory(arguments: list[str], folder: Path) -> int:
    """Peak resident memory of the tool in a process of its own, in bytes."""
    out = folder / 'peak'
    tool = str(TOOLS / 'batch_infer.py')
    subprocess.run(
        [sys.executable, '-c', WRAPPER, str(out), tool, *arguments],
        stdout=subprocess.DEVNULL,
        # For networks this small several threads cost more than they do.
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        check=True,
    )
    return int(out.read_text())


def photo_folder(folder: Path, count: int) -> Path:
    """A folder of ``count`` photos of several sizes, links to a few files."""
    folder.mkdir()
    sizes = ((640, 480), (480, 640), (640, 427), (500, 375))
    for number, (width, height) in enumerate(sizes):
        cv2.imwrite(str(folder / f'{number:05}.jpg'), synthetic_image(height, width, number))
    for number in range(len(sizes), count):
        os.link(folder / f'{number % len(sizes):05}.jpg', folder / f'{number:05}.jpg')
    return folder


@pytest.mark.slow
@pytest.mark.skipif(
    not STATUS.exists() or 'VmHWM' not in STATUS.read_text(),
    reason='asks Linux for the memory of a process',
)
@pytest.mark.parametrize('kind', ['one_stage', 'top_down'])
def test_peak_memory_on_5000_images_is_that_on_500(
    kind: str, models: Models, tmp_path: Path
) -> None:
    peaks = {}
    for count in (500, 5000):
        photos = photo_folder(tmp_path / f'photos{count}', count)
        out = tmp_path / f'out{count}'
        peaks[count] = peak_memory(
            [str(photos), '--out-dir', str(out), '--quiet', *getattr(models, kind)], tmp_path
        )
        assert len((out / 'predictions.jsonl').read_text().splitlines()) == count
    print(f'{kind}: peak {peaks[500] / 2**20:.0f} MiB on 500, {peaks[5000] / 2**20:.0f} on 5000')
    assert peaks[5000] <= GROWTH * peaks[500]


def test_a_small_child_of_a_large_process_reports_little():
    large = bytearray(200 * 2**20)
    large[::4096] = b'x' * len(large[::4096])  # every page is there
    code = f'import runpy; print(runpy.run_path({memory.__file__!r})["peak_resident"]())'
    peak = int(subprocess.check_output([sys.executable, '-c', code]))
    assert memory.peak_resident() > len(large)
    assert 2**20 < peak < 100 * 2**20


@pytest.mark.parametrize(('platform', 'unit'), [('linux', 1024), ('darwin', 1)])
def test_where_there_is_no_proc_the_peak_is_that_of_the_system(
    platform, unit, tmp_path, monkeypatch
):
    usage = SimpleNamespace(ru_maxrss=5000)
    monkeypatch.setattr(memory, 'STATUS', tmp_path / 'status')
    monkeypatch.setattr(memory.sys, 'platform', platform)
    monkeypatch.setattr(memory.resource, 'getrusage', lambda who: usage)
    assert memory.peak_resident() == 5000 * unit
