"""A run on a Ray cluster: inputs, inferencer, driver, and what is left in the output folder."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

from ..config import VideoOptions
from ..errors import RunError
from ..factory import Plan
from ..memory import peak_resident
from ..postprocess.tracking import import_trackers
from ..progress import format_duration
from ..runs.identity import check_same
from ..sources.containers import import_av
from ..sources.folders import Skipped
from ..sources.items import CHUNK
from .actor import ChunkActor, Work
from .driver import Driver, Progress, import_ray, short
from .files import ClusterFolder
from .inputs import Inputs, list_paths, read_inputs, write_inputs
from .options import RayOptions
from .outputs import (
    FAILURES,
    count_failures,
    merge,
    read_info,
    write_info,
)
from .prepare import Preparation, Prepared

# Module that registers a file backend; see there.
_REMOTE_IMAGES = 'mmpose_batch.cluster.remote_images'


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a run has done.

    Attributes:
        inputs: The inputs.
        progress: What this start of the run has done.
        failures: Number of failure records, including those of earlier starts.
        seconds: Seconds from the first chunk to the last of this start.
    """

    inputs: Inputs
    progress: Progress
    failures: int
    seconds: float

    def lines(self) -> Iterator[str]:
        """The closing summary, in lines."""
        inputs, counts = self.inputs, self.progress.counts
        if inputs.images or not inputs.videos:
            yield f'images    {inputs.images}'
        if inputs.videos:
            yield f'videos    {inputs.videos}'
        yield f'results   {counts.results} by the workers of this start, {counts.persons} persons'
        yield f'failures  {self.failures}' + (f', see {FAILURES}/' if self.failures else '')
        if counts.results and self.seconds:
            rate = counts.results / self.seconds
            yield f'speed     {rate:.2f} images and frames/s in {format_duration(self.seconds)}'


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Inputs of a run that have been found and are not written yet.

    Attributes:
        arguments: What they are listed from, as JSON values.
        paths: Absolute paths and URLs, which are listed when they are iterated.
        skipped: Files that are not used, once the paths have been iterated.
    """

    arguments: dict[str, Any]
    paths: Iterator[str]
    skipped: Skipped


def find_inputs(
    folder: ClusterFolder,
    given: Sequence[str],
    options: RayOptions,
    recursive: bool = True,
    follow_links: bool = False,
) -> Listing:
    """Find the inputs, or check that an earlier start has listed the same; nothing is written.

    Args:
        folder: The output folder.
        given: Folders, files, globs, URLs and ``@`` list files.
        options: Options of the run.
        recursive: Whether to list subfolders.
        follow_links: Whether to follow links to folders.

    Raises:
        RunError: There are none, or the earlier start had others.
        SourceError: A path matches nothing.
        OSError: A list cannot be read.
    """
    arguments = {
        'inputs': list(given),
        'recursive': recursive,
        'follow_links': follow_links,
        'limit': options.limit,
        'chunk': CHUNK,
    }
    skipped = Skipped()
    paths = list_paths(given, recursive, follow_links, skipped, options.limit)
    found = read_inputs(folder)
    if found is not None:
        check_same(found.arguments, arguments, complete=False)
    else:
        first = next(paths, None)
        if first is None:
            raise RunError(f'no images or videos in {", ".join(given)}')
        paths = chain((first,), paths)
    return Listing(arguments=arguments, paths=paths, skipped=skipped)


def list_inputs(folder: ClusterFolder, listing: Listing) -> tuple[Inputs, list[str]]:
    """The inputs of a run, which are listed at its first start only; and lines about them.

    Args:
        folder: The output folder.
        listing: The inputs.

    Raises:
        RunError: The first start had other inputs.
        SourceError: A path matches nothing.
        OSError: The list cannot be read or written.
    """
    found = read_inputs(folder)
    if found is not None:
        check_same(found.arguments, listing.arguments, complete=False)
        return found, []
    found = write_inputs(folder, listing.paths, CHUNK, listing.arguments)
    return found, [str(listing.skipped)] if listing.skipped else []


def check_videos(inputs: Inputs, video: VideoOptions) -> list[str]:
    """Check that options and videos fit together; returns lines to print.

    Raises:
        ValueError, TrackingError: A package is not installed.
    """
    if not inputs.videos:
        no_effect = video != VideoOptions()
        names = '--vid-stride, --start, --end and --track'
        return [f'{names} have no effect: there are no videos'] if no_effect else []
    import_av()
    if video.track:
        import_trackers()
    return []


def plan_for_workers(plan: Plan, inputs: Inputs, options: RayOptions) -> Plan:
    """The plan of an inferencer as the workers of a cluster build it.

    Numbers of threads are those of the CPUs of a worker, and images of other file systems are read
    by fsspec.
    """
    settings = {**plan.settings, 'on_error': 'record'}
    for name in ('num_threads', 'num_workers'):
        if settings.get(name) is None:
            settings[name] = options.threads
    if settings.get('device') is None:
        settings['device'] = 'cuda:0' if options.num_gpus else 'cpu'
    if inputs.remote:
        custom = plan.cfg.get('custom_imports') or {'imports': [], 'allow_failed_imports': False}
        imports = custom['imports']
        imports = [imports] if isinstance(imports, str) else list(imports)
        plan.cfg['custom_imports'] = {**custom, 'imports': [*imports, _REMOTE_IMAGES]}
    return replace(plan, settings=settings)


def prepare(preparation: Preparation, options: RayOptions) -> Prepared:
    """Build the inferencer once, and select engines; on a worker if workers have GPUs.

    Raises:
        RunError: This kills the worker.
        Exception: Any exception of the inferencer.
    """
    if not options.num_gpus:
        return preparation()
    ray = import_ray()
    resources = {'num_gpus': options.num_gpus, 'num_cpus': options.num_cpus}
    remote = ray.remote(**resources, max_retries=1, max_calls=1)(Preparation.__call__)
    try:
        return ray.get(remote.remote(preparation))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise RunError(f'a worker cannot build the inferencer: {short(error)}') from error


def run(
    prepared: Prepared,
    inputs: Inputs,
    options: RayOptions,
    actor: type = ChunkActor,
) -> Summary:
    """Infer all chunks that are missing, on the cluster that this process is connected to.

    Raises:
        RunError: The output folder contains another run, or chunks cannot be computed.
        OSError: A file cannot be written.
    """
    folder = ClusterFolder(options.out_dir)
    info = read_info(folder)
    identity = {
        **prepared.identity,
        'inputs': inputs.digest,
        'chunk': inputs.chunk,
        'parquet': options.parquet,
    }
    if info is not None:
        check_same(info['identity'], identity, complete=False)
    about = {'identity': identity, 'selected': prepared.selected, 'options': asdict(options)}
    write_info(folder, status='running', **about)
    work = Work(
        folder=folder,
        inputs=inputs,
        setup=import_ray().put(prepared.setup),
        model=prepared.model if options.parquet else None,
        timeout=options.timeout_per_chunk,
    )
    start = time.perf_counter()
    progress = Driver(work, options, actor)()
    seconds = time.perf_counter() - start
    if options.merge:
        merge(folder, inputs)
    summary = Summary(
        inputs=inputs, progress=progress, failures=count_failures(folder), seconds=seconds
    )
    write_info(
        folder,
        status='finished',
        **about,
        counts={'images': inputs.images, 'videos': inputs.videos, 'failures': summary.failures},
        last_start={**asdict(progress.counts), 'passes': progress.passes, 'seconds': seconds},
        driver_peak_resident_bytes=peak_resident(),
    )
    return summary
