"""Memory and rate of the driver of a run on Ray, with workers that compute nothing."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..cluster.actor import Work
from ..cluster.driver import Driver
from ..cluster.files import ClusterFolder
from ..cluster.inputs import image_chunk, read_inputs, write_inputs
from ..cluster.options import RayOptions
from ..cluster.outputs import missing_chunks, records_name
from ..memory import peak_resident
from ..sources.base import CHUNK


class StubActor:
    """Reads the paths of a chunk and writes a short file of records, in place of inference."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """See :class:`mmpose_batch.cluster.actor.ChunkActor`."""
        work = self._work
        chunk = image_chunk(work.folder, work.inputs, row['number'], (row['start'], row['end']))
        records = ''.join(json.dumps({'image': frame.name}) + '\n' for frame in chunk.images)
        work.folder.write(records_name(chunk.number, chunk.video_number), records.encode())
        counts = {'results': len(chunk.images), 'persons': 0, 'failures': 0}
        return {**counts, 'error': '', 'is_fatal': False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A measured run.

    Attributes:
        paths: Number of paths.
        chunks: Number of chunks.
        list_seconds: Seconds for reading the paths and writing them for the workers.
        run_seconds: Seconds for all chunks.
        restart_seconds: Seconds in which a restarted driver finds out that nothing is missing.
        before_bytes: Resident memory of the driver before the paths are read, at most; None if
            the system does not report it.
        peak_bytes: Peak resident memory of the driver, or None.
    """

    paths: int
    chunks: int
    list_seconds: float
    run_seconds: float
    restart_seconds: float
    before_bytes: int | None
    peak_bytes: int | None

    def __str__(self) -> str:
        rate = self.chunks / self.run_seconds
        return (
            f'{self.paths} paths: listed in {self.list_seconds:.1f} s; {self.chunks} chunks in '
            f'{self.run_seconds:.1f} s, {rate:.0f}/s; nothing missing after '
            f'{self.restart_seconds:.2f} s; driver {_mebibytes(self.before_bytes)} before, '
            f'{_mebibytes(self.peak_bytes)} at its peak'
        )


def _mebibytes(count: int | None) -> str:
    return 'unknown' if count is None else f'{count / 2**20:.0f} MiB'


def synthetic_paths(count: int) -> Iterator[str]:
    """Paths as long as usual ones."""
    for number in range(count):
        yield f'/data/photos/2026/{number // 1000:06d}/image_{number:010d}.jpg'


def measure(count: int, workers: int = 2, folder: str | None = None) -> Measured:
    """Run the real driver over synthetic paths, on the cluster that this process is connected to.

    Args:
        count: Number of paths.
        workers: Number of workers.
        folder: Folder for a temporary output folder; None for the system's.
    """
    before = peak_resident()
    out_dir = tempfile.mkdtemp(prefix='mmpose_batch-', dir=folder)
    try:
        files = ClusterFolder(out_dir)
        list_seconds, inputs = _timed(lambda: write_inputs(files, synthetic_paths(count), CHUNK))
        options = RayOptions(out_dir=out_dir, workers=(workers, workers), quiet=True)
        driver = Driver(Work(folder=files, inputs=inputs, setup=None), options, StubActor)
        run_seconds, progress = _timed(driver)
        if progress.counts.results != count:
            raise RuntimeError(f'{progress.counts.results} of {count} paths were answered')
        restart_seconds, missing = _timed(
            lambda: sum(1 for _ in missing_chunks(files, read_inputs(files)))
        )
        if missing:
            raise RuntimeError(f'{missing} chunks are missing')
    finally:
        shutil.rmtree(out_dir)
    return Measured(
        paths=count,
        chunks=inputs.chunks,
        list_seconds=list_seconds,
        run_seconds=run_seconds,
        restart_seconds=restart_seconds,
        before_bytes=before,
        peak_bytes=peak_resident(),
    )


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result
