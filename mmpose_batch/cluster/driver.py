"""The driver of a run on a Ray cluster: which chunks are missing, and who infers them.

A pass is one Ray Data job over the chunks that are not done. Ray replaces an actor that dies and
repeats what it was working on, once; what kills two actors is left out of the job, without an
error. The next pass gives these chunks to actors that infer in a process of their own and find the
file that kills it. Which chunks are done is known from the files in the output folder alone, so a
driver that is killed and started again continues there.
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from ..sources.base import chunk_name
from .actor import ChunkActor, Work
from .inputs import read_offsets
from .options import RayOptions
from .outputs import Counts, missing_chunks, missing_videos

if TYPE_CHECKING:
    import numpy as np

# Passes: the first in the processes of the actors, the others isolated.
PASSES = 3
# Chunks in a Ray Data job; more are given to further jobs, since Ray's memory grows with them.
JOB = 50_000
_COLOURS = re.compile(r'\x1b\[[0-9;]*m')
# Chunks in a task of a large job.
TASK = 16


def import_ray() -> Any:
    """Import Ray Data; Ray sends no usage statistics unless the user has enabled them.

    Raises:
        RunError: It is not installed. The message is one line.
    """
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RunError(
            f"ray: Ray Data is not installed: pip install 'mmpose-batch[ray]' ({error})"
        ) from error
    return ray


def connect(options: RayOptions, **settings: Any) -> None:
    """Connect to a cluster, or start one on this machine.

    Raises:
        RunError: There is no such cluster.
    """
    ray = import_ray()
    if options.quiet:
        settings = {'logging_level': logging.ERROR, 'log_to_driver': False, **settings}
        logging.getLogger('ray.data').setLevel(logging.CRITICAL)
    try:
        ray.init(address=options.address, **settings)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, ImportError) as error:
        raise RunError(
            f'address: cannot connect to {options.address}: {short(error)}; --address local '
            'starts a cluster on this machine'
        ) from error


def short(error: BaseException) -> str:
    """An error of Ray in one line, without the traceback and colours that may be in its text."""
    lines = _COLOURS.sub('', str(error)).splitlines()
    return next(filter(None, map(str.strip, lines)), type(error).__name__)


def check_resources(options: RayOptions) -> str | None:
    """A warning if no node of the cluster has the resources of a worker now.

    Raises:
        ValueError: It is a cluster on this machine, to which no node is added.
    """
    wanted = {'CPU': options.num_cpus, 'GPU': options.num_gpus}
    nodes = [node['Resources'] for node in import_ray().nodes() if node['Alive']]
    if any(all(node.get(k, 0) >= v for k, v in wanted.items()) for node in nodes):
        return None
    text = f'no node has {options.num_cpus:g} CPUs and {options.num_gpus:g} GPUs for a worker'
    if options.address == 'local':
        raise ValueError(text)
    return f'{text}; waiting for one to be added'


@dataclass(slots=True)
class Progress:
    """Progress of a run.

    Attributes:
        counts: Counts of the results of this run.
        rows: Number of chunks of images and of videos that this run has done.
        errors: Why chunks could not be computed, in the current pass.
        passes: Number of passes.
    """

    counts: Counts = field(default_factory=Counts)
    rows: int = 0
    errors: list[str] = field(default_factory=list)
    passes: int = 0


class Driver:
    """Has the missing chunks of a run computed.

    Args:
        work: What actors share.
        options: Options of the run.
        actor: Class of the actors; another one measures the driver alone.
    """

    def __init__(self, work: Work, options: RayOptions, actor: type = ChunkActor) -> None:
        self._work = work
        self._options = options
        self._actor = actor
        self.progress = Progress()

    def __call__(self) -> Progress:
        """Compute all chunks that are missing.

        Raises:
            RunError: Some cannot be computed.
        """
        offsets = read_offsets(self._work.folder)
        for number in range(PASSES):
            jobs = self._jobs(offsets)
            first = next(jobs, None)
            if first is None:
                return self.progress
            self.progress.errors = []
            self.progress.passes = number + 1
            if number == 1:
                self._say(
                    'the workers of some chunks died: looking for the files that kill them, each '
                    'in a process of its own'
                )
            work = replace(self._work, isolated=number > 0)
            self._run(first, work)
            for rows in jobs:
                self._run(rows, work)
        self._check_complete(offsets)
        return self.progress

    def _check_complete(self, offsets: 'np.ndarray') -> None:
        """Raise an error if chunks are missing after the last pass."""
        rows = self._rows(offsets)
        some = [_row_name(row) for row in islice(rows, 5)]
        if not some:
            return
        count = len(some) + sum(1 for _ in rows)
        errors = self.progress.errors
        raise RunError(
            f'{count} chunks are not computed ({", ".join(some)}{", ..." if count > 5 else ""}), '
            f'since {errors[-1] if errors else "their workers died"}; start again to compute them'
        )

    def _say(self, text: str) -> None:
        if not self._options.quiet:
            print(text, file=sys.stderr, flush=True)

    def _jobs(self, offsets: 'np.ndarray') -> Iterator[list[dict[str, int]]]:
        """Rows of the chunks that are missing, those of videos last."""
        rows = self._rows(offsets)
        while job := list(islice(rows, JOB)):
            yield job

    def _rows(self, offsets: 'np.ndarray') -> Iterator[dict[str, int]]:
        folder, inputs = self._work.folder, self._work.inputs
        for number in missing_chunks(folder, inputs):
            start, end = offsets[number].tolist()
            yield {'video': -1, 'number': number, 'start': start, 'end': end}
        for video in missing_videos(folder, inputs):
            yield {'video': video, 'number': 0, 'start': 0, 'end': 0}

    def _run(self, rows: list[dict[str, int]], work: Work) -> None:
        """Run one job.

        Raises:
            RunError: An error concerns all chunks, or too many fail.
        """
        most = max(3, len(rows) // 1000)
        progress = self.progress
        for found in job(rows, self._actor, work, self._options):
            if found['error']:
                progress.errors.append(found['error'])
                if found['is_fatal']:
                    raise RunError(found['error'])
                if len(progress.errors) > most:
                    raise RunError(
                        f'{len(progress.errors)} chunks cannot be computed; the last: '
                        f'{found["error"]}'
                    )
                continue
            progress.rows += 1
            progress.counts += Counts(
                *(int(found[name]) for name in ('results', 'persons', 'failures'))
            )


def job(
    rows: list[dict[str, int]], actor: type, work: Work, options: RayOptions
) -> Iterator[dict[str, Any]]:
    """Run a Ray Data job, and yield what the actors return, in any order.

    Args:
        rows: One row per chunk.
        actor: Class of the actors.
        work: What they share.
        options: Options of the run.

    Raises:
        RunError: Too many tasks are lost by deaths of actors, or these cannot be started.
    """
    ray = import_ray()
    context = ray.data.DataContext.get_current()
    before = context.max_errored_blocks, context.enable_progress_bars
    # A task of several chunks costs the driver less, but is lost as a whole by two deaths.
    tasks = max(len(rows) // TASK, min(len(rows), 64 * options.workers[1]))
    deaths = max(16, tasks // 100)  # more mean broken hardware, or too little memory
    context.max_errored_blocks = deaths
    context.enable_progress_bars = not options.quiet
    try:
        dataset = _dataset(rows, tasks, actor, work, options)
        for batch in dataset.iter_batches(
            batch_size=None, batch_format='numpy', prefetch_batches=0
        ):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))
    except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError) as error:
        raise RunError(
            f'workers cannot start, or more than {deaths} of {tasks} tasks have lost theirs '
            f'twice (is there enough memory?): {short(error)}'
        ) from error
    except ray.exceptions.RayError as error:
        raise RunError(f'Ray: {short(error)}') from error
    finally:
        context.max_errored_blocks, context.enable_progress_bars = before


def _dataset(
    rows: list[dict[str, int]], tasks: int, actor: type, work: Work, options: RayOptions
) -> Any:
    """The dataset of a job, in which nothing has run yet."""
    ray = import_ray()
    least, most = options.workers
    actors = ray.data.ActorPoolStrategy(
        min_size=min(least, len(rows)),
        max_size=min(most, len(rows)),
        max_tasks_in_flight_per_actor=2,  # with 1, Ray never scales up
    )
    with warnings.catch_warnings(action='ignore'):  # Ray has no other way to set the last two yet
        return ray.data.from_items(rows, override_num_blocks=tasks).map(
            actor,
            fn_constructor_args=(work,),
            compute=actors,
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus or None,
            max_restarts=-1,
            max_task_retries=1,  # by default, Ray repeats what kills its actor forever
        )


def _row_name(row: dict[str, int]) -> str:
    return f'video {row["video"]}' if row['video'] >= 0 else chunk_name(row['number'])
