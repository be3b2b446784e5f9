"""Options of a run on a Ray cluster."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass

from ..declare import option
from ..distributed.options import check_timeout


@dataclass(frozen=True, kw_only=True, slots=True)
class RayOptions:
    """Options of a run on a Ray cluster.

    Attributes:
        out_dir: Path or URL of the output folder, which every node sees.
        address: Address of the cluster.
        workers: Minimum and maximum number of workers.
        num_gpus: GPUs for each worker.
        num_cpus: CPUs for each worker.
        timeout_per_chunk: Seconds after which a chunk counts as hanging; None for never.
        parquet: Whether to write Parquet tables.
        merge: Whether to write ``predictions.jsonl`` at the end.
        limit: Maximum number of inputs.
        quiet: Whether to print nothing but errors.

    Raises:
        ValueError: A value is out of range.
    """

    out_dir: str = option(
        MISSING,
        'folder for all results that every node sees: a path, or a URL such as s3://bucket/poses',
        metavar='DIR',
    )
    address: str = option(
        'auto',
        'Ray cluster: auto, the one that this machine is part of; local, one on this machine that '
        'ends with the run; or its address, such as ray://host:10001 (default: auto)',
        metavar='ADDRESS',
    )
    workers: Sequence[int] = option(
        (1, 4),
        'minimum and maximum number of workers, between which Ray scales (default: 1 4)',
        metavar='N',
    )
    num_gpus: float = option(
        0, 'GPUs for each worker; a fraction shares one (default: 0)', metavar='N'
    )
    num_cpus: float = option(
        1,
        'CPUs for each worker, also the default of --num-threads and --num-workers (default: 1)',
        metavar='N',
    )
    timeout_per_chunk: float | None = option(
        None,
        'end and replace a worker that has not completed a chunk (up to 256 images or frames) '
        'within this time (default: no limit)',
        metavar='SECONDS',
    )
    parquet: bool = option(True, 'write Parquet tables (default: yes)')
    merge: bool = option(
        False,
        'at the end, also write predictions.jsonl and failures.jsonl, in the order of the inputs',
    )
    limit: int | None = option(
        None, 'process only the first N inputs; a video counts as one', metavar='N', minimum=1
    )
    quiet: bool = option(False, 'print only errors')

    def __post_init__(self) -> None:
        if len(self.workers) != 2 or not 1 <= self.workers[0] <= self.workers[1]:
            found = ' '.join(map(str, self.workers))
            raise ValueError(f'workers: expected MIN MAX, 1 <= MIN <= MAX, found {found}')
        if self.num_gpus < 0 or (self.num_gpus > 1 and self.num_gpus % 1):
            raise ValueError(
                f'num_gpus: expected an integer, or a fraction below 1, found {self.num_gpus:g}'
            )
        if not self.num_cpus > 0:
            raise ValueError(f'num_cpus: expected a number above 0, found {self.num_cpus:g}')
        check_timeout(self.timeout_per_chunk)

    @property
    def threads(self) -> int:
        """Threads of each worker, unless another number is given."""
        return max(1, int(self.num_cpus))
