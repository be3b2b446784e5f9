"""Options of a run in several processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from numbers import Real

from ..declare import option


def check_timeout(seconds: float | None) -> None:
    """Check the option ``timeout_per_chunk``.

    Raises:
        ValueError: It is not a number of seconds above 0, or None.
    """
    is_number = isinstance(seconds, Real) and not isinstance(seconds, bool)
    if seconds is not None and not (is_number and 0 < seconds < inf):
        raise ValueError(f'timeout_per_chunk: expected seconds above 0, found {seconds!r}')


def _check_name(device: str) -> None:
    """Check the name of a device, with the message that the option ``device`` gives.

    Raises:
        ValueError: PyTorch has no such device.
    """
    import torch  # takes seconds, which --help should not need

    from ..models.checks.fields import naming

    with naming(f'device: {device or repr(device)} cannot be used'):
        torch.device(device)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelOptions:
    """Options of a run in several processes.

    Attributes:
        devices: Devices, each with processes of its own: ``cuda:0``, ``cuda:1``, or ``cpu``, which
            may be repeated. They must be of one kind, so that results do not depend on which of
            them infers an image. None runs in the process of the run, on ``device``.
        workers_per_device: Number of processes for each device.
        timeout_per_chunk: Seconds after which a process that has not completed a chunk (up to 256
            images or frames) is ended and its chunk is tried again; None for no limit.

    Raises:
        ValueError: An option is out of range, or has no effect, or a device does not exist.
    """

    devices: Sequence[str] | None = option(
        None,
        'infer in processes of their own, one for each of these devices: cuda:0 cuda:1, or cpu '
        'cpu. A process that dies is replaced, and the file that kills it becomes a failure record',
        metavar='DEVICE',
    )
    workers_per_device: int = option(
        1, 'processes for each of the --devices (default: %(default)s)', metavar='N', minimum=1
    )
    timeout_per_chunk: float | None = option(
        None,
        'end and replace a process of --devices that has not completed a chunk (up to 256 images '
        'or frames) within this time (default: no limit)',
        metavar='SECONDS',
    )

    def __post_init__(self) -> None:
        count, seconds = self.workers_per_device, self.timeout_per_chunk
        if type(count) is not int or count < 1:
            raise ValueError(f'workers_per_device: expected an integer >= 1, found {count!r}')
        check_timeout(seconds)
        if self.devices is None:
            if count != 1 or seconds is not None:
                name = 'timeout_per_chunk' if count == 1 else 'workers_per_device'
                raise ValueError(f'{name}: only valid with devices')
            return
        names = [] if isinstance(self.devices, str) else self.devices
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f'devices: expected a list of devices, found {self.devices!r}')
        for name in names:
            _check_name(name)
        if len(kinds := {name.split(':')[0] for name in self.devices}) > 1:
            raise ValueError(
                'devices: expected devices of one kind, since results would depend on which of '
                f'them infers an image, found {" and ".join(sorted(kinds))}'
            )

    @property
    def workers(self) -> tuple[str, ...]:
        """Device of each process; empty if the process of the run infers."""
        return tuple(self.devices or ()) * self.workers_per_device
