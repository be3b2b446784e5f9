"""The phases of the selection of an engine, and its result."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .verification import Difference, Samples


class Phase(Enum):
    """Phase of the selection of an engine."""

    NEW = 'new'  # no batch has run
    SAMPLING = 'sampling'  # PyTorch computes the batches with which engines are verified
    SELECTED = 'selected'  # the engine computes all batches


_NEXT = {
    Phase.NEW: (Phase.SAMPLING, Phase.SELECTED),
    Phase.SAMPLING: (Phase.NEW, Phase.SELECTED),
    Phase.SELECTED: (Phase.SELECTED,),  # to add a batch size that is measured later
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The engine selected for a network; ``run.json`` stores it, a resumed run restores it.

    Attributes:
        engine: Name of the engine.
        precision: Precision of the engine.
        description: Library, version and device.
        parallel: Number of batches that run concurrently.
        file: Key of the external ONNX file, if there is one.
        calibration: Key of the inputs that int8 was calibrated with.
        calibrated_with: Number of these inputs.
        self_check: Difference of the outputs from PyTorch's; None if they were not compared.
        seconds_of_a_batch: Seconds per batch that ``auto`` measured, for each engine.
        batch_size: Inputs per batch, if that was measured or restored.
        instances_per_second: Instances per second for each measured batch size.
    """

    engine: str
    precision: str
    description: str = ''
    parallel: int = 1
    file: str | None = None
    calibration: str | None = None
    calibrated_with: int | None = None
    self_check: Difference | None = None
    seconds_of_a_batch: Mapping[str, float] | None = None
    batch_size: int | None = None
    instances_per_second: Mapping[int, float] | None = None

    def report(self) -> dict[str, Any]:
        """Return all fields that are set, in the format of ``run.json``."""
        values = {
            'engine': self.engine,
            'precision': self.precision,
            'file': self.file,
            'calibrated_with': self.calibrated_with,
            'calibration': self.calibration,
            'self_check': self.self_check and self.self_check.as_dict(),
            'seconds_of_a_batch': self.seconds_of_a_batch and dict(self.seconds_of_a_batch),
            'description': self.description,
            'batch_size': None if self.instances_per_second is None else self.batch_size,
            'instances_per_second': self.instances_per_second and dict(self.instances_per_second),
        }
        return {key: value for key, value in values.items() if value is not None}

    def __str__(self) -> str:
        parts = [f'{self.description}, {self.precision}']
        if self.seconds_of_a_batch:
            times = (f'{name} {value:.3f}' for name, value in self.seconds_of_a_batch.items())
            parts.append(f'fastest (seconds per batch: {", ".join(times)})')
        if self.self_check is not None:
            parts.append(str(self.self_check))
        return '; '.join(parts)


@dataclass(frozen=True, slots=True)
class State:
    """A phase with its data.

    Attributes:
        phase: The phase.
        samples: Batches that were sampled so far, in SAMPLING.
        selection: The selection, in SELECTED.
    """

    phase: Phase = Phase.NEW
    samples: Samples | None = None
    selection: Selection | None = None

    def to(
        self, phase: Phase, samples: Samples | None = None, selection: Selection | None = None
    ) -> 'State':
        """Return the state after a transition; states change in no other way.

        Raises:
            ValueError: The transition is not allowed, or the data do not belong to the phase.
        """
        if phase not in _NEXT[self.phase]:
            raise ValueError(f'engine: invalid transition from {self.phase.value} to {phase.value}')
        fits = (samples is not None, selection is not None)
        if fits != (phase is Phase.SAMPLING, phase is Phase.SELECTED):
            raise ValueError(f'engine: samples or selection do not belong to phase {phase.value}')
        return State(phase, samples, selection)
